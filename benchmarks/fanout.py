"""How fast one route goes beside others: that are down, slow, or full of what is refused.

    python -m tools.servers --postgres --kafka -- python -m benchmarks.fanout

One relay process has the route that is measured, exactly-once to Kafka, and another one: to a
broker that is not there, to a group in memory that never processes anything, or to a topic that is
too small for every event, so that each becomes a dead letter or is parked. The contenders take
turns on the same rows.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from benchmarks.show import tell
from outbox.bench import backlog
from outbox.bench.machine import machine, server
from outbox.bench.place import open_place
from outbox.bench.report import Series, report
from outbox.bench.rounds import taken
from outbox.settings import Settings
from outbox.table import outbox_checkpoint, outbox_dead_letter, outbox_event
from relay.daemon import Relay
from tools.servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future

    from outbox.bench.place import Place
    from outbox.bench.report import Figures
    from relay.daemon import Summary

    Route = Mapping[str, Any]

ALONE: Final = "alone"
SIZE: Final = 200
LOOK_SECONDS: Final = 0.01
PATIENCE_SECONDS: Final = 300.0


def measure(place: Place, *, rows: int, rounds: int) -> Series:
    """Drain the rows by one route, alone and beside each of the others."""
    backlog.fill(place.url, rows, SIZE)
    besides = {
        ALONE: _nothing,
        "beside a route that is down": _down,
        "beside a route that is slow": _slow,
        "beside a route full of poison": _poison,
    }
    turns = {name: partial(_turn, place, make) for name, make in besides.items()}
    found = [taken(turns, number) for number in range(rounds + 1)]
    return Series(
        kind="fanout",
        where={"rows": rows, "bytes": SIZE},
        rounds=found[1:],  # the first turns only warm up
        ratios=("rows_per_second",),
    )


def _turn(place: Place, make: Any) -> Figures:
    engine = sa.create_engine(place.url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for table in (outbox_checkpoint, outbox_dead_letter):
            connection.execute(sa.delete(table))
        last = connection.scalar(sa.select(sa.func.max(outbox_event.c.seq)))
    with place.broker.topic("fanout") as topic, make(place) as other:
        # What it makes at the broker has its name, and goes with everything of that name.
        routes = {topic: place.broker.route(topic, "exactly-once"), **other}
        url = place.url.render_as_string(hide_password=False)
        settings = Settings.model_validate({"database_url": url, "routes": routes})
        relay, stop = Relay(settings), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            started = time.perf_counter()
            running = pool.submit(relay.run, stop)
            try:
                _await(engine, topic, last, running)
                seconds = time.perf_counter() - started
            finally:
                stop.set()
    return {"rows_per_second": last / seconds}


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
            if running.done():
                msg = f"the relay ended: {running.result()}"
                raise RuntimeError(msg)
            time.sleep(LOOK_SECONDS)
    msg = f"not everything was delivered in {PATIENCE_SECONDS:g} s"
    raise RuntimeError(msg)


@contextmanager
def _nothing(_place: Place) -> Iterator[Mapping[str, Route]]:
    yield {}


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
        yield {"poison": place.broker.route(topic, "at-least-once")}


def main() -> None:
    """Measure in a schema and topics of its own, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default=os.environ.get("OUTBOX_TEST_POSTGRES"))
    parser.add_argument("--kafka", default=os.environ.get("OUTBOX_TEST_KAFKA"))
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="kept with the figures")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.url is None or options.kafka is None:
        parser.error("give --url and --kafka, or run it by `python -m tools.servers`")
    route = {"transport": "kafka", "bootstrap_servers": options.kafka}
    settings = Settings.model_validate({"database_url": options.url, "routes": {"kafka": route}})
    started_at = datetime.now(UTC).isoformat()
    with open_place(settings, "kafka", 3) as place:
        series = measure(place, rows=options.rows, rounds=options.rounds)
        with sa.create_engine(place.url, poolclass=sa.NullPool).connect() as connection:
            described = server(connection)
    told = report(
        "fanout",
        started_at=started_at,
        machine=machine(),
        server=described,
        note=options.note,
        series=[series],
    )
    tell(told, as_json=options.json)


if __name__ == "__main__":
    main()
