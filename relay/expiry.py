"""What is old enough to be deleted, table by table and batch by batch.

A walk goes over one table in the order of its key, a batch at a time, each in a transaction of its
own. Between two of them it is a cursor: a JSON value, None at the beginning.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
import sqlalchemy as sa

from outbox import clock
from outbox.dialect import is_mysql
from outbox.settings import RESERVED
from outbox.table import outbox_checkpoint, outbox_dead_letter, outbox_event, outbox_inbox
from relay.delivered import Delivered, Held, delivered
from relay.sql import statements

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from outbox.settings import RouteSettings, Settings

    Compare = Callable[[Any, Any], sa.ColumnElement[bool]]

_SQL: Final = {name: sa.text(text.decode()) for name, text in statements("retention").items()}

EVENTS_AGAIN: Final = timedelta(hours=1)
"""How often the walk over events begins anew, for rows that were passed by on the way."""
SHARE: Final = 24
"""The other tables are walked through so many times within their age: rows live 4 % longer."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of one batch."""

    deleted: int
    cursor: Any
    """Where to walk on; where the walk is over, from where the next one may."""
    is_over: bool
    held: str | None = None
    """Why rows that are old enough are kept."""


class Expiry(Protocol):
    """One table, and what of it goes."""

    @property
    def table(self) -> str:
        """The name of the table's setting."""
        ...

    @property
    def again(self) -> timedelta:
        """How long after the beginning of a walk the next one begins."""
        ...

    @property
    def goes_on(self) -> bool:
        """Whether there is more to do where the last walk ended, before the next one begins."""
        ...

    def lock(self, connection: sa.Connection) -> None:
        """Take the locks of a batch: called first in its transaction."""
        ...

    def batch(self, connection: sa.Connection, cursor: Any, size: int) -> Batch:
        """Walk over at most `size` rows and delete those that are old enough."""
        ...

    def count(self, connection: sa.Connection) -> tuple[int, str | None]:
        """Count what a walk would delete now, and say what holds back more; reads the table."""
        ...


def expiries(settings: Settings) -> Sequence[Expiry]:
    """Return the tables from which anything is to be deleted."""
    retention = settings.retention
    found: list[Expiry] = []
    if retention.events is not None:
        found.append(Events(retention.events, settings.routes))
    if retention.inbox is not None:
        found.append(Inbox(retention.inbox))
    if retention.dead_letters is not None:
        found.append(Letters(retention.dead_letters))
    return found


@dataclass(frozen=True, slots=True)
class Events:
    """Events that every route has delivered, in the order of their numbers, oldest first.

    Numbers are in the order of time but for a little, so a walk ends where nothing is old enough
    any more, and the next one goes on a batch before that. It never comes back over the index
    entries of what was deleted: there may be millions, until a vacuum has removed them.
    """

    age: timedelta
    routes: Mapping[str, RouteSettings]

    @property
    def table(self) -> str:
        """The name of the setting."""
        return "events"

    @property
    def again(self) -> timedelta:
        """Rows that committed late, or have a time in the future, are passed by until then."""
        return EVENTS_AGAIN

    @property
    def goes_on(self) -> bool:
        """New rows become old all the time."""
        return True

    def lock(self, connection: sa.Connection) -> None:
        """Lock the table as a writer does."""
        if connection.dialect.name == "postgresql":
            connection.execute(_SQL["waiting_shortly"])
            connection.execute(_SQL["lock_events"])

    def batch(self, connection: sa.Connection, cursor: Any, size: int) -> Batch:
        """Delete what is delivered on every route and older than the age."""
        at, resume = cursor or (0, 0)
        match self.delivered(connection):
            case Held(reason):
                return Batch(0, (resume, resume), is_over=True, held=reason)
            case Delivered() as found:
                pass
        delete = _delete_events if connection.dialect.name == "postgresql" else _delete_serially
        walked = delete(connection, found, self.age, at, size)
        if walked.deleted:
            # Where this batch begins to be young the next walk goes on.
            resume = walked.last if walked.kept is None else walked.kept - 1
        is_through = walked.read < size
        if is_through or (walked.deleted == 0 and not walked.is_ahead):
            held = self.held(connection, found) if is_through else None
            return Batch(walked.deleted, (resume, resume), is_over=True, held=held)
        return Batch(walked.deleted, (walked.last, resume), is_over=False)

    def count(self, connection: sa.Connection) -> tuple[int, str | None]:
        """Count what is delivered on every route and older than the age."""
        match self.delivered(connection):
            case Held(reason):
                return 0, reason
            case Delivered() as found:
                conditions = [*is_delivered(found), self._is_old()]
        query = sa.select(sa.func.count()).select_from(outbox_event).where(*conditions)
        return connection.scalar(query) or 0, self.held(connection, found)

    def _is_old(self) -> sa.ColumnElement[bool]:
        return outbox_event.c.time < _ago(self.age)

    def delivered(self, connection: sa.Connection) -> Delivered | Held:
        """Return what every route has delivered, or why nothing may go."""
        columns = outbox_checkpoint.c
        query = sa.select(columns.route, columns.position).where(
            columns.route.not_like(f"{RESERVED}%")
        )
        stored = {row.route: row.position for row in connection.execute(query)}
        return delivered(self.routes, stored, connection.dialect.name, system_of(connection))

    def held(self, connection: sa.Connection, found: Delivered) -> str | None:
        """Name the route for which rows are kept that are old enough."""
        query = sa.select(self._is_old()).where(outbox_event.c.seq > found.floor)
        if connection.scalar(query.order_by(outbox_event.c.seq).limit(1)):
            return f"route {found.slowest} has not delivered older events yet"
        return None


@dataclass(frozen=True, slots=True)
class Inbox:
    """What consumers handled, beyond what a route that is moved back could send again.

    An event that is still stored was numbered after the oldest stored one was written, and handled
    later still; so what was handled before that is of no event that is stored.
    """

    age: timedelta

    @property
    def table(self) -> str:
        """The name of the setting."""
        return "inbox"

    @property
    def again(self) -> timedelta:
        """See `SHARE`."""
        return _share(self.age)

    @property
    def goes_on(self) -> bool:
        """The key is not in the order of time, so a walk sees all that there is."""
        return False

    def lock(self, connection: sa.Connection) -> None:
        """Lock the events first, which are read later (see `lock_events`)."""
        if connection.dialect.name == "postgresql":
            connection.execute(_SQL["waiting_shortly"])
            connection.execute(_SQL["lock_events_for_reading"])

    def batch(self, connection: sa.Connection, cursor: Any, size: int) -> Batch:
        """Delete what was handled longer ago than the age."""
        columns = list(outbox_inbox.primary_key.columns)
        compared = _by_column if is_mysql(connection.dialect) else _as_row
        above = [] if cursor is None else [compared(columns, operator.gt, cursor)]
        query = sa.select(*columns).where(*above).order_by(*columns).offset(size - 1).limit(1)
        last = connection.execute(query).one_or_none()
        within = above if last is None else [*above, compared(columns, operator.le, last)]
        moment = outbox_inbox.c.processed_at
        deleted = _delete(connection, moment, [*within, *self._is_old(connection)])
        if last is not None:
            return Batch(deleted, list(last), is_over=False)
        return Batch(deleted, None, is_over=True, held=self._held(connection))

    def count(self, connection: sa.Connection) -> tuple[int, str | None]:
        """Count what was handled longer ago than the age."""
        query = sa.select(sa.func.count()).select_from(outbox_inbox)
        deleted = connection.scalar(query.where(*self._is_old(connection))) or 0
        return deleted, self._held(connection)

    def _is_old(self, connection: sa.Connection) -> list[sa.ColumnElement[bool]]:
        oldest = connection.scalar(_OLDEST_EVENT)
        own = outbox_inbox.c.processed_at < _ago(self.age)
        return [own] if oldest is None else [own, outbox_inbox.c.processed_at < oldest]

    def _held(self, connection: sa.Connection) -> str | None:
        oldest = connection.scalar(_OLDEST_EVENT.where(outbox_event.c.time < _ago(self.age)))
        return None if oldest is None else "an older event is still stored, and could be sent again"


@dataclass(frozen=True, slots=True)
class Letters:
    """Dead letters that were replayed or discarded."""

    age: timedelta

    @property
    def table(self) -> str:
        """The name of the setting."""
        return "dead_letters"

    @property
    def again(self) -> timedelta:
        """See `SHARE`."""
        return _share(self.age)

    @property
    def goes_on(self) -> bool:
        """Letters are resolved in any order, so a walk sees all that there are."""
        return False

    def lock(self, connection: sa.Connection) -> None:
        """Wait for nobody for long."""
        if connection.dialect.name == "postgresql":
            connection.execute(_SQL["waiting_shortly"])

    def batch(self, connection: sa.Connection, cursor: Any, size: int) -> Batch:
        """Delete what was resolved longer ago than the age."""
        number = outbox_dead_letter.c.id
        within = [number > (cursor or 0)]
        query = sa.select(number).where(*within).order_by(number)
        last = connection.scalar(query.offset(size - 1).limit(1))
        if last is not None:
            within.append(number <= last)
        moment = outbox_dead_letter.c.resolved_at
        deleted = _delete(connection, moment, [*within, self._is_old()])
        return Batch(deleted, last, is_over=last is None)

    def count(self, connection: sa.Connection) -> tuple[int, str | None]:
        """Count what was resolved longer ago than the age."""
        query = sa.select(sa.func.count()).select_from(outbox_dead_letter)
        return connection.scalar(query.where(self._is_old())) or 0, None

    def _is_old(self) -> sa.ColumnElement[bool]:
        return outbox_dead_letter.c.resolved_at < _ago(self.age)


@dataclass(frozen=True, slots=True)
class _Walked:
    """What a batch of events came upon."""

    deleted: int
    read: int
    last: int
    """The number of its last row."""
    kept: int | None
    """The number of the first row that was not deleted."""
    is_ahead: bool
    """All of its rows have times in the future, so they tell nothing about those behind."""


def system_of(connection: sa.Connection) -> str | None:
    """Return the identifier of the server; None where only PostgreSQL would have one."""
    if connection.dialect.name != "postgresql":
        return None
    found: str | None = connection.scalar(_SQL["system"])
    return found


def is_delivered(found: Delivered) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that a row of `outbox_event` is delivered."""
    number, transaction = outbox_event.c.seq, outbox_event.c.transaction_id
    return [number <= found.floor] + [
        sa.func.pg_visible_in_snapshot(
            transaction, sa.cast(sa.literal(snapshot, sa.Text), _Snapshot()), type_=sa.Boolean
        )
        for snapshot in found.snapshots
    ]


class _Snapshot(sa.types.UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Name the type in SQL."""
        return "pg_snapshot"


_OLDEST_EVENT: Final = sa.select(outbox_event.c.time).order_by(outbox_event.c.seq).limit(1)


def _delete_events(
    connection: sa.Connection, found: Delivered, age: timedelta, cursor: int, size: int
) -> _Walked:
    parameters = {
        "snapshots": list(found.snapshots),
        "floor": found.floor,
        "age": age.total_seconds(),
        "cursor": cursor,
        "size": size,
    }
    deleted, read, last, kept, is_ahead = connection.execute(
        _SQL["delete_events"], parameters
    ).one()
    return _Walked(deleted, read, last or cursor, kept, is_ahead)


def _delete_serially(
    connection: sa.Connection, found: Delivered, age: timedelta, cursor: int, size: int
) -> _Walked:
    """Do the same where a floor tells what is delivered, in two statements."""
    seq, time = outbox_event.c.seq, outbox_event.c.time
    batch = (
        sa.select(seq, time, (time < _ago(age)).label("is_old"))
        .where(seq > cursor, seq <= found.floor)
        .order_by(seq)
        .limit(size)
        .subquery()
    )
    query = sa.select(
        sa.func.count(),
        sa.func.max(batch.c.seq),
        sa.func.min(sa.case((~batch.c.is_old, batch.c.seq))),
        sa.func.min(batch.c.time) > clock.now(),
    )
    read, last, kept, is_ahead = connection.execute(query).one()
    last = last or cursor
    deleted = _delete(connection, time, [seq > cursor, seq <= last, time < _ago(age)])
    return _Walked(deleted, read, last, kept, bool(is_ahead))


def _delete(
    connection: sa.Connection,
    moment: sa.Column[datetime],
    conditions: Sequence[sa.ColumnElement[bool]],
) -> int:
    """Delete rows, given the column that says how old each is, and wait for no other row.

    MariaDB and MySQL lock each row that a DELETE looks at, the one behind the last included, so it
    would wait for every transaction that has just written one, and could deadlock with it. So the
    rows are chosen by a read without locks, and only those are locked, in the order of their key.
    """
    table: sa.Table = moment.table
    if not is_mysql(connection.dialect):
        return connection.execute(sa.delete(table).where(*conditions)).rowcount
    columns = table.primary_key.columns
    query = sa.select(*columns, moment).where(*conditions).order_by(*columns)
    found = connection.execute(query).all()
    if not found:
        return 0
    keys = orjson.dumps([tuple(row[:-1]) for row in found]).decode()
    parameters = {"keys": keys, "latest": max(row[-1] for row in found)}
    statement = _SQL[f"delete_chosen_{table.name}"]
    latest = sa.bindparam("latest", type_=clock.Timestamp)
    return connection.execute(statement.bindparams(latest), parameters).rowcount


def _as_row(
    columns: Sequence[sa.ColumnElement[Any]], compare: Compare, values: Sequence[str]
) -> sa.ColumnElement[bool]:
    """Compare a key with another one, by the column that comes first in its index."""
    return compare(sa.tuple_(*columns), sa.tuple_(*[sa.literal(value) for value in values]))


def _by_column(
    columns: Sequence[sa.ColumnElement[Any]], compare: Compare, values: Sequence[str]
) -> sa.ColumnElement[bool]:
    """Say the same in the way that MariaDB and MySQL find in an index."""
    column, value = columns[0], values[0]
    if len(columns) == 1:
        return compare(column, value)
    strictly = operator.gt if compare is operator.gt else operator.lt
    rest = _by_column(columns[1:], compare, values[1:])
    return sa.or_(strictly(column, value), sa.and_(column == value, rest))


def _ago(age: timedelta) -> sa.ColumnElement[Any]:
    return clock.now_plus(-age.total_seconds())


def _share(age: timedelta) -> timedelta:
    return min(max(age / SHARE, timedelta(minutes=1)), timedelta(days=1))
