"""What the tests of consumers share: an event, a table of effects, and a broker of lists."""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from outbox.codec import to_headers
from outbox.dead_letter import Filter, find
from outbox.envelope import Envelope, new_id
from outbox.settings import ConsumerSettings
from outbox.transport import Delivery, Message
from outbox.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from outbox.consumer import Consumer
    from outbox.dead_letter import Letter
    from outbox.settlement import Counts

TYPE = "tests.consuming.counted"
QUICK = ConsumerSettings(retry_max_seconds=0.02, max_attempts=3)


@outbox.event(TYPE, key="key")
class Counted(BaseModel):
    """Number `n` of a key."""

    key: str
    n: int


class Base(DeclarativeBase):
    """Tables of the application."""


class Effect(Base):
    """What a handler did, in the order in which it did it."""

    __tablename__ = "effect"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(1_000))
    n: Mapped[int]


def write(event: Counted, context: Any) -> None:
    """Handle an event by one insert."""
    context.session.add(Effect(key=event.key, n=event.n))


def counted(key: str, n: int, **attributes: Any) -> Envelope:
    """Return an event."""
    values: dict[str, Any] = {
        "id": new_id(),
        "source": "/tests",
        "type": TYPE,
        "time": datetime.now(UTC),
        "data": orjson.dumps({"key": key, "n": n}),
        "partition_key": key,
    }
    return Envelope(**(values | attributes))


def message(envelope: Envelope) -> Message:
    """Return an event as a broker carries it."""
    key = None if envelope.partition_key is None else envelope.partition_key.encode()
    return Message("tests", key, to_headers(envelope), envelope.data)


class ListSubscriber:
    """Delivers a list of events from a place that acknowledgements move on."""

    def __init__(self, log: Sequence[Envelope | Message], start: int = 0) -> None:
        self.log = [each if isinstance(each, Message) else message(each) for each in log]
        self.committed = start
        self.is_closed = False
        self._next = start
        self.received = threading.Event()

    def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
        found = [
            Delivery(each, f"tests[0]@{at}", at)
            for at, each in itertools.islice(enumerate(self.log), self._next, self._next + limit)
        ]
        self._next += len(found)
        self.received.set()
        if not found:
            threading.Event().wait(min(timeout, 0.01))
        return found

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        self.committed = max(self.committed, *(int(str(d.handle)) + 1 for d in deliveries))

    def nack(self, deliveries: Sequence[Delivery], /) -> None:
        self._next = min(int(str(d.handle)) for d in deliveries)

    def close(self) -> None:
        self.is_closed = True


def consume(
    consumer: Consumer,
    log: Sequence[Envelope | Message] | ListSubscriber,
    settings: ConsumerSettings = QUICK,
) -> Counts:
    """Let a worker handle a log until nothing is left."""
    subscriber = log if isinstance(log, ListSubscriber) else ListSubscriber(log)
    counts = Worker(consumer, subscriber, settings).run(threading.Event(), idle_timeout=0)
    assert subscriber.committed == len(subscriber.log)
    assert subscriber.is_closed
    return counts


@contextmanager
def working(worker: Worker) -> Iterator[None]:
    """Let a worker run on a thread of its own while a block lasts."""
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def effects(engine: sa.Engine) -> list[tuple[str, int]]:
    """Return what handlers did, in order."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(Effect.key, Effect.n).order_by(Effect.id))
        return [(key, n) for key, n in rows]


def letters(engine: sa.Engine) -> list[Letter]:
    """Return the unresolved dead letters."""
    with engine.connect() as connection:
        return find(connection, Filter(), 10_000)


def inbox_count(engine: sa.Engine) -> int:
    """Count the inbox."""
    with engine.connect() as connection:
        return connection.scalar(sa.text("SELECT count(*) FROM outbox_inbox")) or 0


def async_engine(engine: sa.Engine, driver: str | None = None) -> AsyncEngine:
    """Return an AsyncEngine on the same database."""
    drivers = {"postgresql": "psycopg", "sqlite": "aiosqlite", "mariadb": "asyncmy"}
    usual = drivers[engine.dialect.name]
    name = f"{engine.dialect.name}+{driver or usual}"
    return create_async_engine(engine.url.set(drivername=name))
