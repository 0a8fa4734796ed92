"""Gaps as sets of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from relay.capture.gap import Gap, Gaps, between, filled, up_to

NUMBERS = st.sets(st.integers(1, 40)).map(sorted)


def numbers_of(gaps: Gaps) -> list[int]:
    """Return the numbers in ascending order, after checking the form of the list."""
    assert all(gap.first <= gap.last for gap in gaps)
    assert all(left.last < right.first for left, right in pairwise(gaps))
    return [number for gap in gaps for number in range(gap.first, gap.last + 1)]


@given(NUMBERS, st.integers(0, 50))
def test_what_is_not_seen_between_a_floor_and_the_highest_number_is_missing(
    numbers: list[int], floor: int
) -> None:
    above = [number for number in numbers if number > floor]
    expected = sorted(set(range(floor + 1, max(above, default=0) + 1)) - set(above))
    assert numbers_of(between(floor, above, 7)) == expected


@given(NUMBERS, NUMBERS)
def test_what_is_seen_is_missing_no_more(missing: list[int], seen: list[int]) -> None:
    gaps = between(0, sorted({*range(1, 42)} - {*missing}), 7)
    assert numbers_of(filled(gaps, seen)) == sorted({*missing} - {*seen})


@given(NUMBERS, st.integers(0, 50))
def test_what_lies_above_a_floor_is_cut_off(missing: list[int], floor: int) -> None:
    gaps = between(0, sorted({*range(1, 42)} - {*missing}), 7)
    assert numbers_of(up_to(gaps, floor)) == [each for each in missing if each <= floor]


def test_each_part_of_a_gap_keeps_the_time_at_which_it_was_seen() -> None:
    gaps = (Gap(3, 9, seen_at=100), Gap(12, 12, seen_at=200))
    assert filled(gaps, [5, 12]) == (Gap(3, 4, 100), Gap(6, 9, 100))
    assert up_to(gaps, 4) == (Gap(3, 4, 100),)
