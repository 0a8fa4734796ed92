"""The table `outbox_audit`: reading its records, and finding one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from outbox.audit.chain import Head
from outbox.audit.record import Record
from outbox.dialect import is_mysql
from outbox.table import outbox_audit as audit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

PAGE: Final = 5_000
"""Records that are read at once."""

_COLUMNS: Final = tuple(column for column in audit.columns if column.name != "recorded_at")
_FORMS: Final = {
    "postgresql": ("to_char", 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    "mysql": ("date_format", "%Y-%m-%dT%H:%i:%s.%fZ"),
}
_NO_FRACTION: Final = ".000000Z"


def _select(dialect: sa.Dialect) -> Any:
    """Return the query of all records, of values as the driver has them.

    Whoever tampers with a row may write what no type of ours could read, such as the time
    `infinity`; and half a million values a second are to be read without a function for each. So
    the server writes the time as `outbox.codec.time_text` does.
    """
    columns = [sa.type_coerce(column, sa.types.NullType()) for column in _COLUMNS]
    moment: Any = audit.c.time
    if dialect.name != "sqlite":
        name, form = _FORMS["mysql" if is_mysql(dialect) else dialect.name]
        if dialect.name == "postgresql":
            moment = sa.func.timezone("UTC", moment)
        moment = getattr(sa.func, name)(moment, sa.literal_column(f"'{form}'"))
    moment = sa.func.replace(moment, _NO_FRACTION, "Z")
    columns[_COLUMNS.index(audit.c.time)] = sa.type_coerce(moment, sa.types.NullType())
    return sa.select(*columns).order_by(audit.c.position)


class TableChain:
    """The audit trail of a database, as a `Chain`; each page is read by a statement of its own."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._query = _select(engine.dialect)
        self._page = self._query.limit(PAGE)
        self._next_page = self._page.where(audit.c.position > sa.bindparam("after"))
        self._made = _made if engine.dialect.name == "postgresql" else _of_anything

    def pages(self, after: int | None) -> Iterator[Sequence[Record]]:
        """See `Chain.pages`; a page is read while the one before it is worked upon."""
        with ThreadPoolExecutor(max_workers=1) as reader:
            page = self._read(self._page if after is None else self._next_page, after=after)
            while page:
                coming = reader.submit(self._read, self._next_page, after=page[-1].position)
                yield page
                page = coming.result()

    def followers(self, previous_hash: bytes) -> Sequence[Record]:
        """See `Chain.followers`; there is no index for it, because few ever ask."""
        return self._read(self._query.where(audit.c.previous_hash == previous_hash))

    def last_position(self) -> int:
        """See `Chain.last_position`."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.max(audit.c.position))) or 0

    def size(self) -> int:
        """See `Chain.size`."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(audit)) or 0

    def head_at(self, position: int) -> Head | None:
        """Return a record's position and hash; None where there is none."""
        found = self._read(self._query.where(audit.c.position == position))
        return Head(found[0].position, found[0].hash) if found else None

    def with_id(self, event_id: str, source: str | None = None) -> Sequence[Record]:
        """Return the records of an event, most often one."""
        query = self._query.where(audit.c.event_id == event_id)
        if source is not None:
            query = query.where(audit.c.source == source)
        return self._read(query)

    def first_since(self, moment: datetime) -> int | None:
        """Return the first position whose event happened at a moment or later."""
        return self._position(sa.func.min(audit.c.position), audit.c.time >= moment)

    def last_before(self, moment: datetime) -> int | None:
        """Return the last position whose event happened before a moment."""
        return self._position(sa.func.max(audit.c.position), audit.c.time < moment)

    def _position(self, what: sa.ColumnElement[int], which: sa.ColumnElement[bool]) -> int | None:
        with self._engine.connect() as connection:
            found: int | None = connection.scalar(sa.select(what).where(which))
            return found

    def _read(self, query: Any, **values: Any) -> list[Record]:
        with self._engine.connect() as connection:
            try:
                found = connection.execute(query, values).all()
            except sa.exc.OperationalError:
                if self._engine.dialect.name != "sqlite":
                    raise
                # Most often text that is no UTF-8. A function for each text would cost as much as
                # all else, so it is called for a page that has such a text.
                with _any_text(connection):
                    found = connection.execute(query, values).all()
        return list(map(self._made, found))


@contextmanager
def _any_text(connection: sa.Connection) -> Iterator[None]:
    """Let SQLite's driver read text that is no UTF-8, in a form that nobody has written."""
    driver: Any = connection.connection.driver_connection
    before = driver.text_factory
    driver.text_factory = partial(str, encoding="utf-8", errors="backslashreplace")
    try:
        yield
    finally:
        driver.text_factory = before


def head_of(connection: sa.Connection) -> Head | None:
    """Return the last record's position and hash; None where there is none."""
    query = sa.select(audit.c.position, audit.c.hash).order_by(audit.c.position.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else Head(row.position, bytes(row.hash))


def _of_anything(row: sa.Row[Any]) -> Record:
    """Make a record of what a database sends that keeps names as bytes, or anything anywhere."""
    if _is_usual(tuple(map(type, row))):
        return _made(row)
    cells = list(row)
    for index, (cell, kind) in enumerate(zip(cells, _KINDS, strict=True)):
        if kind is str and isinstance(cell, bytes):
            cells[index] = cell.decode(errors="replace")
        elif not isinstance(cell, kind | None):
            # It is not what was written; so that it has a hash, and not the right one.
            cells[index] = repr(cell) if kind is not bytes else repr(cell).encode()
    return _made(cells)


@lru_cache
def _is_usual(types: tuple[type, ...]) -> bool:
    """Tell whether cells of these types are a record as they are."""
    return all(found in {kind, NoneType} for found, kind in zip(types, _KINDS, strict=True))


_KINDS: Final = (int, *[str] * 3, int, *[str] * 6, int, *[bytes] * 3)
_made: Final[Callable[[Iterable[Any]], Record]] = partial(tuple.__new__, Record)
"""Makes one in C, which a named tuple's own constructor does not."""
