"""Which events a route carries, told by their types and attributes; pure."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from outbox.rows import CONTENT_TYPE, HEADERS, ID, KEY, SOURCE, SUBJECT, TOPIC, VERSION, texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outbox.rows import Row, Rows

KNOWN_TYPES = 10_000
"""Types whose result is remembered from one page to the next, at most."""
COLUMNS: Final = {
    "id": ID,
    "source": SOURCE,
    "version": VERSION,
    "subject": SUBJECT,
    "partitionkey": KEY,
    "topic": TOPIC,
    "datacontenttype": CONTENT_TYPE,
}
"""Attributes with a column of their own, by their CloudEvents names; all others are headers."""


class EventFilter:
    """Tells by its globs which events a route carries.

    An event is carried where its type matches one of `types`, and each attribute that `where`
    names is there and matches one of the attribute's globs.
    """

    def __init__(self, types: Sequence[str], where: Mapping[str, Sequence[str]]) -> None:
        self._globs = tuple(types)
        self._takes_all = "*" in self._globs
        self._known: dict[bytes, bool] = {}
        self._columns = [(COLUMNS[name], globs) for name, globs in where.items() if name in COLUMNS]
        self._headers = {name: globs for name, globs in where.items() if name not in COLUMNS}

    def select(self, events: Rows) -> Sequence[int]:
        """Return the indexes of the events that the route carries, in order."""
        chosen = self._select_types(events)
        if not (self._columns or self._headers):
            return chosen
        return [index for index in chosen if self._takes(events.rows[index])]

    def _select_types(self, events: Rows) -> Sequence[int]:
        if self._takes_all:
            return range(len(events))
        types = events.types()
        if len(self._known) > KNOWN_TYPES:
            self._known.clear()
        for name in set(types) - self._known.keys():
            self._known[name] = _matches(name.decode(), self._globs)
        return [index for index, name in enumerate(types) if self._known[name]]

    def _takes(self, row: Row) -> bool:
        if not all(_matches(_text(row[column]), globs) for column, globs in self._columns):
            return False
        if not self._headers:
            return True
        found = texts(row[HEADERS])
        return all(_matches(found.get(name), globs) for name, globs in self._headers.items())


def _matches(text: str | None, globs: Sequence[str]) -> bool:
    return text is not None and any(fnmatchcase(text, glob) for glob in globs)


def _text(value: bytes | int | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else None if value is None else str(value)
