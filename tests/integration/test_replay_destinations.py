"""Events that are sent again reach ActiveMQ and S3, beside a route that goes on meanwhile."""

from __future__ import annotations

import json
import threading
import uuid
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from outbox.codec import REPLAY
from outbox.consumer import Consumer
from outbox.settings import Settings
from outbox.table import outbox_checkpoint, outbox_event
from outbox.transports import receiving_transport_of
from outbox.worker import open_worker
from relay.daemon import Relay
from tests.acceptance.cli import Program
from tests.integration.consuming import TYPE, Base, Counted, effects, working, write
from tests.progress import floor
from tests.s3_log import listed
from tests.waiting import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from outbox.transport import Delivery, Subscriber
    from tests.fix_s3 import Bucket

KEYS = 3
OTHER = "tests.consuming.other"
GROUPS = ["quick", "slow", "tests"]

Arrived = dict[str, list[int]]


@dataclass
class World:
    """A database, and a route to a destination."""

    engine: sa.Engine
    folder: Path
    route: dict[str, Any]
    program: Program = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        values = {"OUTBOX_DATABASE_URL": self.url, "OUTBOX_SOURCE": "/tests"}
        for name, value in self.route.items():
            text = value if isinstance(value, str) else json.dumps(value)
            values[f"OUTBOX_ROUTES__R__{name.upper()}"] = text
        self.program = Program(self.folder, values)

    @property
    def url(self) -> str:
        return self.engine.url.render_as_string(hide_password=False)

    @property
    def settings(self) -> Settings:
        return Settings(
            database_url=self.url,
            source="/tests",
            routes={"r": self.route},
            consumers={"tests": {"route": "r"}},
        )

    def emit(self, count: int) -> None:
        """Commit the next numbers; every second event is of the other type."""
        rows = [
            {
                "type": (TYPE, OTHER)[n // KEYS % 2],
                "partition_key": f"k{n % KEYS}",
                "data": json.dumps({"key": f"k{n % KEYS}", "n": n}, indent=1).encode(),
            }
            for n in range(self.count, self.count + count)
        ]
        with self.engine.begin() as connection:
            connection.execute(sa.insert(outbox_event), rows)
        self.count += count

    def by_key(self, *chosen: int) -> Arrived:
        """The numbers that were emitted, or those of them that are chosen, by key."""
        found: Arrived = {}
        for n in chosen or range(self.count):
            found.setdefault(f"k{n % KEYS}", []).append(n)
        return found

    @contextmanager
    def relay(self) -> Iterator[None]:
        """Run a relay that holds the route without a break."""
        with Relay(self.settings, engine=self.engine).running():
            yield

    def token(self) -> int:
        """Which lease of the route it is: another one is a term that has ended."""
        with self.engine.connect() as connection:
            return int(connection.scalars(sa.select(outbox_checkpoint.c.token)).one())

    def await_progress(self) -> None:
        """Wait until the relay has stored that everything is published."""
        eventually(lambda: floor(self.engine) >= self.count)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = self.program.run(*arguments, "--yes")
        assert done.returncode == 0, done.stderr
        return done

    @contextmanager
    def group(self, name: str) -> Iterator[Subscriber]:
        transport, options = receiving_transport_of("r", self.settings.route("r"))
        with closing(transport.subscriber("r", options, name, [self.route["topic"]])) as subscriber:
            yield subscriber

    @contextmanager
    def emitting(self) -> Iterator[None]:
        """Commit one event after the other while a block lasts."""
        over = threading.Event()

        def work() -> None:
            while not over.wait(0.05):
                self.emit(1)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def receive(subscriber: Subscriber, count: int) -> list[Delivery]:
    """Receive and acknowledge so many, and see that no more come."""
    found: list[Delivery] = []
    eventually(lambda: len(_more(subscriber, found, 0.2)) >= count, why=lambda: len(found))
    return _more(subscriber, found, 0.5)


def _more(subscriber: Subscriber, found: list[Delivery], timeout: float) -> list[Delivery]:
    deliveries = subscriber.receive(500, timeout)
    subscriber.ack(deliveries)
    found += deliveries
    return found


def numbers(deliveries: list[Delivery], *, marked: bool) -> Arrived:
    """The numbers that came with the mark of a replay, or without it, by key."""
    found: Arrived = {}
    for delivery in deliveries:
        if (REPLAY in dict(delivery.message.headers)) is marked:
            event = json.loads(delivery.message.data)
            found.setdefault(event["key"], []).append(event["n"])
    return found


@pytest.fixture(params=["activemq", "json", "jsonl"])
def world(request: pytest.FixtureRequest, sqlite_engine: sa.Engine, tmp_path: Path) -> World:
    """One with thirty events; tests share the broker, so each has a topic of its own."""
    route: dict[str, Any] = {"topic": f"again-{uuid.uuid4().hex}", "lease_seconds": 20}
    if request.param == "activemq":
        route |= {"transport": "activemq", "groups": GROUPS}
        route["brokers"] = request.getfixturevalue("activemq_server")
    else:
        bucket: Bucket = request.getfixturevalue("bucket")
        route |= {"transport": "s3", "format": request.param, "poll_seconds": 0.1, **bucket.options}
    made = World(sqlite_engine, tmp_path, route)
    made.emit(30)
    return made


def test_replayed_events_come_again_marked_and_in_order_while_the_route_goes_on(
    world: World,
) -> None:
    Base.metadata.create_all(world.engine)
    with world.group("quick") as quick:
        with world.relay():
            assert numbers(receive(quick, 30), marked=False) == world.by_key()
            world.await_progress()
            token = world.token()
            choice = ["--beginning", "--type", TYPE, "--key", "k0", "--rate", "20"]
            with world.emitting():
                done = world.call("replay", "--route", "r", *choice)
            world.await_progress()
            assert world.token() == token
        sent = int(done.stdout.removeprefix("route r: ").split()[0])
        chosen = {"k0": [n for n in range(world.count) if n % (2 * KEYS) == 0][:sent]}
        assert len(chosen["k0"]) == sent >= 5
        rest = receive(quick, world.count - 30 + sent)
    assert numbers(rest, marked=False) == world.by_key(*range(30, world.count))
    assert numbers(rest, marked=True) == chosen
    with world.group("slow") as slow:
        every = receive(slow, world.count + sent)
    # To those who are behind, the first time is no repetition.
    assert numbers(every, marked=False) == world.by_key()
    assert numbers(every, marked=True) == chosen

    consumer = Consumer("tests", database=world.engine)
    consumer.on(Counted)(write)
    worker = open_worker(consumer, world.settings)
    with working(worker):
        eventually(lambda: worker.counts.duplicate >= sent, why=lambda: worker.counts)
    assert worker.counts.duplicate == sent
    handled: Arrived = {}
    for key, n in effects(world.engine):
        handled.setdefault(key, []).append(n)
    assert handled == world.by_key(*(n for n in range(world.count) if n // KEYS % 2 == 0))


def test_a_rewound_route_sends_again_in_order_with_what_follows(world: World) -> None:
    with world.group("quick") as quick, world.relay():
        receive(quick, 30)
        world.await_progress()
        done = world.call("routes", "rewind", "r", "--after", "10")
        assert "20 events will be sent again" in done.stdout
        again = receive(quick, 20)
        world.emit(5)
        again += receive(quick, 5)
        assert len(again) == 25
        assert numbers(again, marked=False) == world.by_key(*range(10, 35))
    with world.group("slow") as slow:
        assert numbers(receive(slow, 55), marked=True) == {}


@pytest.mark.parametrize("world", ["json", "jsonl"], indirect=True)
def test_no_file_changes_by_what_is_sent_again(world: World, bucket: Bucket) -> None:
    """With an event a file there is none more, either; the log lists it as often as it was sent."""

    def look() -> dict[str, bytes]:
        return {key: bucket.read(key) for key in bucket.data_keys()}

    with world.relay():
        world.await_progress()
        before = look()
        world.call("replay", "--route", "r", "--beginning", "--key", "k1")
        replayed = look()
        world.call("routes", "rewind", "r", "--beginning")
        eventually(lambda: sum(map(len, listed(bucket).values())) >= 30 + 10 + 30)
    for after in (replayed, look()):
        assert {key: after[key] for key in before} == before
        if world.route["format"] == "json":
            assert after.keys() == before.keys()
    assert {key: len(ids) for key, ids in listed(bucket).items()} == {"k0": 20, "k1": 30, "k2": 20}
