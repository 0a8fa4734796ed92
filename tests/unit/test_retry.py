"""How long a back-off waits."""

from __future__ import annotations

import pytest

from outbox.retry import FIRST_SECONDS, BackOff


def test_waits_grow_from_the_first_to_the_maximum() -> None:
    highest = [0.0] * 12
    for _ in range(200):
        back_off = BackOff(10.0)
        for number in range(12):
            wait = back_off.next()
            assert FIRST_SECONDS <= wait <= 10.0
            highest[number] = max(highest[number], wait)
    assert highest[0] <= 0.2
    assert highest[3] <= 1.6
    assert highest[11] > 8.0


def test_waits_differ_so_that_many_do_not_try_in_step() -> None:
    waits = set()
    for _ in range(20):
        back_off = BackOff(10.0)
        for _ in range(5):
            last = back_off.next()
        waits.add(last)
    assert len(waits) > 10


def test_a_success_begins_anew() -> None:
    back_off = BackOff(10.0)
    for _ in range(8):
        back_off.next()
    back_off.reset()
    assert back_off.attempt_count == 0
    assert back_off.next() <= 0.2


@pytest.mark.parametrize("maximum", [0.01, 0.05])
def test_a_maximum_below_the_first_wait_holds(maximum: float) -> None:
    back_off = BackOff(maximum)
    assert all(back_off.next() <= maximum for _ in range(5))
