"""What only the broker refuses, in the middle of what an exactly-once route publishes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AclOperation

from outbox import dead_letter
from outbox.dead_letter import Filter
from outbox.errors import BrokerUnavailableError
from outbox.transport import Retry
from outbox.transports.kafka import topics as kafka_topics
from outbox.transports.kafka.transactional import TransactionalKafkaPublisher
from tests.once import World
from tests.strict_kafka import StrictKafka, strict_kafka
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import sqlalchemy as sa

    from outbox.envelope import Envelope
    from outbox.transport import Outcome

pytestmark = pytest.mark.kafka

LIMIT = 20_000
LARGE = bytes(50_000)
USUAL_LIMIT = 1_048_588
"""What a topic takes as brokers make it."""
WITHDRAWN_SECONDS = 0.1


@pytest.fixture(scope="module")
def strict() -> Iterator[StrictKafka]:
    with strict_kafka("unused") as started:
        yield started


@pytest.fixture
def world(postgres_engine: sa.Engine, strict: StrictKafka) -> World:
    return World(postgres_engine, strict.address)


def create_unknown(world: World, strict: StrictKafka, **config: str) -> None:
    """Create the topic, and let no relay ask what it takes."""
    world.create(**config)
    strict.deny(world.topic, AclOperation.DESCRIBE_CONFIGS)


def emit_with_large(world: World) -> None:
    """Emit events of three keys; one of `b` in the middle is larger than the topic takes."""
    world.emit(*"abc" * 40)
    world.emit("b", data=LARGE)
    world.emit(*"abc" * 40)


@pytest.mark.parametrize("is_lowered", [True, False], ids=["limit-lowered", "limit-unknown"])
def test_an_event_that_is_too_large_is_overtaken_by_nothing_of_its_key(
    world: World, strict: StrictKafka, *, is_lowered: bool
) -> None:
    if is_lowered:
        world.create()
    else:
        create_unknown(world, strict, max_message_bytes=str(LIMIT))
    with world.relay(lease_seconds=15).running():
        world.emit("a")
        eventually(lambda: world.arrived() == world.emitted)
        if is_lowered:
            world.limit(LIMIT)
        emit_with_large(world)
        eventually(lambda: len(world.letters()) == 41)
        eventually(lambda: sum(map(len, world.arrived().values())) == 201)
    assert world.letters() == [("dead", "b"), *[("parked", "b")] * 40]
    world.emitted["b"] = world.emitted["b"][:40]
    world.expect_each_once()


def test_what_follows_an_event_that_is_skipped_arrives_once_in_order(
    world: World, strict: StrictKafka
) -> None:
    create_unknown(world, strict, max_message_bytes=str(LIMIT))
    emit_with_large(world)
    world.drain(lease_seconds=15, on_dead="skip")
    assert world.letters() == [("dead", "b")]
    del world.emitted["b"][40]
    world.expect_each_once()


def test_a_route_that_stops_has_published_what_comes_before_and_nothing_behind(
    world: World, strict: StrictKafka
) -> None:
    create_unknown(world, strict, max_message_bytes=str(LIMIT))
    emit_with_large(world)
    before = {key: ids[:40] for key, ids in world.emitted.items()}
    with world.relay(lease_seconds=15, on_dead="stop", retry_max_seconds=0.1).running():
        eventually(lambda: world.arrived() == before)
        eventually(lambda: "max.message.bytes" in (world.row().error or ""))
        world.limit(1_000_000)
        eventually(lambda: world.arrived() == world.emitted)
    assert world.letters() == []


def test_an_event_without_a_key_in_a_compacted_topic_neither_goes_nor_stops_the_others(
    world: World, strict: StrictKafka
) -> None:
    create_unknown(world, strict, cleanup_policy="compact")
    world.emit(*"abc" * 40)
    world.emit(None)
    world.emit(*"abc" * 40)
    world.drain(lease_seconds=15)
    assert world.letters() == [("dead", None)]
    del world.emitted[""]
    world.expect_each_once()


def test_many_refused_events_of_a_large_backlog_hold_nothing_up(
    world: World, strict: StrictKafka
) -> None:
    """More than one publish can find out, transaction after transaction, in its time."""
    create_unknown(world, strict)
    keys = [f"k{number}" for number in range(100)]
    refused = [keys[number * 7] for number in range(3)]
    for key in refused:
        world.emit(*keys * 60)
        world.emit(key, data=bytes(USUAL_LIMIT))
    world.emit(*keys * 60)
    world.drain(lease_seconds=5, page_size=10_000, retry_max_seconds=1)
    for place, key in enumerate(refused, 1):
        world.emitted[key] = world.emitted[key][: place * 60]
    world.expect_each_once()
    letters = world.letters()
    assert [key for status, key in letters if status == "dead"] == refused
    assert len(letters) == 3 + 60 * (3 + 2 + 1)


def test_letters_that_are_tried_again_do_not_wait_for_one_that_is_refused_again(
    world: World, strict: StrictKafka
) -> None:
    create_unknown(world, strict, max_message_bytes=str(LIMIT))
    for key, size in (("b", 80_000), ("c", 30_000)):
        world.emit(key, data=bytes(size))
    world.emit(*"abc" * 5)
    world.drain(lease_seconds=15)
    assert sorted(world.letters()) == sorted(
        [(status, key) for key in "bc" for status in ["dead", *["parked"] * 5]]
    )
    world.limit(50_000)
    with world.engine.begin() as connection:
        dead_letter.request(connection, Filter())
    world.drain(lease_seconds=15)
    assert sorted(world.letters()) == sorted(
        [("dead", "b"), *[("parked", "b")] * 5, *[("replayed", "c")] * 6]
    )
    del world.emitted["b"]
    world.expect_each_once()


def test_a_transaction_that_is_larger_than_the_broker_takes_in_time_is_not_tried_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TransactionalKafkaPublisher.publish_with

    def slow(
        self: TransactionalKafkaPublisher, batch: Sequence[Envelope], progress: bytes
    ) -> Sequence[Outcome]:
        if len(batch) > 100:
            return [Retry(BrokerUnavailableError("too late"))] * len(batch)
        return original(self, batch, progress)

    monkeypatch.setattr(TransactionalKafkaPublisher, "publish_with", slow)
    world.create()
    world.emit(*"abc" * 500)
    world.drain(retry_max_seconds=0.1)
    world.expect_each_once()


def test_a_right_withdrawn_for_a_moment_loses_repeats_and_reorders_nothing(
    world: World,
    strict: StrictKafka,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(kafka_topics, "REFUSED_SECONDS", 0.1)
    world.create()

    def withdraw() -> bool:
        """Take the right away under load, and give it back; tell whether the relay met that."""
        world.emit(*"abc" * 200)
        strict.deny(world.topic, AclOperation.WRITE)
        world.emit(*"abc" * 5)
        time.sleep(WITHDRAWN_SECONDS)
        strict.allow_everything(world.topic)
        world.emit(*"abc" * 5)
        return any("is not open" in getattr(record, "error", "") for record in caplog.records)

    with world.relay(page_size=50, retry_max_seconds=0.2).running():
        eventually(withdraw)
        withdraw()
        eventually(lambda: world.arrived() == world.emitted)
    assert world.letters() == []
