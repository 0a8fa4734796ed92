"""What is decided about a page, for any events, outcomes and keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.dead_letter import Letter
from outbox.envelope import Envelope
from outbox.errors import (
    BrokerUnavailableError,
    DestinationRefusedError,
    HeldBackError,
    RecordRefusedError,
)
from outbox.rows import Rows
from outbox.transport import PUBLISHED, Dead, Outcome, Published, Retry
from relay import plan
from relay.filter import EventFilter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.plan import OnDead, Work

OUTAGE = Retry(BrokerUnavailableError("no answer"))
REFUSED = Retry(DestinationRefusedError("no such topic"))
HELD = Retry(HeldBackError("behind another"))
DEAD = Dead(RecordRefusedError("too large"))


def event(index: int, key: str | None, type_: str = "shop.order.placed") -> Envelope:
    return Envelope(
        id=str(index),
        source="/shop",
        type=type_,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        data=b"{}",
        partition_key=key,
    )


def begin(keys: Sequence[str | None], blocked: Sequence[str] = ()) -> Work:
    events = [event(index, key) for index, key in enumerate(keys)]
    return plan.begin(Rows.of(events), range(len(events)), {key.encode() for key in blocked})


def fenced(events: Sequence[Envelope], wanted: Sequence[Outcome]) -> list[Outcome]:
    """What a publisher that keeps its promise answers."""
    fences: set[str] = set()
    outcomes: list[Outcome] = []
    for envelope, outcome in zip(events, wanted, strict=True):
        if envelope.partition_key in fences:
            outcomes.append(HELD)
            continue
        outcomes.append(outcome)
        if not isinstance(outcome, Published) and envelope.partition_key is not None:
            fences.add(envelope.partition_key)
    return outcomes


KEYS = st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=12)
OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(
    [PUBLISHED, PUBLISHED, Published(), OUTAGE, REFUSED, DEAD]
)


@given(
    keys=KEYS,
    blocked=st.sets(st.sampled_from(["a", "b"])),
    on_dead=st.sampled_from(["park_key", "skip", "stop"]),
    data=st.data(),
)
def test_nothing_is_lost_repeated_or_reordered(
    keys: list[str | None], blocked: set[str], on_dead: OnDead, data: st.DataObject
) -> None:
    work = begin(keys, sorted(blocked))
    published: list[int] = []
    settled = work.settled_count
    for turn in range(50):
        if work.is_done:
            break
        sent = list(work.indexes)
        assert [int(envelope.id) for envelope in work.events] == sent == sorted(set(sent))
        assert not set(sent) & set(published)
        choice: st.SearchStrategy[Outcome] = OUTCOMES if turn < 10 else st.just(PUBLISHED)
        wanted = [data.draw(choice) for _ in sent]
        outcomes = fenced(work.events, wanted)
        published += [i for i, o in zip(sent, outcomes, strict=True) if isinstance(o, Published)]
        work = plan.after(work, outcomes, on_dead)
        assert settled <= work.settled_count <= work.total
        settled = work.settled_count
        pending = set(work.indexes) | {item.index for item in work.set_aside}
        assert not pending or settled == min(pending)
    aside = [item.index for item in work.set_aside]
    assert sorted(published + aside) == list(range(len(keys)))
    assert aside == sorted(aside)
    assert work.published_count == len(published)
    for key in ("a", "b", "c"):
        of_key = [index for index in published if keys[index] == key]
        assert of_key == sorted(of_key)
        if on_dead == "park_key":
            behind = [index for index in aside if keys[index] == key]
            assert not behind or not of_key or max(of_key) < min(behind)
    if on_dead != "park_key":
        assert {item.status for item in work.set_aside if keys[item.index] not in blocked} <= {
            "dead"
        }
    if on_dead == "stop":
        assert {keys[index] for index in aside} <= blocked


@given(
    keys=KEYS,
    blocked=st.sets(st.sampled_from(["a", "b"])),
    on_dead=st.sampled_from(["park_key", "skip"]),
    data=st.data(),
)
def test_a_page_in_parts_loses_repeats_and_reorders_nothing(
    keys: list[str | None], blocked: set[str], on_dead: OnDead, data: st.DataObject
) -> None:
    parts = [begin(keys, sorted(blocked))]
    published: list[int] = []
    done: list[Work] = []
    for turn in range(100):
        if not parts:
            break
        work = parts.pop()
        count = data.draw(st.integers(1, len(keys)))
        if len(work.events) > count and turn < 20:
            first, rest = plan.split(work, count)
            assert first.total <= rest.settled_count
            parts += [rest, first]
        elif work.is_done:
            done.append(work)
            parts = [plan.park(part, work.blocked) for part in parts]
        else:
            choice: st.SearchStrategy[Outcome] = OUTCOMES if turn < 10 else st.just(PUBLISHED)
            outcomes = fenced(work.events, [data.draw(choice) for _ in work.events])
            sent = list(work.indexes)
            published += [
                i for i, o in zip(sent, outcomes, strict=True) if isinstance(o, Published)
            ]
            parts.append(plan.after(work, outcomes, on_dead))
    assert not parts
    assert [work.total for work in done] == sorted({work.total for work in done})
    aside = [item.index for work in done for item in work.set_aside]
    assert aside == sorted(aside)
    assert sorted(published + aside) == list(range(len(keys)))
    assert sum(work.published_count for work in done) == len(published)
    for key in ("a", "b", "c"):
        of_key = [index for index in published if keys[index] == key]
        assert of_key == sorted(of_key)
        behind = [index for index in aside if keys[index] == key]
        if on_dead == "park_key":
            assert not behind or not of_key or max(of_key) < min(behind)


def test_what_comes_before_a_dead_event_is_not_parked_for_its_sake() -> None:
    work = plan.after(begin(["b", "a", "a"]), [OUTAGE, OUTAGE, DEAD], "park_key")
    first, rest = plan.split(work, 1)
    assert not first.blocked
    assert rest.blocked == {b"a"}
    assert list(plan.park(rest, first.blocked).indexes) == [1]


def test_everything_published_is_the_end_of_a_page() -> None:
    work = plan.after(begin(["a", "b"]), [PUBLISHED, PUBLISHED], "park_key")
    assert work.is_done
    assert (work.settled_count, work.published_count, work.error) == (2, 2, None)


def test_a_dead_event_parks_what_follows_in_its_key_and_nothing_else() -> None:
    work = plan.after(begin(["a", "a", "b", None]), [DEAD, HELD, PUBLISHED, DEAD], "park_key")
    assert [(item.index, item.status) for item in work.set_aside] == [
        (0, "dead"),
        (1, "parked"),
        (3, "dead"),
    ]
    assert work.set_aside[0].reason == "too large"
    assert work.blocked == {b"a"}
    assert work.is_done


def test_what_was_held_behind_a_skipped_event_is_published_at_once() -> None:
    work = plan.after(begin(["a", "a"]), [DEAD, HELD], "skip")
    assert (list(work.indexes), work.error, work.blocked) == ([1], None, frozenset())


def test_a_stopped_route_tries_the_dead_event_again_and_says_why() -> None:
    work = plan.after(begin(["a", "b", "a"]), [PUBLISHED, DEAD, PUBLISHED], "stop")
    assert (list(work.indexes), work.settled_count) == ([1], 1)
    assert work.error is DEAD.error


def test_a_refusal_is_told_before_an_outage() -> None:
    work = plan.after(begin(["a", "b"]), [OUTAGE, REFUSED], "park_key")
    assert work.error is REFUSED.error
    assert work.settled_count == 0


def test_events_of_blocked_keys_are_parked_unpublished() -> None:
    work = begin(["a", "b", "a"], ["a"])
    assert list(work.indexes) == [1]
    assert [item.index for item in work.set_aside] == [0, 2]
    assert work.settled_count == 0


def test_events_that_the_route_does_not_carry_are_settled() -> None:
    events = Rows.of([event(0, "a", "x"), event(1, "a", "y"), event(2, "a", "x")])
    chosen = EventFilter(["y"], {}).select(events)
    work = plan.begin(events, chosen, frozenset())
    assert (list(work.indexes), work.settled_count) == ([1], 1)
    assert plan.after(work, [PUBLISHED], "park_key").settled_count == 3


def test_a_wrong_number_of_outcomes_is_refused() -> None:
    with pytest.raises(ValueError, match="1 outcomes for 2 events"):
        plan.after(begin(["a", "b"]), [PUBLISHED], "skip")


def letter(number: int, key: str | None) -> Letter:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return Letter(
        id=number,
        stage="relay",
        owner="kafka",
        status="requested",
        reason="too large",
        attempt_count=1,
        first_failed_at=moment,
        last_failed_at=moment,
        resolved_at=None,
        note=None,
        place=None,
        content=event(number, key),
    )


def test_letters_are_sorted_out_by_their_outcomes() -> None:
    letters = [letter(1, "a"), letter(2, "b"), letter(3, "b"), letter(4, None)]
    result = plan.replayed(letters, [PUBLISHED, DEAD, HELD, PUBLISHED])
    assert (result.resolved, result.failed, result.error) == ((1, 4), ((2, "too large"),), None)


def test_what_only_waits_for_a_dead_event_is_tried_again_at_once() -> None:
    work = plan.after(begin(["a", "b", "c"]), [HELD, DEAD, HELD], "park_key")
    assert (list(work.indexes), work.error) == ([0, 2], None)
    assert [(item.index, item.status) for item in work.set_aside] == [(1, "dead")]


def test_an_event_before_a_dead_one_of_its_key_is_still_published() -> None:
    work = plan.after(begin(["a", "a", "a"]), [HELD, DEAD, HELD], "park_key")
    assert (list(work.indexes), work.error) == ([0], None)
    assert [(item.index, item.status) for item in work.set_aside] == [(1, "dead"), (2, "parked")]
    assert plan.after(work, [PUBLISHED], "park_key").is_done


def test_what_is_held_back_by_nothing_is_waited_for() -> None:
    assert plan.after(begin(["a", "b"]), [HELD, HELD], "park_key").error is HELD.error
    assert plan.replayed([letter(1, "a")], [HELD]).error is HELD.error


def test_letters_that_were_held_back_by_a_dead_one_are_tried_again_at_once() -> None:
    result = plan.replayed([letter(1, "a"), letter(2, "b")], [HELD, DEAD])
    assert (result.resolved, result.failed, result.error) == ((), ((2, "too large"),), None)
    assert result.has_progressed


def test_letters_wait_for_the_broker_without_failing() -> None:
    result = plan.replayed([letter(1, "a"), letter(2, None)], [OUTAGE, REFUSED])
    assert (result.resolved, result.failed, result.error) == ((), (), REFUSED.error)
