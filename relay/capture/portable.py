"""Capture where a database tells nothing about its transactions (MariaDB): by floor and gaps.

A number is drawn when a row is inserted, and the row appears when its transaction commits. So a
number that is missing below one that was seen is a *gap*: its transaction is still open, or was
rolled back. Each page reads the gaps again, and what is above the floor, in one view of the
database; so each committed row is in one page, and no open transaction holds up the others.

A gap is given up once a reader of uncommitted rows finds none with its numbers either, some time
after it was first seen: by then a statement that drew a number has inserted its row.
"""

from __future__ import annotations

import time
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from outbox.chunks import in_chunks
from outbox.codec import ROW_COLUMNS
from outbox.errors import (
    CaptureRestartedError,
    ConfigurationError,
    DatabaseUnavailableError,
    ForeignPositionError,
)
from outbox.rows import DATA, SEQ, Row, Rows
from outbox.settings import shown
from outbox.table import outbox_event, outbox_incarnation
from relay.capture import Backlog
from relay.capture.gap import Gap, Gaps, between, filled
from relay.capture.position import PortablePosition, Server, read_portable
from relay.capture.sizing import Sizing, fitting
from relay.database import errors

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    Range = tuple[int, int]

GAP_SECONDS: Final = 60
"""A row is inserted sooner than that after its number was drawn, unless the server lets statements
wait even longer for a lock."""
CLOSE_SECONDS: Final = 5.0
"""How often old gaps are looked at."""
MAX_GAPS: Final = 20_000
"""With so many gaps nothing above the floor is read until some are gone: a position has to fit
into a record of the broker."""
CHUNK: Final = 500
"""Ranges in one statement, at most: MariaDB makes a temporary table of a list of a thousand."""

_SEQ: Final = outbox_event.c.seq
_NAMES: Final = (
    "server_uid",
    "server_id",
    "auto_increment_increment",
    "innodb_lock_wait_timeout",
    "wsrep_on",
)
_VARIABLES: Final = sa.text("SHOW GLOBAL VARIABLES WHERE Variable_name IN :names").bindparams(
    sa.bindparam("names", _NAMES, expanding=True)
)
_NEXT_NUMBER: Final = sa.text(
    "SELECT AUTO_INCREMENT FROM information_schema.TABLES"
    " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'outbox_event'"
)
_STATE: Final = sa.select(
    sa.select(outbox_incarnation.c.id).scalar_subquery(),
    sa.func.unix_timestamp(),
    sa.select(sa.func.max(_SEQ)).scalar_subquery(),
)


class _State(NamedTuple):
    """What a page has to know of the server."""

    server: Server
    now: int
    """Its clock, in seconds."""
    highest: int
    """The highest number of a committed row; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class PortablePage:
    """The rows of one read: those of gaps first, then those above the floor, each by number."""

    envelopes: Rows
    start: PortablePosition
    """Where it was read from, less the gaps that were given up."""
    late_count: int
    seen_at: int
    """A time by the server's clock at which the rows above the floor had been seen."""
    is_last: bool

    def position(self, count: int | None = None, /) -> PortablePosition:
        """Return the position once the first `count` events are settled, by default all."""
        rows = self.envelopes.rows[:count]
        late = [row[SEQ] for row in rows[: self.late_count]]
        fresh = [row[SEQ] for row in rows[self.late_count :]]
        floor = self.start.floor
        gaps = filled(self.start.gaps, late) if late else self.start.gaps
        if not fresh:
            return replace(self.start, gaps=gaps)
        gaps += between(floor, fresh, self.seen_at)
        return replace(self.start, floor=fresh[-1], gaps=gaps)


class PortableCapture:
    """Reads rows by their numbers, on a connection of its own in autocommit mode.

    Order: of two rows of one key the first was committed before the second drew its number. So
    it has the smaller number, and whichever view shows the second shows the first; late rows are
    all read before fresh ones of the same view, and both by number.
    """

    def __init__(self, engine: sa.Engine, source: str) -> None:
        """Connect as the engine does, at the first call; `source` is for events that have none."""
        self._engine = engine
        self._columns = _columns(source)
        self._connection: sa.Connection | None = None
        self._system = ""
        self._gap_seconds = GAP_SECONDS
        self._sizing = Sizing()
        self._next_close = 0.0
        self._highest = 0

    def beginning(self) -> PortablePosition:
        """Return the position below every row."""
        with self._reading() as connection:
            return PortablePosition(0, (), self._begin(connection).server)

    def now(self) -> PortablePosition:
        """Return the highest number as the floor, and every number as a gap that may still come.

        What was committed before is left out; a transaction that is still open is read when it
        commits. Walks once through the numbers of the table.
        """
        with self._reading() as connection:
            with _view(connection):
                missing = _missing(connection)
                floor = connection.scalar(sa.select(sa.func.max(_SEQ))) or 0
            with _view(connection, is_committed=False):
                unwritten = set(_missing(connection))
            state = self._begin(connection)
        # A number may have been drawn, and its row not inserted yet: that is among the newest.
        newest = set(missing[-MAX_GAPS // 2 :])
        gaps = tuple(
            Gap(*each, state.now) for each in missing if each in newest or each not in unwritten
        )
        return PortablePosition(floor, gaps, state.server)

    def position(self, stored: Mapping[str, Any], /) -> PortablePosition:
        """Read a stored position, which is told by numbers alone and so holds wherever they do.

        It was committed to the database after all that it covers, so it is not ahead of the rows
        that survived a crash or were replicated. Raises `ConfigurationError` where the numbers
        begin anew.
        """
        position = read_portable(stored)
        with self._reading() as connection:
            state = self._begin(connection)
            _check_numbering(connection, position)
        return replace(position, server=state.server)

    def trusts(self, stored: Mapping[str, Any], /) -> bool:
        """Tell whether the server was not restarted or replaced since the position was read."""
        with self._reading() as connection:
            return read_portable(stored).server == self._begin(connection).server

    def next_page(self, position: PortablePosition, limit: int, /) -> PortablePage:
        """Read on from a position."""
        limit = self._sizing.limit(limit)
        with self._reading() as connection:
            asked_at = time.monotonic()
            state = self._state(connection)
            _check_server(position.server, state.server)
            if state.highest < self._highest:
                _check_numbering(connection, position)
            self._highest = state.highest
            start = replace(position, gaps=self._open_gaps(connection, position, state))
            has_fresh = state.highest > start.floor
            is_held = has_fresh and len(start.gaps) >= MAX_GAPS
            fresh: list[Row] = []
            # One statement alone needs no transaction to see one view.
            is_one = not has_fresh and len(start.gaps) <= CHUNK
            with nullcontext() if is_one else _view(connection):
                late, is_cut = self._late(connection, start.gaps, limit)
                if has_fresh and not is_held and not is_cut and len(late) < limit:
                    fresh, is_cut = self._fresh(connection, start.floor, limit - len(late))
        rows = late + fresh
        if is_held and not late:
            raise DatabaseUnavailableError(
                f"{shown(self._engine.url)}: {len(start.gaps):,} numbers of events are missing"
                f" below {start.floor:,}, because their transactions are still open, or were rolled"
                f" back within {self._gap_seconds} s: reading goes on once these have ended"
            )
        self._sizing.read(len(rows), sum(len(row[DATA]) for row in rows))
        return PortablePage(
            envelopes=Rows(rows),
            start=start,
            late_count=len(late),
            seen_at=state.now + 1 + round(time.monotonic() - asked_at),
            is_last=not (is_cut or is_held) and len(rows) < limit,
        )

    def backlog(self, position: PortablePosition, /) -> Backlog:
        """Count what is visible now and comes after a position."""
        total, first_at = 0, None
        with self._reading() as connection, _view(connection):
            for condition in [*_within(position.gaps), position.floor < _SEQ]:
                oldest = sa.select(outbox_event.c.time).where(condition).order_by(_SEQ).limit(1)
                query = sa.select(sa.func.count(), oldest.scalar_subquery()).where(condition)
                count, oldest_at = connection.execute(query.select_from(outbox_event)).one()
                total, first_at = total + count, first_at or oldest_at
        return Backlog(total, first_at)

    def close(self) -> None:
        """Close the connection; a later call opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """Lend the connection; after any error the next call opens another one."""
        try:
            with errors(self._engine):
                yield self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
            self._connection.execution_options(isolation_level="AUTOCOMMIT")
            self._connection.detach()
            self._connection.exec_driver_sql(
                "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"
            )
            self._check(self._connection)
        return self._connection

    def _check(self, connection: sa.Connection) -> None:
        """Raise `ConfigurationError` unless numbers on this server mean what the capture needs."""
        if not getattr(connection.dialect, "is_mariadb", False):
            raise ConfigurationError(
                f"{shown(self._engine.url)} is MySQL, which tells its next number late, so that a"
                " counter that was set back would go unnoticed: the relay reads MariaDB only"
            )
        variables = {row[0]: row[1] for row in connection.execute(_VARIABLES)}
        if variables.get("wsrep_on") == "ON" or variables["auto_increment_increment"] != "1":
            raise ConfigurationError(
                f"{shown(self._engine.url)} does not draw the numbers of events one by one (it is"
                " a node of a Galera cluster, or auto_increment_increment is not 1), so they could"
                " be lost: write events, and relay them, on a server that does"
            )
        self._system = variables.get("server_uid") or variables["server_id"]
        self._gap_seconds = _gap_seconds(int(variables["innodb_lock_wait_timeout"]))

    def _begin(self, connection: sa.Connection) -> _State:
        """Return the state of the server, which has an incarnation from now on."""
        if connection.scalar(sa.select(outbox_incarnation.c.id)) is None:
            with suppress(sa.exc.IntegrityError):  # another relay has just done so
                connection.execute(sa.insert(outbox_incarnation))
        return self._state(connection)

    def _state(self, connection: sa.Connection) -> _State:
        incarnation, now, highest = connection.execute(_STATE).one()
        return _State(Server(self._system, str(incarnation)), int(now), highest or 0)

    def _open_gaps(
        self, connection: sa.Connection, position: PortablePosition, state: _State
    ) -> Gaps:
        """Return the gaps that may still be filled."""
        now = time.monotonic()
        if not position.gaps or now < self._next_close:
            return position.gaps
        self._next_close = now + CLOSE_SECONDS
        old = [gap for gap in position.gaps if gap.seen_at + self._gap_seconds <= state.now]
        if not old:
            return position.gaps
        with _view(connection, is_committed=False):
            gone = set(old).difference(_written(connection, old))
        return tuple(gap for gap in position.gaps if gap not in gone)

    def _late(self, connection: sa.Connection, gaps: Gaps, limit: int) -> tuple[list[Row], bool]:
        return self._read(connection, _within(gaps), limit)

    def _fresh(self, connection: sa.Connection, floor: int, limit: int) -> tuple[list[Row], bool]:
        return self._read(connection, [floor < _SEQ], limit)

    def _read(
        self, connection: sa.Connection, conditions: Iterable[sa.ColumnElement[bool]], limit: int
    ) -> tuple[list[Row], bool]:
        """Read rows by number; tell whether some were left because of their size."""
        with closing(self._rows(connection, conditions, limit)) as rows:
            return fitting(rows, lambda row: len(row[DATA]))

    def _rows(
        self, connection: sa.Connection, conditions: Iterable[sa.ColumnElement[bool]], limit: int
    ) -> Generator[Row, None, None]:
        query = sa.select(*self._columns).order_by(_SEQ)
        options = {"stream_results": True}
        for condition in conditions:
            if limit <= 0:
                return
            statement = query.where(condition).limit(limit)
            with connection.execute(statement, execution_options=options) as found:
                for row in found:
                    limit -= 1
                    yield tuple(row)


def _gap_seconds(lock_wait_seconds: int) -> int:
    """Return how long after its number was drawn a row may still be inserted."""
    return max(GAP_SECONDS, lock_wait_seconds + lock_wait_seconds // 5)


def _columns(source: str) -> list[sa.ColumnElement[Any]]:
    """Return what makes a `Row`: the columns as bytes, so that nothing decodes their text."""
    event = outbox_event.c
    special: dict[str, sa.ColumnElement[Any]] = {
        "seq": event.seq,
        "version": event.version,
        "data": event.data,
        "source": _binary(sa.func.coalesce(event.source, source)),
        "time": _binary(sa.func.date_format(event.time, '"%Y-%m-%dT%H:%i:%s.%f"')),
        "headers": _binary(sa.func.nullif(sa.type_coerce(event.headers, sa.Text), "{}")),
    }
    return [special.get(name, _binary(event[name])) for name in ROW_COLUMNS]


def _binary(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(column, sa.LargeBinary)


@contextmanager
def _view(connection: sa.Connection, *, is_committed: bool = True) -> Iterator[None]:
    """Let all statements of a block read one view of what is committed.

    Or else whatever is written, committed or not, at the time of each statement.
    """
    if not is_committed:
        # For the next transaction alone.
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
    connection.exec_driver_sql("START TRANSACTION READ ONLY")
    yield
    connection.exec_driver_sql("COMMIT")


def _within(gaps: Sequence[Gap]) -> Iterator[sa.ColumnElement[bool]]:
    """Yield conditions that together find the rows of the gaps, in the order of their numbers."""
    for chunk in in_chunks(gaps, CHUNK):
        ranges = [_SEQ.between(gap.first, gap.last) for gap in chunk if gap.first < gap.last]
        yield sa.or_(_SEQ.in_([gap.first for gap in chunk if gap.first == gap.last]), *ranges)


def _written(connection: sa.Connection, gaps: Sequence[Gap]) -> set[Gap]:
    """Return the gaps of which this view of the database shows a row."""
    found: set[Gap] = set()
    for part in in_chunks(gaps, CHUNK):
        chunk = {gap.first: gap for gap in part}
        looks = [
            sa.select(sa.literal(gap.first)).where(
                sa.exists().where(_SEQ.between(gap.first, gap.last))
            )
            for gap in chunk.values()
        ]
        found.update(chunk[first] for first in connection.scalars(sa.union_all(*looks)))
    return found


def _missing(connection: sa.Connection) -> list[Range]:
    """Return the numbers that no row has, below the highest that one has."""
    before = sa.func.coalesce(sa.func.lag(_SEQ).over(order_by=_SEQ), 0).label("before")
    numbers = sa.select(_SEQ, before).subquery()
    first, last = numbers.c.before + 1, numbers.c.seq - 1
    query = sa.select(first, last).where(first <= last).order_by(first)
    return [(row[0], row[1]) for row in connection.execute(query)]


def _check_server(known: Server, found: Server) -> None:
    if known != found:
        raise CaptureRestartedError(
            "the database server was restarted or replaced since the position was read: the"
            " position may be ahead of the rows that are there, so take the stored one again"
        )


def _check_numbering(connection: sa.Connection, position: PortablePosition) -> None:
    """Refuse a counter that was set back: its next events would count as delivered."""
    following = connection.scalar(_NEXT_NUMBER)
    if following is not None and following <= position.floor:
        raise ForeignPositionError(
            f"the next event will have the number {following}, but events up to {position.floor}"
            " were delivered: the table was emptied by TRUNCATE, or restored without its counter."
            " To deliver all that is there and what follows, run `outbox relay --rebase`"
        )
