from __future__ import annotations

import pytest

from outbox.errors import BrokerUnavailableError, HeldBackError, RecordRefusedError
from outbox.testing import envelope
from outbox.transport import PUBLISHED, Dead, Retry
from outbox.transports.page import Page

DOWN = BrokerUnavailableError("down")
POISON = RecordRefusedError("poison")


def page(keys: str) -> Page:
    return Page([envelope("t", None if key == "-" else key) for key in keys])


def test_what_was_stored_behind_a_failure_of_its_key_is_tried_again() -> None:
    settled = page("aba-")
    settled.published(3)
    settled.retry([0], DOWN)
    first, second, third, fourth = settled.fenced_outcomes()
    assert [first, second, fourth] == [Retry(DOWN), PUBLISHED, PUBLISHED]
    assert isinstance(third, Retry)
    assert isinstance(third.error, HeldBackError)


def test_nobody_is_dead_behind_a_failure_of_its_key() -> None:
    settled = page("aa")
    settled.fail(1, POISON)
    settled.retry([0], DOWN)
    assert isinstance(settled.fenced_outcomes()[1], Retry)


def test_an_earlier_event_is_not_held_back_by_a_later_one_of_its_key() -> None:
    settled = page("aaa")
    settled.fail(1, POISON)
    assert not settled.holds_back(0)
    assert settled.holds_back(2)
    settled.published(1)
    assert settled.fenced_outcomes()[:2] == [PUBLISHED, Dead(POISON)]


def test_the_first_failure_of_a_key_counts_in_whatever_order_they_are_found() -> None:
    settled = page("aaaa")
    settled.fail(3, POISON)
    settled.retry([1], DOWN)
    settled.fail(2, POISON)
    assert not settled.holds_back(0)
    assert settled.holds_back(2)


def test_events_without_a_key_hold_nobody_back() -> None:
    settled = page("--")
    settled.fail(0, POISON)
    assert not settled.holds_back(1)
    settled.published(1)
    assert settled.fenced_outcomes() == [Dead(POISON), PUBLISHED]


def test_an_envelope_without_an_outcome_is_never_taken_for_published() -> None:
    with pytest.raises(AssertionError, match="without an outcome"):
        page("a").fenced_outcomes()
