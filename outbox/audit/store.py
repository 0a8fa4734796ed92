"""The table `outbox_audit`: reading its records, and finding one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from outbox.any_text import fetch
from outbox.audit.chain import START, ChainBrokenError, Finding, Head
from outbox.audit.record import HASH_BYTES, KINDS, Record, Strange, made
from outbox.columns import Name
from outbox.dialect import is_mysql
from outbox.table import outbox_audit as audit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

PAGE: Final = 5_000
"""Records that are read at once."""

_COLUMNS: Final = tuple(column for column in audit.columns if column.name != "recorded_at")
_NO_FRACTION: Final = ".000000Z"
_FIRST, _LAST = sa.text("'0001-01-01T00:00:00Z'"), sa.text("'9999-12-31T23:59:59.999999Z'")
_SQLITE_LENGTH: Final = len("0001-01-01T00:00:00.000000Z")


def _select(dialect: sa.Dialect) -> Any:
    """Return the query of all records, of values as the driver has them.

    Whoever tampers with a row may write what no type of ours could read, such as the time
    `infinity`; and half a million values a second are to be read without a function for each. So
    the server writes the time as `outbox.codec.time_text` does.
    """
    columns = [sa.type_coerce(column, sa.types.NullType()) for column in _COLUMNS]
    columns[_COLUMNS.index(audit.c.time)] = sa.type_coerce(_moment(dialect), sa.types.NullType())
    return sa.select(*columns).order_by(audit.c.position)


def _moment(dialect: sa.Dialect) -> Any:
    """Return the time as text that no two different times have in common.

    What `time_text` never writes, another era or a text that is no time, comes in another form.
    """
    time = sa.type_coerce(audit.c.time, sa.types.NullType())
    if dialect.name == "sqlite":
        is_ours = sa.and_(
            sa.func.typeof(time) == sa.literal_column("'text'"),
            sa.func.length(time) == sa.literal_column(str(_SQLITE_LENGTH)),
        )
        # As bytes it is none of ours.
        return sa.case((is_ours, _shortened(time)), else_=sa.cast(time, sa.LargeBinary))
    if is_mysql(dialect):
        form: Any = sa.literal_column("'%Y-%m-%dT%H:%i:%s.%fZ'")
        return _shortened(sa.func.date_format(time, form))
    form = sa.literal_column("""'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'""")
    ours = _shortened(sa.func.to_char(sa.func.timezone("UTC", time), form))
    # The form has neither an era nor infinity, and the text has a space where it has a T.
    return sa.case((time.between(_FIRST, _LAST), ours), else_=sa.cast(time, sa.Text))


def _shortened(moment: Any) -> Any:
    return sa.func.replace(moment, sa.literal_column(f"'{_NO_FRACTION}'"), sa.literal_column("'Z'"))


class TableChain:
    """The audit trail of a database, as a `Chain`; each page is read by a statement of its own."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._query = _select(engine.dialect)
        self._page = self._query.limit(PAGE)
        self._next_page = self._page.where(audit.c.position > sa.bindparam("after"))
        self._cells = _cells(engine.dialect)

    @property
    def start(self) -> Head:
        """See `Chain.start`."""
        return START

    def pages(self, after: int | None) -> Iterator[Sequence[Record]]:
        """See `Chain.pages`; a page is read while the one before it is worked upon.

        Raises `ChainBrokenError` where a position is none.
        """
        if after is None:
            self._read(self._query.where(audit.c.position.is_(None)).limit(1))
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
        """See `Chain.head_at`."""
        if position == START.position:
            return START
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
            return self._records(fetch(connection, query, values, _text))

    def _records(self, found: Sequence[sa.Row[Any]]) -> list[Record]:
        """Make records, column by column: most often a look at its types is all that it takes."""
        if not found:
            return []
        cells = zip(*found, strict=True)
        columns = [read(column) for read, column in zip(self._cells, cells, strict=True)]
        records = list(map(made, zip(*columns, strict=True)))
        nowhere = next((each for each in records if type(each.position) is not int), None)
        if nowhere is not None:
            reason = "its position is no whole number"
            raise ChainBrokenError(Finding("changed", 0, str(nowhere.event_id), reason))
        return records


def _text(cell: bytes) -> str | Strange:
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return _strange(cell)


def head_of(connection: sa.Connection) -> Head | None:
    """Return the last record's position and hash; None where there is none."""
    query = sa.select(audit.c.position, audit.c.hash).order_by(audit.c.position.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else Head(row.position, bytes(row.hash))


def _cells(dialect: sa.Dialect) -> list[Callable[[tuple[Any, ...]], Sequence[Any]]]:
    """Return for each column what makes a record's values of what the driver sends."""
    read: list[Callable[[tuple[Any, ...]], Sequence[Any]]] = []
    for column, kind in zip(_COLUMNS, KINDS, strict=True):
        kinds = frozenset({kind, NoneType} if column.nullable else {kind})
        # Names are kept as bytes there, which compare as such.
        is_name = is_mysql(dialect) and isinstance(column.type, Name)
        read.append(partial(_names if is_name else _values, kinds))
    return read


def _values(kinds: frozenset[type], cells: tuple[Any, ...]) -> Sequence[Any]:
    if set(map(type, cells)) <= kinds:
        return cells
    strange: Callable[[Any], Any] = _strange_bytes if bytes in kinds else _strange
    return [cell if type(cell) in kinds else strange(cell) for cell in cells]


def _names(kinds: frozenset[type], cells: tuple[Any, ...]) -> Sequence[Any]:
    texts = [_text(cell) if type(cell) is bytes else cell for cell in cells]
    return _values(kinds, tuple(texts))


def _strange(cell: object) -> Strange:
    return cell if isinstance(cell, Strange) else Strange(repr(cell))


def _strange_bytes(cell: object) -> bytes:
    """Return bytes that are longer than every hash."""
    return repr(cell).encode().ljust(HASH_BYTES + 1)
