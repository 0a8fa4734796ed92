"""Dead letters on both databases: which are tried again, in which order."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from outbox import dead_letter
from outbox.dead_letter import Failure, Filter
from outbox.envelope import Envelope
from outbox.transport import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa


@pytest.fixture(params=["postgres", "sqlite", "mariadb"])
def connection(request: pytest.FixtureRequest) -> Iterator[sa.Connection]:
    engine: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    with engine.begin() as opened:
        yield opened


def envelope(name: str, key: str | None = "k", sequence: int = 1) -> Envelope:
    return Envelope(
        id=name,
        source="/shop",
        type="shop.order.placed",
        time=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        data=b'{"a":1}',
        version=2,
        partition_key=key,
        subject="o-1",
        topic="shop.order",
        correlation_id="c-1",
        headers={"tenant": "t"},
        sequence=sequence,
    )


def record(connection: sa.Connection, *failures: Failure, owner: str = "kafka") -> None:
    dead_letter.record(connection, "relay", owner, failures)


def ready(connection: sa.Connection, *, heads_only: bool = True) -> list[str]:
    found = dead_letter.ready(connection, "relay", "kafka", 100, heads_only=heads_only)
    return [_envelope(letter).id for letter in found]


def _envelope(letter: dead_letter.Letter) -> Envelope:
    assert letter.envelope is not None
    return letter.envelope


def ids(connection: sa.Connection, *names: str) -> list[int]:
    found = dead_letter.find(connection, Filter(statuses=ALL), 100)
    return [letter.id for letter in found if _envelope(letter).id in names]


ALL: tuple[dead_letter.Status, ...] = ("dead", "parked", "requested", "replayed", "discarded")


def dead(name: str, key: str | None = "k") -> Failure:
    return Failure(envelope(name, key), "too large")


def parked(name: str, key: str | None = "k") -> Failure:
    return Failure(envelope(name, key), "behind a dead letter", "parked", 0)


def test_a_letter_gives_back_the_whole_envelope(connection: sa.Connection) -> None:
    record(connection, Failure(envelope("a"), "too large", place="shop.order[0]@3"))
    (letter,) = dead_letter.find(connection, Filter(), 10)
    assert letter.envelope == envelope("a")
    assert (letter.status, letter.reason, letter.attempt_count) == ("dead", "too large", 1)
    assert (letter.place, letter.resolved_at) == ("shop.order[0]@3", None)
    assert letter.first_failed_at.tzinfo is not None
    assert dead_letter.get(connection, letter.id) == letter
    assert dead_letter.get(connection, letter.id + 1) is None


def test_a_message_that_is_no_event_is_kept_by_its_place(connection: sa.Connection) -> None:
    message = Message("t", b"k", [("x", b"1"), ("y", b"\xff\0")], b"\0\xff")
    record(connection, Failure(message, "no CloudEvent", place="t[0]@1"))
    record(connection, Failure(message, "no CloudEvent", place="t[0]@2"))
    first, _ = dead_letter.find(connection, Filter(), 10)
    assert first.envelope is None
    assert isinstance(first.content, Message)
    assert (first.content.topic, first.content.key, first.content.data) == ("t", b"k", b"\0\xff")
    assert dict(first.content.headers) == {"x": b"1", "y": b"\\xff\\x00"}
    assert dead_letter.blocked_keys(connection, "relay", "kafka") == set()
    dead_letter.request(connection, [first.id])
    assert [letter.id for letter in dead_letter.ready(connection, "relay", "kafka", 5)] == [
        first.id
    ]


def test_a_message_without_a_place_is_refused(connection: sa.Connection) -> None:
    with pytest.raises(ValueError, match="place"):
        record(connection, Failure(Message("t", None, [], b""), "no CloudEvent"))


def test_an_event_has_one_letter_and_its_attempts_add_up(connection: sa.Connection) -> None:
    record(connection, dead("a"))
    record(connection, Failure(envelope("a"), "again", attempt_count=3))
    (letter,) = dead_letter.find(connection, Filter(statuses=ALL), 10)
    assert (letter.attempt_count, letter.reason) == (4, "again")


def test_a_resolved_letter_that_fails_again_is_the_newest_and_keeps_its_attempts(
    connection: sa.Connection,
) -> None:
    record(connection, dead("a"))
    dead_letter.resolve(connection, ids(connection, "a"))
    record(connection, dead("earlier"), parked("a"))
    found = dead_letter.find(connection, Filter(statuses=ALL), 10)
    assert [_envelope(letter).id for letter in found] == ["earlier", "a"]
    assert [letter.attempt_count for letter in found] == [1, 1]
    assert found[1].resolved_at is None
    assert ready(connection) == []


def test_the_same_event_twice_in_one_call_has_one_letter(connection: sa.Connection) -> None:
    record(connection, dead("a"), dead("a"))
    assert dead_letter.count(connection, Filter()) == 1


def test_owners_do_not_see_each_other(connection: sa.Connection) -> None:
    record(connection, dead("a"))
    assert dead_letter.blocked_keys(connection, "relay", "other") == set()
    assert dead_letter.blocked_keys(connection, "consumer", "kafka") == set()
    assert dead_letter.blocked_keys(connection, "relay", "kafka") == {"k"}
    assert dead_letter.tally(connection, "relay") == {("kafka", "dead"): 1}


def test_blocked_keys_are_those_asked_for(connection: sa.Connection) -> None:
    record(connection, dead("a", "k1"), dead("b", "k2"), dead("c", None))
    asked = {"k2"} | {f"none-{number}" for number in range(1500)}
    assert dead_letter.blocked_keys(connection, "relay", "kafka", asked) == {"k2"}
    assert dead_letter.blocked_keys(connection, "relay", "kafka", set()) == set()
    assert dead_letter.blocked_keys(connection, "relay", "kafka") == {"k1", "k2"}


def test_nothing_is_ready_behind_a_dead_head(connection: sa.Connection) -> None:
    record(connection, dead("a"), parked("b"), parked("c"), dead("d", None), dead("e", "k2"))
    assert ready(connection) == []
    assert ready(connection, heads_only=False) == []


def test_parked_letters_flow_in_order_once_the_head_is_discarded(connection: sa.Connection) -> None:
    record(connection, dead("a"), parked("b"), parked("c"))
    dead_letter.discard(connection, ids(connection, "a"), "not needed")
    assert ready(connection) == ["b"]
    assert ready(connection, heads_only=False) == ["b", "c"]
    dead_letter.resolve(connection, ids(connection, "b"))
    assert ready(connection) == ["c"]
    dead_letter.resolve(connection, ids(connection, "c"))
    assert ready(connection) == []
    assert dead_letter.blocked_keys(connection, "relay", "kafka") == set()


def test_a_requested_head_goes_before_those_parked_behind_it(connection: sa.Connection) -> None:
    record(connection, dead("a"), parked("b"), dead("c"), parked("d"))
    assert dead_letter.request(connection, ids(connection, "a")) == 1
    assert ready(connection) == ["a"]
    assert ready(connection, heads_only=False) == ["a", "b"]
    (head,) = ids(connection, "a")
    assert dead_letter.fail_again(connection, head, "still too large") == 1
    assert ready(connection) == []
    letter = dead_letter.get(connection, head)
    assert letter is not None
    assert (letter.status, letter.attempt_count, letter.reason) == ("dead", 2, "still too large")


def test_a_requested_letter_behind_a_dead_one_waits(connection: sa.Connection) -> None:
    record(connection, dead("a"), dead("b"), dead("c", None))
    dead_letter.request(connection, ids(connection, "b", "c"))
    assert ready(connection) == ["c"]


def test_a_request_by_filter_takes_what_the_filter_says(connection: sa.Connection) -> None:
    record(connection, dead("a", "k1"), dead("b", "k2"), parked("c", "k2"))
    assert dead_letter.request(connection, Filter(partition_key="k2")) == 1
    assert dead_letter.request(connection, Filter(type="other")) == 0
    assert ready(connection) == ["b"]


def test_a_discarded_letter_keeps_its_note_and_can_be_requested(connection: sa.Connection) -> None:
    record(connection, dead("a"))
    (number,) = ids(connection, "a")
    assert dead_letter.discard(connection, [number], "a test event") == 1
    assert dead_letter.discard(connection, [number], "twice") == 0
    letter = dead_letter.get(connection, number)
    assert letter is not None
    assert (letter.status, letter.note) == ("discarded", "a test event")
    assert letter.resolved_at is not None
    assert dead_letter.request(connection, [number]) == 1
    assert ready(connection) == ["a"]


def test_a_letter_that_was_discarded_meanwhile_is_not_resolved_again(
    connection: sa.Connection,
) -> None:
    record(connection, dead("a"))
    found = ids(connection, "a")
    dead_letter.discard(connection, found, "no")
    assert dead_letter.resolve(connection, found) == 0
    assert dead_letter.fail_again(connection, found[0], "x") == 0


def test_thousands_of_letters_are_recorded_and_resolved(connection: sa.Connection) -> None:
    record(connection, dead("head"), *[parked(str(number)) for number in range(2500)])
    everything = [letter.id for letter in dead_letter.find(connection, Filter(), 5000)]
    assert dead_letter.resolve(connection, everything) == 2501
    record(connection, *[parked(str(number)) for number in range(2500)])
    assert dead_letter.count(connection, Filter(statuses=["parked"])) == 2500


@pytest.mark.parametrize("database", ["postgres", "mariadb_relay"])
def test_who_records_a_letter_waits_for_no_other_letter(
    request: pytest.FixtureRequest, database: str
) -> None:
    engine: sa.Engine = request.getfixturevalue(f"{database}_engine")
    with engine.begin() as writer:
        record(writer, *[dead(str(number), f"k{number}") for number in range(10)])
        dead_letter.request(writer, Filter())
        dead_letter.discard(writer, Filter(ids=range(3, 11)), "no")
    with engine.begin() as writer:
        # So that the planner knows how small the table is.
        writer.exec_driver_sql(
            "ANALYZE outbox_dead_letter"
            if database == "postgres"
            else "ANALYZE TABLE outbox_dead_letter"
        )
    with engine.begin() as first, engine.begin() as second:
        assert dead_letter.take(first, "relay", "kafka") is not None
        limit = "lock_timeout = '1ms'" if database == "postgres" else "innodb_lock_wait_timeout = 0"
        second.exec_driver_sql(f"SET SESSION {limit}")
        # The letters with the numbers 5 and 6, and three more.
        record(second, *[dead(name, f"k{name}") for name in ("4", "5", "x", "y", "z")])
        assert dead_letter.resolve(second, [2]) == 1
        second.detach()


@pytest.mark.parametrize("database", ["postgres", "mariadb_relay"])
def test_a_letter_that_another_transaction_has_locked_is_left_out(
    request: pytest.FixtureRequest, database: str
) -> None:
    engine: sa.Engine = request.getfixturevalue(f"{database}_engine")
    with engine.begin() as writer:
        record(writer, *[dead(str(number), f"k{number}") for number in range(20)])
        dead_letter.request(writer, Filter())
    with engine.begin() as first, engine.begin() as second:
        # More of them than `take` looks at in one statement.
        first.exec_driver_sql("SELECT id FROM outbox_dead_letter WHERE id <= 12 FOR UPDATE")
        letter = dead_letter.take(second, "relay", "kafka")
        assert letter is not None
        assert letter.id == 13


def test_nothing_is_taken_where_nothing_is_ready(connection: sa.Connection) -> None:
    record(connection, dead("a"), parked("b"))
    assert dead_letter.take(connection, "relay", "kafka") is None
