"""What a flush does to tracked rows, and the events that tell of it.

    before_insert, before_update, before_delete ─▶ what the row was
    after_flush ─▶ what it is now ─▶ emit, where that differs

Hooks of tracked mappers take the first half, so a flush without tracked instances pays for one
look into `Session.info`. What a row was is what the session has loaded of it; what it has not is
read by a query, before the statement that changes it. What a row is now is what the session wrote;
what the database made of it (a default, an SQL expression) is read after the flush.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakSet

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.orm import InstanceState, Session, object_session
from sqlalchemy.orm.base import LoaderCallableStatus
from sqlalchemy.orm.exc import ObjectDeletedError

from outbox.chunks import in_chunks
from outbox.emitter import emit
from outbox.errors import InvalidEventError
from outbox.event import catalogue
from outbox.tracking import Tracking, tracking_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy.orm import Mapper

    State = InstanceState[Any]
    Values = dict[str, Any]
    Identity = tuple[Any, ...]
    Told = tuple[str, Values, Values | None, Values | None]

_KEY: Final = "outbox.changes"
"""Where `Session.info` keeps the flush that runs."""
_CHUNK: Final = 500
"""Rows read in one query, at most."""


class Row:
    """One instance that a flush writes, with what its row was before."""

    __slots__ = ("before", "connection", "followed", "operation", "target", "tracking")

    def __init__(
        self, tracking: Tracking, connection: sa.Connection, target: object, operation: str
    ) -> None:
        self.tracking = tracking
        self.connection = connection
        self.target = target
        """Kept here, because the session holds a deleted instance weakly."""
        self.operation = operation
        self.before: Values = {}
        self.followed: set[str] = set(tracking.columns)
        """The attributes whose values are known before the statement, where they matter."""

    @property
    def state(self) -> State:
        """What SQLAlchemy knows of the instance."""
        state: State = sa.inspect(self.target)
        return state

    @property
    def unread(self) -> set[str]:
        """The attributes that the database gave a value which the session does not know."""
        written = self.followed | (self.state.committed_state.keys() & self.tracking.columns)
        return written & self.state.expired_attributes

    def now(self, read: Values) -> Values:
        """Return what the row is now, as far as it is known."""
        known, columns = _known(self.tracking, self.state.dict), self.tracking.columns
        if self.operation == "created":  # what was never set has been inserted as NULL
            unset = columns.keys() - known.keys() - self.state.expired_attributes
            return {**dict.fromkeys(unset), **read, **known}
        return {**self.before, **read, **known}


class Flush:
    """What one flush of a Session does to tracked rows."""

    __slots__ = ("old", "rows", "tables")

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        """By instance: a class and its parent that are both tracked have the hooks twice."""
        self.tables: set[sa.FromClause] = set()
        """Those that it writes for the rows."""
        self.old: dict[Tracking, dict[State, Values]] = {}
        """What was read of rows before their statements, some of it ahead."""


def listen(cls: type) -> None:
    """Note what every flush does to instances of a class and of its subclasses."""
    for name, note in _OF_MAPPER.items():
        sa.event.listen(cls, name, note, propagate=True)
    for name, hook in _OF_SESSION.items():
        if not sa.event.contains(Session, name, hook):
            sa.event.listen(Session, name, hook)


def is_flushed(connection: sa.Connection, table: object, options: Mapping[str, Any]) -> bool:
    """Tell whether a statement on a table is one of a flush, whose rows the hooks were given.

    The unit of work executes its own statements with a cache of the mapper's, which those of a
    hook of the application have not.
    """
    sessions = _flushing.get(connection)
    if sessions is None or "compiled_cache" not in options:
        return False
    flushes: Iterable[Flush | None] = (session.info.get(_KEY) for session in sessions)
    return any(flush is not None and table in flush.tables for flush in flushes)


# Weak on both sides, because a Session refers to its Connection.
_flushing: Final[WeakKeyDictionary[sa.Connection, WeakSet[Session]]] = WeakKeyDictionary()
"""By which connection Sessions have flushed tracked instances."""


def _before_insert(mapper: Mapper[Any], connection: sa.Connection, target: object) -> None:
    found = _note(mapper, connection, target, "created")
    if found is None:
        return
    session, row = found
    # The flush deletes another instance of this key, of which it makes one UPDATE with this one;
    # or it fails at the key that is taken.
    replaced = session.identity_map.get(mapper.identity_key_from_instance(target))
    if replaced is None:
        return
    state: State = sa.inspect(replaced)
    try:
        _load(row.tracking, state)
    except ObjectDeletedError:  # another transaction has deleted it, so this is an INSERT
        return
    row.operation = "updated"
    _remember(session, row, state, row.tracking.columns)


def _before_update(mapper: Mapper[Any], connection: sa.Connection, target: object) -> None:
    found = _note(mapper, connection, target, "updated")
    if found is not None:
        session, row = found
        needed = _needed(row.tracking, row.state)
        if needed:
            _load(row.tracking, row.state)
        row.followed &= row.state.dict.keys() | needed
        _remember(session, row, row.state, needed)


def _before_delete(mapper: Mapper[Any], connection: sa.Connection, target: object) -> None:
    found = _note(mapper, connection, target, "deleted")
    if found is not None:
        session, row = found
        _load(row.tracking, row.state)
        _remember(session, row, row.state, row.tracking.columns)


def _note(
    mapper: Mapper[Any], connection: sa.Connection, target: object, operation: str
) -> tuple[Session, Row] | None:
    """Make the row of an instance in the flush of its session; None where that is done, or not."""
    session, tracking = object_session(target), tracking_of(mapper)
    if session is None or tracking is None:
        return None
    _flushing.setdefault(connection, WeakSet()).add(session)
    flush: Flush = session.info.setdefault(_KEY, Flush())
    if id(target) in flush.rows:
        return None
    flush.tables.update(mapper.tables)
    row = flush.rows[id(target)] = Row(tracking, connection, target, operation)
    return session, row


def _needed(tracking: Tracking, state: State) -> set[str]:
    """Return the attributes whose old values have to be known before an UPDATE, if there is one."""
    columns, relationships = state.mapper.columns, state.mapper.relationships
    if not any(
        name in columns or (name in relationships and relationships[name].post_update)
        for name in state.committed_state
    ):
        return set()
    changed = state.committed_state.keys() & tracking.columns.keys()
    is_moved = not changed.isdisjoint(tracking.place)
    return set(tracking.columns) if is_moved else changed | tracking.key.keys() | tracking.automatic


def _load(tracking: Tracking, state: State) -> None:
    """Let SQLAlchemy read an expired instance, as it would before its own UPDATE or DELETE."""
    expired = tracking.identity.keys() & state.expired_attributes
    if expired:
        getattr(state.obj(), expired.pop())


def _remember(session: Session, row: Row, state: State, needed: Collection[str]) -> None:
    """Take what the row was from an instance's state; read what is needed and not there."""
    if state.identity is None:  # deleted before it was ever read: nothing is there
        return
    tracking = row.tracking
    row.before |= _was(tracking, state)
    missing = [name for name in needed if name not in row.before]
    if not missing:
        return
    old = session.info[_KEY].old
    if tracking not in old:
        old[tracking] = _read_ahead(session, row, {state: missing})
    values: Values = old[tracking].get(state, {})
    if not values.keys() >= set(missing):  # what the flush alone has found, an orphan for instance
        [found] = _read(row.connection, tracking, [state.identity], missing)
        values |= found or {}
    row.before |= _only(missing, values)


def _read_ahead(
    session: Session, row: Row, wanted: dict[State, Sequence[str]]
) -> dict[State, Values]:
    """Read what rows were; by the same queries, what is missing of others that are to come."""
    tracking, [first] = row.tracking, wanted
    for instances, is_deleted in ((session.dirty, False), (session.deleted, True)):
        for instance in instances:
            state: State = sa.inspect(instance)
            if tracking_of(state.mapper) is tracking and _shard(state) == _shard(first):
                needed = tracking.columns if is_deleted else _needed(tracking, state)
                known = _was(tracking, state)
                missing = [name for name in needed if name not in known]
                if missing:
                    wanted.setdefault(state, missing)
    names = list(dict.fromkeys(name for missing in wanted.values() for name in missing))
    found: dict[State, Values] = {}
    for part in in_chunks(list(wanted), _CHUNK):
        identities = [state.identity or () for state in part]
        rows = _read(row.connection, tracking, identities, names)
        found |= {state: values for state, values in zip(part, rows, strict=True) if values}
    return found


def _shard(state: State) -> object:
    """Return the part of an instance's key that tells databases of one Session apart."""
    return state.identity_key[2] if state.identity_key else None


def _was(tracking: Tracking, state: State) -> Values:
    """Return what is known of a row before its statement."""
    identity = zip(tracking.identity, state.identity or (), strict=True)
    return dict(identity) | _known(tracking, state.dict | state.committed_state)


def _known(tracking: Tracking, values: Mapping[str, Any]) -> Values:
    """Return those of the values that are tracked and known, as the database takes them."""
    return {
        name: _plain(column, values[name])
        for name, column in tracking.columns.items()
        if name in values and not isinstance(values[name], LoaderCallableStatus)
    }


def _plain(column: sa.Column[Any], value: object) -> object:
    if value is sa.JSON.NULL:
        return None
    if isinstance(value, datetime) and isinstance(column.type, sa.Date):
        return value.date()
    return value


def _after_flush(session: Session, _context: object) -> None:
    flush: Flush | None = session.info.pop(_KEY, None)
    if flush is None:
        return
    read = _read_new(flush.rows.values())
    for row in flush.rows.values():
        for told in _tell(row, row.now(read.get(row, {}))):
            _emit(session, row.tracking, *told)


def _after_rollback(session: Session, _transaction: object) -> None:
    session.info.pop(_KEY, None)  # of a flush that failed


def _read_new(rows: Iterable[Row]) -> dict[Row, Values]:
    """Read what the database made of the rows that a flush wrote."""
    wanted: dict[tuple[Tracking, sa.Connection], list[Row]] = {}
    for row in rows:
        if row.operation != "deleted" and row.unread:
            wanted.setdefault((row.tracking, row.connection), []).append(row)
    found: dict[Row, Values] = {}
    for (tracking, connection), some in wanted.items():
        for part in in_chunks(some, _CHUNK):
            identities = [_identity(row) for row in part]
            read = _read(connection, tracking, identities, tracking.columns)
            for row, values in zip(part, read, strict=True):
                if values is None:
                    raise InvalidEventError(
                        f"a change of {tracking.cls.__qualname__} cannot be told: after the flush"
                        " that wrote its row, the row is not there"
                    )
                found[row] = _only(row.unread, values)
    return found


def _identity(row: Row) -> Identity:
    now = row.now({})
    return tuple(now[name] for name in row.tracking.identity)


def _read(
    connection: sa.Connection,
    tracking: Tracking,
    identities: Sequence[Identity],
    names: Collection[str],
) -> list[Values | None]:
    """Read columns of rows, in the connection's transaction; None for a row that is not there."""
    keys = list(tracking.identity.values())
    one = keys[0].in_([identity[0] for identity in identities])
    query = (
        sa.select(*keys, *(tracking.columns[name] for name in names))
        .select_from(tracking.mapper.persist_selectable)
        .where(one if len(keys) == 1 else sa.tuple_(*keys).in_(identities))
    )
    size = len(keys)
    found: dict[Identity, Values] = {
        tuple(row[:size]): dict(zip(names, row[size:], strict=True))
        for row in connection.execute(query)
    }
    if len(identities) == 1:
        return [next(iter(found.values()), None)]
    # A key may be read as another value than was written, "7" for 7: then its row is asked alone.
    return [
        found[identity] if identity in found else _read(connection, tracking, [identity], names)[0]
        for identity in identities
    ]


def _tell(row: Row, now: Values) -> Iterator[Told]:
    """Yield what is to be told of a row: the operation, its place, and what it was and is."""
    tracking, before = row.tracking, row.before
    if row.operation == "updated" and not _differing(row, tracking.place, now):
        changed = _differing(row, tracking.fields, now)
        if changed:
            yield "updated", now, _only(changed, before), _only(changed, now)
        return
    if row.operation != "created":
        yield "deleted", before, _only(tracking.fields, before), None
    if row.operation != "deleted":
        yield "created", now, None, _only(tracking.fields, now)


def _differing(row: Row, columns: Mapping[str, sa.Column[Any]], now: Values) -> list[str]:
    """Return the attributes that changed."""
    before, changed = row.before, row.state.committed_state
    return [
        name
        for name, column in columns.items()
        if name in now
        # What another hook has set, after ours and unseen, has changed from nobody knows what.
        and (
            not column.type.compare_values(before[name], now[name])
            if name in before
            else name in changed
        )
    ]


def _only(names: Collection[str], values: Values) -> Values:
    return {name: values[name] for name in names if name in values}


def _emit(
    session: Session,
    tracking: Tracking,
    operation: str,
    place: Values,
    before: Values | None,
    after: Values | None,
) -> None:
    identity, key = _only(tracking.identity, place), _only(tracking.key, place)
    if _text(key) == "":
        raise InvalidEventError(
            f"a change of {tracking.cls.__qualname__} cannot be told: {' and '.join(key)}, by which"
            " its events are ordered, is empty"
        )
    try:
        change = tracking.event.model_validate(
            {
                "operation": operation,
                "key": _text(key),
                "identity": identity,
                "before": before,
                "after": after,
            }
        )
    except ValidationError as exc:
        found = catalogue.of(tracking.event).problems(exc)
        raise InvalidEventError(
            f"a change of {tracking.cls.__qualname__} cannot be told: {found}"
        ) from None
    emit(session, change, subject=_text(identity) or None)


def _text(values: Values) -> str | None:
    """Return the values as one text; none where one of them is missing."""
    found = [value.value if isinstance(value, Enum) else value for value in values.values()]
    if None in found:
        return None
    parts = [str(value) for value in found]
    if len(parts) > 1:  # one key, one text: ("a/b", "c") is not ("a", "b/c")
        parts = [part.replace("%", "%25").replace("/", "%2F") for part in parts]
    return "/".join(parts)


_OF_MAPPER: Final = {
    "before_insert": _before_insert,
    "before_update": _before_update,
    "before_delete": _before_delete,
}
_OF_SESSION: Final = {"after_flush": _after_flush, "after_soft_rollback": _after_rollback}
