"""Numbered objects that are each created once: the one thing that all safety here rests on.

`If-None-Match: *` lets one writer have a number, whoever else tries. So a chain is a log that no
two writers can interleave in, and its last object is a value that is changed by compare-and-set:
whoever makes the next number has seen the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from outbox.transports.s3.store import Store

_DIGITS: Final = 20
_SUFFIX: Final = ".json"
FIRST: Final = 1
_STRIDE: Final = 1_000
"""Keys of one page of a list, and the first step of a search."""


class Chain:
    """Objects `<folder><number>.json`, numbered from 1 without a gap; old ones may be deleted."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder

    def key(self, number: int) -> str:
        """Return the key of a number."""
        return f"{self._folder}{number:0{_DIGITS}d}{_SUFFIX}"

    def get(self, number: int, deadline: float) -> bytes | None:
        """Return an object; None where it is not there yet, or not any more."""
        return self._store.get(self.key(number), deadline)

    def create(self, number: int, body: bytes, deadline: float) -> bool:
        """Store the next object; False where another writer has that number. See `Store.create`."""
        return self._store.create(self.key(number), body, deadline)

    def honours_conditions(self, number: int, body: bytes, deadline: float) -> bool:
        """See `Store.honours_conditions`."""
        return self._store.honours_conditions(self.key(number), body, deadline)

    def delete(self, number: int, deadline: float) -> None:
        """Delete an object that is not the last one."""
        self._store.delete(self.key(number), deadline)

    def first_after(self, number: int, deadline: float) -> int | None:
        """Return the lowest number above one; None where there is none."""
        found = self._numbers(number, deadline, limit=1)
        return found[0] if found else None

    def after(self, number: int, deadline: float) -> list[int]:
        """Return up to a thousand numbers above one, in order."""
        return self._numbers(number, deadline, limit=_STRIDE)

    def last(self, known: int, deadline: float) -> int:
        """Return the last number, at least `known`; 0 in an empty chain.

        It takes a few lists where `known` is near, and some twenty for a million.
        """
        page = self.after(known, deadline)
        if len(page) < _STRIDE:
            return page[-1] if page else known
        low, step = page[-1], _STRIDE
        # Above `low` there may be more; above `high` there is nothing.
        while self.first_after(low + step, deadline) is not None:
            low += step
            step *= 2
        high = low + step
        while low < high:
            middle = (low + high) // 2
            following = self.first_after(middle, deadline)
            if following is None:
                high = middle
            else:
                low = following
        return low

    def _numbers(self, above: int, deadline: float, *, limit: int) -> list[int]:
        keys = self._store.keys(self._folder, self.key(above), deadline, limit=limit)
        texts = [key.removeprefix(self._folder).removesuffix(_SUFFIX) for key in keys]
        # What else somebody put into the folder is no part of it.
        return [int(text) for text in texts if len(text) == _DIGITS and text.isdecimal()]
