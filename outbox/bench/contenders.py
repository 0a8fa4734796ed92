"""What is measured, and what it is measured against; each runs in a process of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import sqlalchemy as sa

from outbox.bench.handwritten import drain, poll
from outbox.bench.statements import Statements
from outbox.settings import RouteSettings, Settings
from relay.daemon import Relay, Until, spare_collector
from relay.database import make_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


statements: Final = Statements()
"""Counted in a relay that is watched while it has nothing to do."""


def drain_by_relay(*, url: str, name: str, route: Mapping[str, Any]) -> dict[str, float]:
    """Drain by the relay as an operator runs it; the clock starts before it connects."""
    drainer = Relay(_settings(url, name, route))  # which imports what the route's transport needs

    def run() -> int:
        spare_collector()
        summary = drainer.run(until=Until.DRAINED).routes[name]
        if summary.error is not None:
            raise RuntimeError(summary.error)
        return summary.published

    return _clocked(run)


def drain_by_hand(
    *,
    database: Mapping[str, Any],
    kafka: Mapping[str, str],
    topic: str,
    page: int,
) -> dict[str, float]:
    """Drain by the hand-written script."""
    return _clocked(lambda: drain.drain(database, kafka, topic, page))


def relay(*, url: str, name: str, route: Mapping[str, Any]) -> None:
    """Relay until killed, as `outbox relay` does."""
    _relay(_settings(url, name, route), name)


def watched_relay(*, url: str, name: str, route: Mapping[str, Any]) -> None:
    """Do the same, and count the statements, which costs a relay that has something to do."""
    settings = _settings(url, name, route)
    engine = make_engine(settings.url)
    sa.event.listen(engine, "connect", lambda connection, _: statements.watch(connection))
    _relay(settings, name, engine)


def poll_by_hand(
    *,
    database: Mapping[str, Any],
    kafka: Mapping[str, str],
    topic: str,
    transactional_id: str | None,
    progress_topic: str | None,
) -> None:
    """Relay by the hand-written script until killed."""
    poll.relay(database, kafka, topic, transactional_id, progress_topic)


BY_NAME: Final[Mapping[str, Callable[..., Any]]] = {
    each.__name__: each
    for each in (drain_by_relay, drain_by_hand, relay, watched_relay, poll_by_hand)
}


def _relay(settings: Settings, name: str, engine: sa.Engine | None = None) -> NoReturn:
    spare_collector()
    summary = Relay(settings, engine=engine).run().routes[name]
    raise RuntimeError(summary.error)


def _clocked(run: Callable[[], int]) -> dict[str, float]:
    """Run something that moves rows; importing it costs nothing here."""
    started, cpu_started = time.perf_counter(), time.process_time()
    count = run()
    return {
        "count": count,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
    }


def _settings(url: str, name: str, route: Mapping[str, Any]) -> Settings:
    routes = {name: RouteSettings.model_validate(route)}
    return Settings.model_validate({"database_url": url, "source": "/bench", "routes": routes})
