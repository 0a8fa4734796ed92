"""Exactly-once on a real Kafka: what the route records with its events decides after a crash."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from outbox import dead_letter
from outbox.dead_letter import Filter
from outbox.settings import Settings
from outbox.table import outbox_checkpoint, outbox_event, outbox_incarnation
from outbox.testing import envelope
from outbox.transport import Retry
from outbox.transports.kafka.options import Options
from outbox.transports.kafka.transactional import TransactionalKafkaPublisher
from relay.daemon import Relay, Until
from tests.killed_relay import ONCE, PLACES

if TYPE_CHECKING:
    from collections.abc import Callable

ROUTE = "kafka"
EVERY_STATUS: frozenset[dead_letter.Status] = dead_letter.UNRESOLVED | {"replayed", "discarded"}


def eventually(fact: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.05)


@dataclass
class World:
    """A database, a broker, a topic with one partition, and what was emitted."""

    engine: sa.Engine
    bootstrap_servers: str
    topic: str = field(default_factory=lambda: f"once-{uuid.uuid4().hex[:12]}")
    emitted: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def create(self, **config: str) -> None:
        settings = {name.replace("_", "."): value for name, value in config.items()}
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        admin.create_topics([NewTopic(self.topic, 1, config=settings)])[self.topic].result()

    def settings(self, **route: Any) -> Settings:
        options = {
            "transport": "kafka",
            "bootstrap_servers": self.bootstrap_servers,
            "topic": self.topic,
            "lease_seconds": 3,
        }
        url = self.engine.url.render_as_string(hide_password=False)
        return Settings(database_url=url, source="/test", routes={ROUTE: options | route})

    def relay(self, **route: Any) -> Relay:
        return Relay(self.settings(**route), engine=self.engine)

    def drain(self, **route: Any) -> None:
        summary = self.relay(**route).run(until=Until.DRAINED)
        assert summary.routes[ROUTE].error is None

    def emit(self, *keys: str, data: bytes = b"{}") -> None:
        with self.engine.begin() as connection:
            for key in keys:
                row = {"type": "shop.order.placed", "partition_key": key, "data": data}
                statement = sa.insert(outbox_event).values(row).returning(outbox_event.c.id)
                self.emitted[key].append(str(connection.scalar(statement)))

    def arrived(self) -> dict[str, list[str]]:
        """Ids that a consumer of committed records reads, by key, in order, each as often."""
        found: dict[str, list[str]] = defaultdict(list)
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": uuid.uuid4().hex,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        partition = TopicPartition(self.topic, 0, 0)
        _, high = consumer.get_watermark_offsets(partition, timeout=10)
        consumer.assign([partition])
        while True:
            message = consumer.poll(10)
            assert message is not None, "a transaction was left open"
            error = message.error()
            if error is not None:
                if (message.offset() or 0) >= high:
                    break
                continue
            headers: Any = dict(message.headers() or [])
            found[(message.key() or b"").decode()].append(headers["ce_id"].decode())
        consumer.close()
        return found

    def expect_each_once(self) -> None:
        assert self.arrived() == self.emitted

    def row(self) -> sa.Row[Any]:
        with self.engine.connect() as connection:
            return connection.execute(sa.select(outbox_checkpoint)).one()

    def change(self, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.update(outbox_checkpoint).values(**values))

    def letters(self) -> list[tuple[str, str | None]]:
        """Status and key of each dead letter, in order."""
        with self.engine.connect() as connection:
            found = dead_letter.find(connection, Filter(statuses=EVERY_STATUS), 1_000)
        return [(letter.status, letter.partition_key) for letter in found]

    def run_and_die(self, step: str, count: int = 1, **route: Any) -> None:
        """Run a relay in a process of its own until it kills itself at a step."""
        settings = self.settings(**route)
        routes = json.dumps({ROUTE: settings.routes[ROUTE].model_dump()})
        url = settings.database_url.get_secret_value()
        died = subprocess.run(
            [sys.executable, "-m", "tests.killed_relay", url, routes, step, str(count)],
            timeout=60,
            check=False,
            stderr=subprocess.PIPE,
        )
        assert died.returncode == -signal.SIGKILL, died.stderr.decode()


@pytest.fixture
def world(postgres_engine: sa.Engine, kafka_server: str) -> World:
    return World(postgres_engine, kafka_server)


@pytest.mark.parametrize(
    ("step", "count"),
    [(step, count) for step in PLACES for count in (1, 2) if count == 1 or step not in ONCE],
)
def test_a_relay_that_is_killed_at_a_step_repeats_nothing(
    world: World, step: str, count: int
) -> None:
    world.create()
    world.emit(*"abcabcab" * 100)
    world.run_and_die(step, count, page_size=100)
    world.emit(*"cba" * 5)
    world.drain()
    world.expect_each_once()


def test_a_relay_goes_on_from_what_the_broker_recorded(world: World) -> None:
    world.create()
    world.emit(*"ab" * 50)
    world.run_and_die("settle")
    stored = world.row().position["floor"]
    assert stored == 0, "the database knew of it"
    assert sum(map(len, world.arrived().values())) == 100
    world.drain()
    assert world.row().position["floor"] == 100
    world.expect_each_once()


def test_a_position_that_an_operator_set_wins_over_the_record(world: World) -> None:
    world.create()
    world.emit(*"ab" * 50)
    world.run_and_die("settle")
    position = dict(world.row().position)
    del position["mark"]
    world.change(position=position, version=world.row().version + 1)
    world.drain()
    assert {key: ids[:50] for key, ids in world.arrived().items()} == world.emitted
    assert {key: ids[50:] for key, ids in world.arrived().items()} == world.emitted
    world.drain()
    assert sum(map(len, world.arrived().values())) == 200, "the old record came back to life"


def test_a_route_that_begins_anew_ignores_the_records_of_its_former_life(world: World) -> None:
    world.create()
    world.emit(*"ab" * 50)
    world.drain()
    world.change(position=None, token=0)
    world.drain()
    assert sum(map(len, world.arrived().values())) == 200


def test_a_record_is_not_trusted_after_the_database_crashed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.create()
    world.emit(*"ab" * 50)
    world.run_and_die("settle")
    with world.engine.begin() as connection:
        connection.execute(sa.delete(outbox_incarnation))
    world.drain()
    assert "some events are published again" in caplog.text
    assert sum(map(len, world.arrived().values())) == 200


def test_dead_letters_of_a_committed_batch_are_written_after_a_crash(world: World) -> None:
    world.create(max_message_bytes="5000")
    world.emit(*"abc")
    world.emit("b", data=bytes(10_000))
    world.emit(*"abc")
    # The first attempt finds the dead one and publishes nothing.
    world.run_and_die("settle", 2)
    assert world.letters() == []
    world.drain()
    assert world.letters() == [("dead", "b"), ("parked", "b")]
    arrived = world.arrived()
    assert (arrived["a"], arrived["c"]) == (world.emitted["a"], world.emitted["c"])
    assert arrived["b"] == world.emitted["b"][:1]


def test_letters_that_were_published_again_before_a_crash_are_not_published_twice(
    world: World,
) -> None:
    world.create(max_message_bytes="5000")
    world.emit("b", data=bytes(10_000))
    world.emit(*"ab")
    world.drain()
    assert world.letters() == [("dead", "b"), ("parked", "b")]
    limit(world, 50_000)
    with world.engine.begin() as connection:
        dead_letter.request(connection, Filter())
    world.run_and_die("settle")
    assert [status for status, _ in world.letters()] == ["requested", "parked"]
    world.drain()
    assert [status for status, _ in world.letters()] == ["replayed", "replayed"]
    world.expect_each_once()


def test_delivery_may_be_switched_to_and_fro(world: World) -> None:
    world.create()
    for delivery in ("exactly-once", "at-least-once", "exactly-once"):
        world.emit(*"ab" * 20)
        world.drain(delivery=delivery)
    world.emit(*"ab" * 20)
    world.run_and_die("settle")
    world.drain(delivery="at-least-once")
    world.drain()
    arrived = world.arrived()
    assert {key: list(dict.fromkeys(ids)) for key, ids in arrived.items()} == world.emitted
    # Only what the plain relay could not know of came twice.
    assert sum(map(len, arrived.values())) == 160 + 40


def test_a_relay_whose_place_was_taken_turns_back_and_goes_on(world: World) -> None:
    """Somebody else begins under its name: it still has the lease, so it takes its place again."""
    world.create()
    world.emit("a")
    with world.relay().running():
        eventually(lambda: sum(map(len, world.arrived().values())) == 1)
        stranger = TransactionalKafkaPublisher(
            ROUTE, Options(bootstrap_servers=world.bootstrap_servers), 5
        )
        assert stranger.take_over(world.row().identity) is not None
        world.emit(*"ab")
        eventually(lambda: sum(map(len, world.arrived().values())) == 3)
        assert isinstance(stranger.publish([envelope(world.topic)])[0], Retry)
        stranger.close()
    world.expect_each_once()


def limit(world: World, max_bytes: int) -> None:
    entry = ConfigEntry(
        "max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET
    )
    kind = ConfigResource.Type.TOPIC
    resource = ConfigResource(kind, world.topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": world.bootstrap_servers})
    admin.incremental_alter_configs([resource])[resource].result()
