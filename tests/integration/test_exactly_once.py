"""Exactly-once on a real Kafka: what the route records with its events decides after a crash."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from outbox import dead_letter
from outbox.dead_letter import Filter
from outbox.table import outbox_incarnation
from outbox.testing import envelope
from outbox.transport import Retry
from outbox.transports.kafka.options import Options
from outbox.transports.kafka.transactional import TransactionalKafkaPublisher
from tests.killed_relay import ONCE, PLACES
from tests.once import ROUTE, World
from tests.waiting import eventually


@pytest.fixture
def world(postgres_engine: sa.Engine, kafka_server: str) -> World:
    return World(postgres_engine, kafka_server)


@pytest.fixture(params=["postgres", "mariadb"])
def world_of_any_database(request: pytest.FixtureRequest, kafka_server: str) -> World:
    return World(request.getfixturevalue(f"{request.param}_engine"), kafka_server)


@pytest.mark.parametrize(
    ("step", "count"),
    [(step, count) for step in PLACES for count in (1, 2) if count == 1 or step not in ONCE],
)
def test_a_relay_that_is_killed_at_a_step_repeats_nothing(
    world_of_any_database: World, step: str, count: int
) -> None:
    world = world_of_any_database
    world.create()
    world.emit(*"abcabcab" * 100)
    world.run_and_die(step, count, meanwhile="cab", page_size=100)
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
    world.limit(50_000)
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
