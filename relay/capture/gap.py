"""Gaps: numbers that no row was seen with yet, though a higher one was; pure arithmetic.

A gap is of a transaction that is still open, or of one that was rolled back. Lists of gaps are in
ascending order and do not overlap.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Gap(NamedTuple):
    """Consecutive numbers that are missing."""

    first: int
    last: int
    seen_at: int
    """When a higher number was first seen, by the server's clock, in seconds: by then each of
    them had been drawn, if it ever will be."""


Gaps = tuple[Gap, ...]


def between(floor: int, numbers: Iterable[int], seen_at: int) -> Gaps:
    """Return the gaps that ascending numbers above a floor leave."""
    found: list[Gap] = []
    for number in numbers:
        if number > floor + 1:
            found.append(Gap(floor + 1, number - 1, seen_at))
        floor = number
    return tuple(found)


def filled(gaps: Gaps, numbers: Sequence[int]) -> Gaps:
    """Return what is still missing once rows with these numbers, ascending, were seen."""
    left: list[Gap] = []
    start = 0
    for gap in gaps:
        start = bisect_left(numbers, gap.first, start)
        first = gap.first
        while start < len(numbers) and numbers[start] <= gap.last:
            if numbers[start] > first:
                left.append(gap._replace(first=first, last=numbers[start] - 1))
            first = numbers[start] + 1
            start += 1
        if first <= gap.last:
            left.append(gap._replace(first=first))
    return tuple(left)


def up_to(gaps: Gaps, floor: int) -> Gaps:
    """Return the part of the gaps that is numbered up to a floor."""
    kept = [gap for gap in gaps if gap.first <= floor]
    if kept and kept[-1].last > floor:
        kept[-1] = kept[-1]._replace(last=floor)
    return tuple(kept)
