"""Long lists in parts, because databases limit the values of one statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Item = TypeVar("Item")


def in_chunks(values: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield the values in their order, `size` at a time; nothing where there are none."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
