"""What a flush does to tracked rows, and the events that tell of it.

    before_insert, before_update, before_delete ─▶ what the row was
    after_flush ─▶ what it is now ─▶ emit, where that differs

Hooks of tracked mappers take the first half, so a flush without tracked instances pays for one
look into `Session.info`. What a row was is what the session has loaded of it; what it has not is
read by a query, before the statement that changes it. What a row is now is what the session wrote;
what the database made of it (a default, an SQL expression) is read after the flush.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.orm import InstanceState, Session, object_session
from sqlalchemy.orm.base import LoaderCallableStatus

from outbox.chunks import in_chunks
from outbox.emitter import emit
from outbox.errors import InvalidEventError
from outbox.event import catalogue
from outbox.tracking import Tracking, tracking_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from sqlalchemy.orm import Mapper

    Values = dict[str, Any]
    Identity = tuple[Any, ...]
    Told = tuple[str, Values, Values | None, Values | None]

_KEY: Final = "outbox.changes"
"""Where `Session.info` keeps the rows of the flush that runs."""
_CHUNK: Final = 500
"""Rows read in one query, at most."""


class Row:
    """One instance that a flush writes, with what its row was before."""

    __slots__ = ("before", "operation", "target", "tracking", "watched")

    def __init__(self, tracking: Tracking, target: object, operation: str) -> None:
        self.tracking = tracking
        self.target = target
        """Kept here, because the session holds a deleted instance weakly."""
        self.operation = operation
        self.before: Values = {}
        self.watched: set[str] = set(tracking.columns)
        """What the flush may change."""

    @property
    def state(self) -> InstanceState[Any]:
        """What SQLAlchemy knows of the instance."""
        state: InstanceState[Any] = sa.inspect(self.target)
        return state

    def made(self) -> set[str]:
        """Return what the database has made of the row, so that the session does not know it."""
        return self.watched & self.state.expired_attributes

    def now(self, made: Values) -> Values:
        """Return what the row is now, as far as it is known."""
        values, state = self.state.dict, self.state
        known = {name: values[name] for name in self.tracking.columns if name in values}
        if self.operation == "created":  # what was never set has been inserted as NULL
            unset = self.tracking.columns.keys() - known.keys() - state.expired_attributes
            return {**dict.fromkeys(unset), **made, **known}
        return {**self.before, **made, **known}


def listen(cls: type) -> None:
    """Note what every flush does to instances of a class and of its subclasses."""
    for name, note in _OF_MAPPER.items():
        sa.event.listen(cls, name, note, propagate=True)
    for name, hook in _OF_SESSION.items():
        if not sa.event.contains(Session, name, hook):
            sa.event.listen(Session, name, hook)


def is_flushed_by(connection: sa.Connection) -> bool:
    """Tell whether a flush of tracked instances runs on a connection, and sends its statements."""
    session = _flushing.get(connection)
    return session is not None and bool(session.info.get(_KEY))


_flushing: Final[WeakKeyDictionary[sa.Connection, Session]] = WeakKeyDictionary()
"""By which connection a Session has flushed tracked instances."""


def _before_insert(mapper: Mapper[Any], connection: sa.Connection, target: object) -> None:
    session, row = _note(connection, target, "created")
    if session is None or row is None:
        return
    # An instance in the place of one that is deleted in the same flush becomes an UPDATE.
    replaced = session.identity_map.get(mapper.identity_key_from_instance(target))
    if replaced is not None and replaced in session.deleted:
        row.operation = "updated"
        _remember(row, connection, sa.inspect(replaced), row.tracking.columns)


def _before_update(_mapper: Mapper[Any], connection: sa.Connection, target: object) -> None:
    _, row = _note(connection, target, "updated")
    if row is not None:
        tracking, state = row.tracking, row.state
        changed = state.committed_state.keys() & tracking.columns.keys()
        row.watched &= state.dict.keys() | changed
        is_moved = not changed.isdisjoint(tracking.place)
        needed = tracking.columns.keys() if is_moved else changed | tracking.key.keys()
        _remember(row, connection, state, needed)


def _before_delete(_mapper: Mapper[Any], connection: sa.Connection, target: object) -> None:
    _, row = _note(connection, target, "deleted")
    if row is not None:
        _remember(row, connection, row.state, row.tracking.columns)


def _note(
    connection: sa.Connection, target: object, operation: str
) -> tuple[Session | None, Row | None]:
    """Return the session that flushes an instance, and the instance's row in that flush."""
    session, tracking = object_session(target), tracking_of(type(target))
    if session is None or tracking is None:
        return None, None
    _flushing[connection] = session
    rows: dict[int, Row] = session.info.setdefault(_KEY, {})
    # By instance: a class and its parent that are both tracked have the hooks twice.
    row = rows[id(target)] = Row(tracking, target, operation)
    return session, row


def _remember(
    row: Row, connection: sa.Connection, state: InstanceState[Any], needed: Collection[str]
) -> None:
    """Take what the row was from an instance's state; read what is needed and not there."""
    committed, values, unknown = state.committed_state, state.dict, LoaderCallableStatus.NO_VALUE
    for name in row.tracking.columns:
        value = committed.get(name, values.get(name, unknown))
        if not isinstance(value, LoaderCallableStatus):
            row.before[name] = value
    identity = state.identity
    if identity is None:  # an instance that is deleted before it was ever read: nothing is there
        return
    row.before |= zip(row.tracking.identity, identity, strict=True)
    missing = [name for name in needed if name not in row.before]
    if missing:
        row.before |= _read(connection, row.tracking, [identity], missing).get(identity, {})


def _after_flush(session: Session, _context: object) -> None:
    rows: dict[int, Row] | None = session.info.pop(_KEY, None)
    if not rows:
        return
    made = _read_made(session, rows.values())
    for row in rows.values():
        for told in _tell(row, row.now(made.get(row, {}))):
            _emit(session, row.tracking, *told)


def _after_rollback(session: Session, _transaction: object) -> None:
    session.info.pop(_KEY, None)  # of a flush that failed


def _read_made(session: Session, rows: Collection[Row]) -> dict[Row, Values]:
    """Read what the database made of the rows that a flush wrote."""
    wanted: dict[Tracking, list[Row]] = {}
    for row in rows:
        if row.operation != "deleted" and row.made():
            wanted.setdefault(row.tracking, []).append(row)
    found: dict[Row, Values] = {}
    for tracking, some in wanted.items():
        connection = session.connection(bind_arguments={"mapper": tracking.mapper})
        for part in in_chunks(some, _CHUNK):
            chunk = {_identity(row): row for row in part}
            for identity, values in _read(connection, tracking, list(chunk)).items():
                row = chunk[identity]
                found[row] = {name: values[name] for name in row.made()}
    return found


def _identity(row: Row) -> Identity:
    now = row.now({})
    return tuple(now[name] for name in row.tracking.identity)


def _read(
    connection: sa.Connection,
    tracking: Tracking,
    identities: Sequence[Identity],
    names: Collection[str] | None = None,
) -> dict[Identity, Values]:
    """Read columns of rows, by default all of the tracking's, in the connection's transaction."""
    chosen = list(tracking.columns if names is None else names)
    keys = list(tracking.identity.values())
    one = keys[0].in_([identity[0] for identity in identities])
    query = (
        sa.select(*keys, *(tracking.columns[name] for name in chosen))
        .select_from(tracking.mapper.persist_selectable)
        .where(one if len(keys) == 1 else sa.tuple_(*keys).in_(identities))
    )
    size = len(keys)
    return {
        tuple(row[:size]): dict(zip(chosen, row[size:], strict=True))
        for row in connection.execute(query)
    }


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
    identity = _only(tracking.identity, place)
    try:
        change = tracking.event.model_validate(
            {
                "operation": operation,
                "key": _text(_only(tracking.key, place)),
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
    emit(session, change, subject=_text(identity))


def _text(values: Values) -> str | None:
    """Return the values as one text; none where one of them is missing."""
    parts = [value.value if isinstance(value, Enum) else value for value in values.values()]
    return None if None in parts else "/".join(map(str, parts)) or None


_OF_MAPPER: Final = {
    "before_insert": _before_insert,
    "before_update": _before_update,
    "before_delete": _before_delete,
}
_OF_SESSION: Final = {"after_flush": _after_flush, "after_soft_rollback": _after_rollback}
