"""The log as its readers see it: entries in order, and what each has for a partition."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from outbox.errors import ConfigurationError, DecodeError
from outbox.transports.s3.chain import Chain
from outbox.transports.s3.entry import read_entry
from outbox.transports.s3.keys import LOG
from outbox.transports.s3.membership import REQUEST_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import ThreadPoolExecutor

    from outbox.transports.s3.entry import Entry
    from outbox.transports.s3.store import Store

INDEX_BITS: Final = 20
"""An offset is an entry's number, and in so many low bits the place of an event in it."""
_AHEAD: Final = 8
"""Entries that are read at once where there are many to be read."""
_KEPT: Final = 32


class Page:
    """One entry, by topic and partition."""

    def __init__(self, entry: Entry, partitions: int) -> None:
        self._entry = entry
        self._indexes: dict[tuple[str, int], list[int]] = {}
        for index, event in enumerate(entry.events):
            place = (entry.topics[event.topic], event.hash % partitions)
            self._indexes.setdefault(place, []).append(index)
        self._replayed = {index: at for at, found in entry.replayed.items() for index in found}

    def indexes(self, topic: str, partition: int) -> Sequence[int]:
        """Return the places of a partition's events, in order."""
        return self._indexes.get((topic, partition), ())

    def place(self, index: int) -> tuple[str, int, int]:
        """Return an event's object, its size as stored, and the line there."""
        event = self._entry.events[index]
        return (*self._entry.objects[event.object], event.line)

    def replayed_at(self, index: int) -> str | None:
        """Return when the replay began that sent an event again; None where none did."""
        return self._replayed.get(index)


class LogReader:
    """Reads entries and keeps some; used from one thread."""

    def __init__(self, store: Store, pool: ThreadPoolExecutor, partitions: int) -> None:
        self._chain = Chain(store, LOG)
        self._pool = pool
        self._partitions = partitions
        self._pages: OrderedDict[int, Page] = OrderedDict()
        self._may_begin_later = True
        self._is_behind = True

    def may_begin_later(self) -> None:
        """Say that entries are asked for again that may have been deleted."""
        self._may_begin_later = True

    def first_at(self, number: int) -> int | None:
        """Return the number of the first entry from a number on; None at the end of the log."""
        if number in self._pages or self._load(number):
            return number
        if not self._may_begin_later:
            return None
        first = self._chain.first_after(number - 1, _deadline())
        self._may_begin_later = False
        return first if first is not None and self._load(first) else None

    def page(self, number: int) -> Page:
        """Return an entry that `first_at` has found."""
        self._pages.move_to_end(number)
        return self._pages[number]

    def _load(self, number: int) -> bool:
        """Read an entry, and those behind it where there was one behind the last."""
        numbers = range(number, number + (_AHEAD if self._is_behind else 1))
        found = list(self._pool.map(lambda each: self._chain.get(each, _deadline()), numbers))
        for each, stored in zip(numbers, found, strict=True):
            if stored is None:
                break
            self._pages[each] = self._read(each, stored)
        while len(self._pages) > _KEPT:
            self._pages.popitem(last=False)
        self._is_behind = None not in found
        return number in self._pages

    def _read(self, number: int, stored: bytes) -> Page:
        try:
            return Page(read_entry(stored), self._partitions)
        except DecodeError as exc:
            raise ConfigurationError(f"{self._chain.key(number)}: {exc}") from exc


def _deadline() -> float:
    return time.monotonic() + REQUEST_SECONDS
