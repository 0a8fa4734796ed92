from __future__ import annotations

import pytest

from outbox.transports.ledger import Ledger


@pytest.fixture
def ledger() -> Ledger[str]:
    """A ledger with offsets 3, 5 and 9 of a partition out."""
    ledger: Ledger[str] = Ledger()
    for offset in (3, 5, 9):
        ledger.deliver("p", offset)
    return ledger


def test_the_commit_is_behind_the_last_that_nothing_unsettled_precedes(ledger: Ledger[str]) -> None:
    assert ledger.ack("p", [5]) is None
    assert ledger.ack("p", [3]) == 6
    assert ledger.ack("p", [9]) == 10


def test_acknowledging_twice_is_once(ledger: Ledger[str]) -> None:
    assert ledger.ack("p", [3]) == 4
    assert ledger.ack("p", [3]) is None
    assert ledger.ack("p", [3, 5]) == 6


def test_giving_back_forgets_what_followed(ledger: Ledger[str]) -> None:
    assert ledger.nack("p", 5)
    assert not ledger.nack("p", 9)
    assert ledger.ack("p", [9]) is None
    assert ledger.ack("p", [3]) == 4


def test_an_acknowledgement_behind_what_was_given_back_does_not_count(ledger: Ledger[str]) -> None:
    ledger.ack("p", [9])
    ledger.nack("p", 5)
    for offset in (5, 9):
        ledger.deliver("p", offset)
    assert ledger.ack("p", [3, 5]) == 6


def test_a_lost_partition_is_forgotten(ledger: Ledger[str]) -> None:
    assert ledger.forget("p") == 3
    assert ledger.ack("p", [3]) is None
    assert not ledger.nack("p", 3)
    assert ledger.forget("p") == 0
