"""The story's world on this machine alone: SQLite files and brokers in memory."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from outbox import migration
from outbox.demo import billing, naive, shop
from outbox.demo.events import OrderPlaced
from outbox.demo.world import Books, DemoSettings, Direct
from outbox.settings import RouteSettings, Settings
from outbox.transports import memory
from outbox.transports.memory import MemoryBroker
from outbox.worker import open_worker
from relay.daemon import Relay, Until

ROUTE: Final = "memory"
TOPIC: Final = "shop.order"
IDLE_SECONDS: Final = 0.7
NETWORK_SECONDS: Final = 0.003
"""What a call over a network takes at most; a broker in memory answers at once."""


class MemoryWorld:
    """Relay and workers are threads of this process."""

    place = "SQLite and an in-memory broker"
    interruption = "the relay is stopped, and started again"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """Make the databases in a folder, and start what delivers; the stack ends it."""
        self.naive = _books(folder, "naive")
        self.outbox = _books(folder, "outbox")
        names = [f"demo-{shop}-{uuid.uuid4().hex}" for shop in ("naive", "outbox")]
        self._brokers = [MemoryBroker.named(name) for name in names]
        self._options = [memory.Options(broker=name) for name in names]
        self._direct = Direct([memory.publisher("naive", self._options[0], 1.0)])
        self._settings = _settings(self.outbox.shop.url, names[1])
        self._relay = Task(self._run_relay)
        self._workers = [Task(self._issue_naively), Task(self._issue)]
        for task in (self._relay, *self._workers):
            stack.callback(task.close)
        stack.callback(self.naive.close)
        stack.callback(self.outbox.close)

    def publish(self, event: OrderPlaced) -> None:
        """Publish for the shop without an outbox."""
        time.sleep(random.random() * NETWORK_SECONDS)
        self._direct.publish(event)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Keep both brokers from answering until the block ends."""
        with ExitStack() as stack:
            for broker in self._brokers:
                stack.enter_context(broker.outage())
            yield

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Stop the relay until the block ends."""
        self._relay.close()
        yield
        self._relay.restart()

    def repeat(self, count: int) -> int:
        """Store the last messages of both brokers again."""
        return min(broker.repeat(count) for broker in self._brokers)

    def finish(self) -> None:
        """Let the relay drain, and each worker work until nothing more comes."""
        self._relay.close()
        Relay(self._settings).run(until=Until.DRAINED)
        for worker in self._workers:
            worker.close()
        never = threading.Event()
        self._issue_naively(never, IDLE_SECONDS)
        self._issue(never, IDLE_SECONDS)

    def _run_relay(self, stop: threading.Event) -> None:
        Relay(self._settings).run(stop)

    def _issue_naively(self, stop: threading.Event, idle_seconds: float = float("inf")) -> None:
        subscriber = memory.subscriber("naive", self._options[0], "billing", [TOPIC])
        naive.issue_invoices(subscriber, self.naive.billing, stop, idle_seconds)

    def _issue(self, stop: threading.Event, idle_seconds: float | None = None) -> None:
        worker = open_worker(billing.consumer(self.outbox.billing), self._settings)
        worker.run(stop, idle_timeout=idle_seconds)


class Task:
    """A function in a thread of its own, which ends when its event is set."""

    def __init__(self, run: Callable[[threading.Event], None]) -> None:
        """Start it."""
        self._run = run
        self.restart()

    def restart(self) -> None:
        """Start it again, after `close`."""
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def close(self) -> None:
        """Stop it and wait for its end; raises what it raised."""
        self._stop.set()
        self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        try:
            self._run(self._stop)
        except BaseException as exc:  # noqa: BLE001  # raised again by `close`
            self._error = exc


def _settings(url: sa.URL, broker: str) -> Settings:
    route = RouteSettings.model_validate({"transport": "memory", "broker": broker})
    return DemoSettings(database_url=_text(url), source="/shop", routes={ROUTE: route})


def _books(folder: Path, name: str) -> Books:
    files = {base: folder / f"{name}-{base}.db" for base in ("shop", "billing")}
    books = Books(shop=_engine(files["shop"]), billing=_engine(files["billing"]), both=_both(files))
    shop.Base.metadata.create_all(books.shop)
    billing.Base.metadata.create_all(books.billing)
    if name == "outbox":
        for engine in (books.shop, books.billing):
            migration.upgrade(engine.url)
    return books


def _engine(file: Path) -> sa.Engine:
    engine = sa.create_engine(f"sqlite:///{file}", connect_args={"timeout": 30})
    sa.event.listen(engine, "connect", partial(_execute, ["PRAGMA journal_mode = WAL"]))
    return engine


def _both(files: dict[str, Path]) -> sa.Engine:
    engine = sa.create_engine("sqlite://", poolclass=sa.NullPool)
    attach = [f"ATTACH '{file}' AS {name}" for name, file in files.items()]
    sa.event.listen(engine, "connect", partial(_execute, attach))
    return engine


def _execute(statements: list[str], connection: Any, _record: object) -> None:
    for statement in statements:
        connection.execute(statement)


def _text(url: sa.URL) -> Any:
    return url.render_as_string(hide_password=False)
