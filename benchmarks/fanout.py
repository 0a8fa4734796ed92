"""How fast one route goes beside others: healthy, down, slow, or full of what is refused.

    python -m tools.servers --postgres --kafka -- python -m benchmarks.fanout

One relay process has the route that is measured, to Kafka, and another one: to a second topic, to
a broker that is not there, to a group in memory that never processes anything, or to a topic that
is too small for every event, so that each becomes a dead letter or is parked. Measured is how long
after its commit an event can be read, at a steady rate (at least once, the quicker delivery), and
how fast the route drains a backlog (exactly once). The contenders take turns.
"""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from benchmarks.command import add_servers, arguments, described, finish, place_at, started_now
from outbox.bench import backlog
from outbox.bench.latency import Plan, figures, relayed
from outbox.bench.report import Series
from outbox.bench.rounds import taken
from outbox.bench.tables import AT_LEAST, EXACTLY
from outbox.settings import Settings
from outbox.table import outbox_checkpoint, outbox_dead_letter, outbox_event
from relay.daemon import Relay
from tools.servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from outbox.bench.place import Place
    from outbox.bench.report import Figures
    from relay.daemon import Summary

    Route = Mapping[str, Any]
    Beside = Callable[[Place], AbstractContextManager[Mapping[str, Route]]]
    """Yields the settings of the other route, by its name."""

ALONE: Final = "alone"
SIZE: Final = 200
LOOK_SECONDS: Final = 0.01
PATIENCE_SECONDS: Final = 300.0


def measure(
    place: Place, *, rows: int, seconds: float, per_second: int, rounds: int
) -> Iterator[Series]:
    """Measure the route alone and beside each of the others, at a steady rate and with a backlog.

    Yields a series for each; the first turns of both only warm up.
    """
    plan = Plan(deliveries=[AT_LEAST], seconds=seconds, per_second=per_second, size=SIZE)
    besides: Mapping[str, Beside] = {
        ALONE: _nothing,
        "beside a healthy route": _healthy,
        "beside a route that is down": _down,
        "beside a route that is slow": _slow,
        "beside a route full of poison": _poison,
    }
    turns = {name: partial(_steady, place, plan, make) for name, make in besides.items()}
    yield Series(
        kind="fanout-steady",
        where={"commits_per_second": per_second, "bytes": SIZE},
        rounds=[taken(turns, number) for number in range(rounds + 1)][1:],
        differences=("p50_ms", "p99_ms"),
    )
    backlog.empty(place.url)
    backlog.fill(place.url, rows, SIZE)
    turns = {name: partial(_drained, place, rows, make) for name, make in besides.items()}
    yield Series(
        kind="fanout",
        where={"rows": rows, "bytes": SIZE},
        rounds=[taken(turns, number) for number in range(rounds + 1)][1:],
        ratios=("rows_per_second",),
    )


def _steady(place: Place, plan: Plan, make: Beside) -> Figures:
    """Commit and relay at a steady rate."""
    with _relaying(place, make, AT_LEAST, "now") as (topic, running):
        return figures(relayed(place, plan, topic, partial(_require_alive, running)))


def _drained(place: Place, rows: int, make: Beside) -> Figures:
    """Relay what is there."""
    engine = sa.create_engine(place.url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        last = connection.scalar(sa.select(sa.func.max(outbox_event.c.seq)))
    with _relaying(place, make, EXACTLY, "beginning") as (topic, running):
        started = time.perf_counter()
        _await(engine, topic, last, running)
        return {"rows_per_second": rows / (time.perf_counter() - started)}


@contextmanager
def _relaying(
    place: Place, make: Beside, delivery: str, start: str
) -> Iterator[tuple[str, Future[Summary]]]:
    """Relay into a new topic by a route of its name, beside another one, while the block lasts."""
    engine = sa.create_engine(place.url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for table in (outbox_checkpoint, outbox_dead_letter):
            connection.execute(sa.delete(table))
    with place.broker.topic("fanout") as topic, make(place) as other:
        # What a route makes at the broker has its name, and goes with everything of that name.
        routes = {topic: place.broker.route(topic, delivery), **other}
        settings = Settings.model_validate(
            {
                "database_url": place.url.render_as_string(hide_password=False),
                "routes": {name: {**route, "start": start} for name, route in routes.items()},
            }
        )
        relay, stop = Relay(settings), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(relay.run, stop)
            try:
                yield topic, running
            finally:
                stop.set()
            running.result()


def _await(engine: sa.Engine, route: str, last: int, running: Future[Summary]) -> None:
    """Wait until the route has stored that all is delivered; raises where the relay ended."""
    query = sa.select(outbox_checkpoint.c.position).where(outbox_checkpoint.c.route == route)
    deadline = time.monotonic() + PATIENCE_SECONDS
    with engine.connect() as connection:
        while time.monotonic() < deadline:
            position: Any = connection.scalar(query)
            connection.rollback()
            if position is not None and position["floor"] >= last:
                return
            _require_alive(running)
            time.sleep(LOOK_SECONDS)
    msg = f"not everything was delivered in {PATIENCE_SECONDS:g} s"
    raise RuntimeError(msg)


def _require_alive(running: Future[Summary]) -> None:
    if running.done():
        msg = f"the relay ended: {running.result()}"
        raise RuntimeError(msg)


@contextmanager
def _nothing(_place: Place) -> Iterator[Mapping[str, Route]]:
    yield {}


@contextmanager
def _healthy(place: Place) -> Iterator[Mapping[str, Route]]:
    with place.broker.topic("healthy") as topic:
        yield {topic: place.broker.route(topic, AT_LEAST)}


@contextmanager
def _down(_place: Place) -> Iterator[Mapping[str, Route]]:
    nowhere = f"127.0.0.1:{free_port()}"
    yield {"down": {"transport": "kafka", "bootstrap_servers": nowhere, "topic": "nowhere"}}


@contextmanager
def _slow(_place: Place) -> Iterator[Mapping[str, Route]]:
    name = uuid.uuid4().hex
    yield {"slow": {"transport": "memory", "broker": name, "groups": {"never": "*"}}}


@contextmanager
def _poison(place: Place) -> Iterator[Mapping[str, Route]]:
    with place.broker.topic("poison") as topic:
        entry = ConfigEntry("max.message.bytes", "100", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        admin = AdminClient(place.broker.config)
        (altered,) = admin.incremental_alter_configs([resource]).values()
        altered.result()
        yield {topic: place.broker.route(topic, AT_LEAST)}


def main() -> None:
    """Measure in a schema and topics of its own, and print a table or JSON."""
    parser = arguments(__doc__, rounds=3)
    add_servers(parser)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each steady turn")
    parser.add_argument("--per-second", type=int, default=200, help="commits of a steady turn")
    options = parser.parse_args()
    started_at = started_now()
    sizes = {name: getattr(options, name) for name in ("rows", "seconds", "per_second", "rounds")}
    with place_at(parser, options) as place:
        series = [*measure(place, **sizes)]
        found = described(place.url)
    finish("fanout", options, series, started_at=started_at, server=found)


if __name__ == "__main__":
    main()
