"""Exactly once, against a broker that commits, fails and leaves in doubt as told."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from outbox.errors import (
    BrokerUnavailableError,
    DatabaseUnavailableError,
    InDoubtError,
    LeaseLostError,
)
from outbox.rows import Rows
from outbox.testing import envelope
from outbox.transport import PUBLISHED, Outcome, Retry
from relay.capture.position import SerialPosition
from relay.guarantee import AtLeastOnce, ExactlyOnce, guarantee_of
from relay.progress import Aside, Mark, Progress, read_progress
from relay.stall import Patience, Stall, TermOverError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope

EVENTS = Rows.of([envelope("t"), envelope("t")])
DOUBT = InDoubtError("no answer")


class Broker:
    """A transactional publisher that does what a test planned."""

    def __init__(self, *plan: str) -> None:
        self.plan = list(plan)
        self.committed: list[bytes] = []
        self.sent: list[bytes] = []
        self.taken_over = 0

    def take_over(self, identity: str, /) -> bytes | None:
        assert identity == "route-1"
        self.taken_over += 1
        if self.plan and self.plan[0] == "down":
            self.plan.pop(0)
            raise BrokerUnavailableError("down")
        return self.committed[-1] if self.committed else None

    def publish(self, batch: Sequence[Envelope], /) -> Sequence[Outcome]:
        raise AssertionError(f"{len(batch)} events without a progress")

    def publish_with(self, batch: Sequence[Envelope], progress: bytes, /) -> Sequence[Outcome]:
        self.sent.append(progress)
        match self.plan.pop(0):
            case "commit":
                self.committed.append(progress)
                return [PUBLISHED] * len(batch)
            case "commit in doubt":
                self.committed.append(progress)
                raise DOUBT
            case "abort in doubt":
                raise DOUBT
            case _:
                return [Retry(BrokerUnavailableError("no"))] * len(batch)

    def close(self) -> None:
        pass


class Lease:
    """The part of a checkpoint that a guarantee uses."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.reached_marks: list[Mark] = []
        self.step = 0

    def next_mark(self) -> Mark:
        self.step += 1
        return Mark("lineage", 7, self.step)

    def reached(self, mark: Mark) -> None:
        self.reached_marks.append(mark)

    def store(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


def guarantee(broker: Broker, lease: Any = None, ended: threading.Event | None = None) -> Any:
    stall = Stall("kafka", 0.01, Patience(None), ended or threading.Event())
    checkpoint: Any = lease or Lease()
    return guarantee_of(broker, "route-1", checkpoint, stall)


def publish(made: Any) -> Sequence[Outcome]:
    aside = [Aside(3, "dead", "too large")]
    outcomes: Sequence[Outcome] = made.publish(EVENTS, SerialPosition(9), aside, [4, 5])
    return outcomes


def test_the_publisher_decides_how_it_is_used() -> None:
    assert isinstance(guarantee(Broker()), ExactlyOnce)
    plain: Any = SimpleNamespace(publish=lambda batch: [PUBLISHED] * len(batch), close=None)
    made = guarantee(plain)
    assert made.__class__ is AtLeastOnce
    taken: object = made.take_over()
    assert (taken, publish(made)) == (None, [PUBLISHED, PUBLISHED])


def test_events_go_out_together_with_where_they_lead() -> None:
    broker, lease = Broker("commit"), Lease()
    assert publish(guarantee(broker, lease)) == [PUBLISHED, PUBLISHED]
    expected = Progress(
        Mark("lineage", 7, 1),
        SerialPosition(9).to_json(),
        (Aside(3, "dead", "too large"),),
        (4, 5),
    )
    assert read_progress(broker.committed[0]) == expected
    assert lease.reached_marks == [expected.mark]


def test_what_was_not_committed_is_not_reached_and_its_mark_not_used_again() -> None:
    broker, lease = Broker("fail", "commit"), Lease()
    made = guarantee(broker, lease)
    assert all(isinstance(outcome, Retry) for outcome in publish(made))
    assert publish(made) == [PUBLISHED, PUBLISHED]
    assert lease.reached_marks == [Mark("lineage", 7, 2)]


def test_a_term_begins_with_the_last_record() -> None:
    broker = Broker("down", "down")
    broker.committed = [Progress(Mark("l", 1, 1), {"floor": 1}).to_bytes()]
    assert guarantee(broker).take_over() == read_progress(broker.committed[0])
    assert broker.taken_over == 3
    assert guarantee(Broker()).take_over() is None


def test_a_commit_in_doubt_that_took_place_is_not_sent_again() -> None:
    broker, lease = Broker("commit in doubt", "down"), Lease(DatabaseUnavailableError("down"))
    assert publish(guarantee(broker, lease)) == [PUBLISHED, PUBLISHED]
    assert lease.reached_marks == [Mark("lineage", 7, 1)]
    assert len(broker.sent) == 1


def test_a_commit_in_doubt_that_did_not_take_place_is_to_be_sent_again() -> None:
    broker, lease = Broker("commit", "abort in doubt"), Lease()
    made = guarantee(broker, lease)
    publish(made)
    assert publish(made) == [Retry(DOUBT), Retry(DOUBT)]
    assert lease.reached_marks == [Mark("lineage", 7, 1)]


def test_in_doubt_a_relay_without_the_lease_stops_and_turns_nobody_away() -> None:
    broker = Broker("abort in doubt")
    with pytest.raises(LeaseLostError):
        publish(guarantee(broker, Lease(LeaseLostError("gone"))))
    assert broker.taken_over == 0


def test_waiting_for_the_broker_ends_with_the_term() -> None:
    ended = threading.Event()
    ended.set()
    with pytest.raises(TermOverError):
        guarantee(Broker("down"), ended=ended).take_over()
