"""How many rows to read, so that the data of a page comes to no more than it may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Row = TypeVar("Row")

PAGE_BYTES: Final = 8_000_000
"""Data that a page should come to, at most."""
FIRST_ROWS: Final = 100
"""A term begins with so few: it may be here because the last page took all memory."""
GROWTH: Final = 4
"""So many times as many rows may the next page have."""
_SHARE: Final = 0.9
"""Of a page that events of the expected size may fill: the next ones may be a little larger."""


class Average:
    """Expects events as large as those of the last page, where the database bounds a page itself.

    A page that would be too large is read twice: first only its size. This makes it rare.
    """

    def __init__(self) -> None:
        self._fitting: int | None = None

    def limit(self, wanted: int) -> int:
        """Return how many rows to read, at most `wanted`."""
        return wanted if self._fitting is None else min(wanted, self._fitting)

    def read(self, count: int, size: int) -> None:
        """Take in how many rows a page had, and the bytes of their data."""
        if count and size:
            self._fitting = max(1, int(_SHARE * PAGE_BYTES) * count // size)


class Sizing:
    """Guesses from the last page how many rows fit into the next one, where nothing else does."""

    def __init__(self) -> None:
        self._limit = FIRST_ROWS

    def limit(self, wanted: int) -> int:
        """Return how many rows to read, at most `wanted`."""
        return min(wanted, self._limit)

    def read(self, count: int, size: int) -> None:
        """Take in how many rows were read, and the bytes of their data."""
        grown = GROWTH * self._limit
        fitting = PAGE_BYTES * count // size if size else grown
        self._limit = max(1, min(grown, fitting))


def fitting(rows: Iterable[Row], size_of: Callable[[Row], int]) -> tuple[list[Row], bool]:
    """Take rows until their data comes to a page; tell whether there was another one.

    One row is always taken, however large it is. The rest is not fetched.
    """
    taken: list[Row] = []
    left = PAGE_BYTES
    for row in rows:
        left -= size_of(row)
        if left < 0 and taken:
            return taken, True
        taken.append(row)
    return taken, False
