"""The relay as a whole: its routes side by side, started and stopped together."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outbox import formats
from outbox.engine import is_psycopg
from outbox.errors import ConfigurationError
from outbox.transports import transport_of
from relay import selfcheck
from relay.database import make_engine
from relay.retention import Retention
from relay.route import Route, Until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    import sqlalchemy as sa

    from outbox.settings import Settings

__all__ = ["Relay", "RouteSummary", "Summary", "Until", "spare_collector", "stopped_by_signals"]

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.05
"""How often it is looked whether a route has ended."""
IDLE_LOOK_SECONDS: Final = 0.5
"""The same, where none ends by itself but for an error."""
DRAIN_SECONDS: Final = 30.0
KILLED: Final = 130
"""The exit code of a process that was told twice to stop."""


@dataclass(frozen=True, slots=True)
class RouteSummary:
    """What one route did."""

    published: int
    parked: int
    dead: int
    error: str | None
    """Why it could not go on; None where it was done, or told to stop."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a relay did, by route."""

    routes: Mapping[str, RouteSummary]
    until: Until

    @property
    def exit_code(self) -> int:
        """1 where a relay that was to finish could not, or where no route was left; else 0."""
        failed = [route.error is not None for route in self.routes.values()]
        return int(all(failed) if self.until is Until.FOREVER else any(failed))


class Relay:
    """Moves events from the outbox to brokers, until told to stop or done.

        summary = Relay(settings).run(until=Until.DRAINED)

        with Relay(settings).running():
            ...

    Several relays may run the same routes: each route is run by one of them at a time, and the
    others wait.
    """

    def __init__(
        self,
        settings: Settings,
        routes: Sequence[str] | None = None,
        *,
        engine: sa.Engine | None = None,
        drain_timeout: float = DRAIN_SECONDS,
    ) -> None:
        """Choose routes, by default all.

        Raises `ConfigurationError` where there is none, and where the transport of one of them or
        its settings are wrong: told before any of them is run.

        An `engine` that is given is used and left open. `drain_timeout` is how many seconds a
        relay that is to finish goes on without progress.
        """
        names = list(settings.routes if routes is None else dict.fromkeys(routes))
        if not names:
            raise ConfigurationError("there is no route to run: add [routes.NAME] to the settings")
        self._chosen = {name: settings.route(name) for name in names}
        for name, route in self._chosen.items():
            _, options = transport_of(name, route)
            if route.schemas is not None:
                formats.check(name, route.schemas, options)
        self._settings = settings
        self._engine = engine
        self._drain_timeout = drain_timeout

    def run(self, stop: threading.Event | None = None, until: Until = Until.FOREVER) -> Summary:
        """Run the routes, and return once all have ended.

        When `stop` is set they finish what is under way, store it and give their leases back.
        One route that cannot go on ends alone, with its error in the summary.
        """
        engine = self._engine or make_engine(self._settings.url)
        # No two runs have one name, because a holder takes its own lease over without waiting.
        holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        routes = [
            Route(
                engine,
                name,
                settings,
                self._settings.source,
                holder,
                until,
                self._drain_timeout,
            )
            for name, settings in self._chosen.items()
        ]
        stop = stop or threading.Event()
        try:
            with ExitStack() as stack:
                if until is Until.FOREVER:
                    stack.enter_context(_checking(engine))
                    stack.enter_context(_rung(engine, routes))
                    if self._settings.retention.is_on or engine.dialect.name == "postgresql":
                        retention = Retention(engine, self._settings, holder)
                        stack.enter_context(retention.running())
                _run_all(routes, stop, until)
        finally:
            if self._engine is None:
                engine.dispose()
        return Summary({route.name: _summary(route) for route in routes}, until)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run on a thread of its own while a block lasts; raises what the relay raised."""
        stop = threading.Event()
        raised: list[BaseException] = []

        def work() -> None:
            try:
                self.run(stop)
            except BaseException as exc:  # noqa: BLE001  # raised again below
                raised.append(exc)

        thread = threading.Thread(target=work, name="relay")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if raised:
            raise raised[0]


@contextmanager
def _checking(engine: sa.Engine) -> Iterator[None]:
    """Tell meanwhile what is degraded; the routes need not wait for it."""
    over = threading.Event()
    thread = threading.Thread(target=selfcheck.tell, args=(engine, over), name="relay-selfcheck")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _rung(engine: sa.Engine, routes: Sequence[Route]) -> Iterator[None]:
    """Let applications ring the routes meanwhile, where the database can pass it on."""
    if not is_psycopg(engine.url):
        yield
        return
    from relay.listener import Listener  # noqa: PLC0415  # needs psycopg

    def ring() -> None:
        for route in routes:
            route.ring()

    with Listener(engine, ring):
        yield


def spare_collector() -> None:
    """Let Python's cyclic garbage collector run seldom; for a process that only relays.

    A page is thousands of objects that live for a moment and make no cycles, so looking for
    cycles in them again and again was 29 % of the time of a drain.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 100)


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Set an event on SIGTERM and SIGINT while a block lasts; a second signal ends the process.

    Works in the main thread only.
    """

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(KILLED)
        log.info("stopping", extra={"signal": signal.Signals(number).name})
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_all(routes: Sequence[Route], stop: threading.Event, until: Until) -> None:
    pause = IDLE_LOOK_SECONDS if until is Until.FOREVER else LOOK_SECONDS
    for route in routes:
        route.start()
    try:
        while not stop.wait(pause):
            if all(route.is_over(0) for route in routes):
                break
    finally:
        _stop_all(routes)
        for route in routes:
            while not route.is_over(LOOK_SECONDS):
                pass


def _stop_all(routes: Sequence[Route]) -> None:
    for route in routes:
        route.stop()


def _summary(route: Route) -> RouteSummary:
    counts = route.counts
    return RouteSummary(counts.published, counts.parked, counts.dead, route.error)
