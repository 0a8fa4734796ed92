"""Dead letters: events given up, and those parked behind them, kept until someone decides.

A letter belongs to a stage (`relay` or `consumer`) and its owner (the route or the consumer).

    dead ──request──▶ requested ──▶ replayed          unresolved: dead, parked, requested
     ▲ ▲                  │                           resolved:   replayed, discarded
     │ └───fails again────┘
     └─────fails again── parked ──▶ replayed          any unresolved one ──discard──▶ discarded

Letters of one partition key are tried again in the order in which they were recorded. A parked one
is tried as soon as no letter stands before it; a dead one only when it is requested. Every
function works inside the caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa

from outbox import clock
from outbox.chunks import in_chunks
from outbox.dialect import MYSQL, insert_unless_there
from outbox.letter import Failure, Letter, Stage, Status, from_row, to_row
from outbox.table import outbox_dead_letter as letters

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.engine import Dialect

    from outbox.dialect import Columns

__all__ = [
    "UNRESOLVED",
    "Failure",
    "Filter",
    "Letter",
    "Stage",
    "Status",
    "blocked_keys",
    "count",
    "discard",
    "fail_again",
    "find",
    "get",
    "ready",
    "record",
    "request",
    "resolve",
    "take",
    "tally",
]

UNRESOLVED: Final[frozenset[Status]] = frozenset({"dead", "parked", "requested"})
CHUNK: Final = 1_000
"""Values in one statement, at most: databases limit their number."""
CANDIDATES: Final = 10
"""Letters looked at in one statement by who needs one that nobody else has locked."""

_TO_BE_TRIED: Final = (
    letters.c.resolved_at.is_(None),
    letters.c.status.in_(["requested", "parked"]),
)
_LOCK: Final = (
    sa.select(letters)
    .where(letters.c.id == sa.bindparam("chosen", type_=letters.c.id.type), *_TO_BE_TRIED)
    .with_for_update(skip_locked=True)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which letters are meant; every condition given has to hold."""

    ids: Collection[int] | None = None
    stage: Stage | None = None
    owner: str | None = None
    statuses: Collection[Status] = UNRESOLVED
    type: str | None = None
    partition_key: str | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the conditions as SQL."""
        equal = {
            letters.c.stage: self.stage,
            letters.c.owner: self.owner,
            letters.c.type: self.type,
            letters.c.partition_key: self.partition_key,
        }
        found = [column == value for column, value in equal.items() if value is not None]
        found.append(letters.c.status.in_(sorted(self.statuses)))
        if UNRESOLVED.issuperset(self.statuses):
            found.append(letters.c.resolved_at.is_(None))
        if self.ids is not None:
            found.append(letters.c.id.in_(list(self.ids)))
        return found


def record(
    connection: sa.Connection, stage: Stage, owner: str, failures: Sequence[Failure]
) -> None:
    """Write a letter for each failure, in this order.

    An event that has a letter already gets no second one: its attempts are added up and it is
    dead or parked again, at its old place where it was unresolved, else as the newest.
    """
    if not failures:
        return
    rows = [to_row(stage, owner, failure) for failure in failures]
    _reopen(connection, stage, owner, rows)
    connection.execute(_insert(connection.dialect), rows)


# Making a statement takes longer than sending it, and a flood of poison sends many.
@lru_cache(maxsize=8)
def _insert(dialect: Dialect) -> sa.Insert:
    keys = ["stage", "owner", "source", "event_id"]
    return insert_unless_there(letters, dialect, keys, _again)


def _again(new: Columns) -> dict[str, Any]:
    """Say what becomes of a letter when its event fails anew."""
    return {
        "status": new.status,
        "reason": new.reason,
        "attempt_count": letters.c.attempt_count + new.attempt_count,
        "last_failed_at": clock.now(),
        "resolved_at": sa.null(),
        "note": sa.null(),
        "place": new.place,
    }


def _reopen(connection: sa.Connection, stage: str, owner: str, rows: list[dict[str, Any]]) -> None:
    """Take resolved letters of these events out, and carry their history over to the new ones."""
    by_event = {(row["source"], row["event_id"]): row for row in rows}
    names = list(by_event)
    for chunk in in_chunks(names, CHUNK):
        bound = {"stage": stage, "owner": owner, "names": chunk}
        found = connection.execute(_resolved(), bound).all()
        for _, source, event_id, attempt_count in found:
            by_event[source, event_id]["attempt_count"] += attempt_count
        if found:
            # One by one, for the same reason.
            gone = sa.delete(letters).where(letters.c.id == sa.bindparam("gone"))
            connection.execute(gone, [{"gone": row.id} for row in found])


@lru_cache
def _resolved() -> sa.Select[Any]:
    query = (
        sa.select(letters.c.id, letters.c.source, letters.c.event_id, letters.c.attempt_count)
        .where(letters.c.stage == sa.bindparam("stage"), letters.c.owner == sa.bindparam("owner"))
        .where(letters.c.resolved_at.is_not(None))
        .where(
            sa.tuple_(letters.c.source, letters.c.event_id).in_(
                sa.bindparam("names", expanding=True)
            )
        )
        .with_for_update()
    )
    for name in MYSQL:
        # It would rather walk through a small table, and lock all of it.
        query = query.with_hint(letters, "FORCE INDEX (outbox_dead_letter_event)", name)
    return query


def any_unresolved(connection: sa.Connection, stage: Stage, owner: str) -> bool:
    """Tell whether an event has an unresolved letter; cheaper than asking for many keys."""
    return bool(connection.scalar(_ANY_UNRESOLVED, {"stage": stage, "owner": owner}))


def blocked_keys(
    connection: sa.Connection, stage: Stage, owner: str, keys: Collection[str] | None = None
) -> set[str]:
    """Return those of the keys, by default of all, that have an unresolved letter."""
    query = (
        sa.select(letters.c.partition_key)
        .distinct()
        .where(*_unresolved(letters, stage, owner), letters.c.partition_key.is_not(None))
    )
    if keys is None:
        return set(connection.scalars(query))
    asked = list(keys)
    return {
        key
        for chunk in in_chunks(asked, CHUNK)
        for key in connection.scalars(query.where(letters.c.partition_key.in_(chunk)))
    }


def ready(
    connection: sa.Connection,
    stage: Stage,
    owner: str,
    limit: int,
    *,
    heads_only: bool = True,
) -> list[Letter]:
    """Return the letters to be tried again now, in order.

    They are the first unresolved letter of each key where it is requested or parked, and each
    requested letter without a key. Without `heads_only`, those that follow the first come too, up
    to the next dead one of the key.
    """
    query = _ready(heads_only=heads_only)
    found = connection.execute(query, {"stage": stage, "owner": owner, "limit": limit})
    return [from_row(row) for row in found]


def take(connection: sa.Connection, stage: Stage, owner: str) -> Letter | None:
    """Lock and return the first letter to be tried again now; None where there is none.

    One that another transaction has locked is passed over, and no other one is locked: databases
    without locks on rows (SQLite) have one writer anyway.
    """
    bound = {"stage": stage, "owner": owner, "limit": CANDIDATES, "after": 0}
    while ids := connection.scalars(_candidates(), bound).all():
        for chosen in ids:
            # By its id: MariaDB locks each row that it looks at, and to find one it looks at many.
            row = connection.execute(_LOCK, {"chosen": chosen}).one_or_none()
            if row is not None:
                return from_row(row)
        bound["after"] = ids[-1]
    return None


@lru_cache
def _candidates() -> sa.Select[Any]:
    after = sa.bindparam("after", type_=letters.c.id.type)
    return _ready(heads_only=True).with_only_columns(letters.c.id).where(letters.c.id > after)


@lru_cache
def _ready(*, heads_only: bool) -> sa.Select[Any]:
    """Make the query once: idle workers ask it all the time."""
    stage = sa.bindparam("stage", type_=sa.Text)
    owner = sa.bindparam("owner", type_=sa.Text)
    earlier = letters.alias("earlier")
    before = (
        sa.select(sa.literal(1))
        .where(*_unresolved(earlier, stage, owner))
        .where(earlier.c.partition_key == letters.c.partition_key, earlier.c.id < letters.c.id)
    )
    if not heads_only:
        before = before.where(earlier.c.status == "dead")
    return (
        sa.select(letters)
        .where(letters.c.stage == stage, letters.c.owner == owner, *_TO_BE_TRIED)
        .where(sa.or_(letters.c.type.is_(None), ~before.exists()))
        .order_by(letters.c.id)
        .limit(sa.bindparam("limit"))
    )


def resolve(
    connection: sa.Connection,
    ids: Collection[int],
    status: Literal["replayed", "discarded"] = "replayed",
    note: str | None = None,
) -> int:
    """Close unresolved letters; return how many."""
    values = {"status": status, "note": note, "resolved_at": clock.now()}
    return _update(connection, Filter(ids=ids), values)


def fail_again(connection: sa.Connection, id: int, reason: str) -> int:  # noqa: A002  # its name
    """Make an unresolved letter dead after one more attempt; return 0 where it was closed."""
    values = {
        "status": "dead",
        "reason": reason,
        "attempt_count": letters.c.attempt_count + 1,
        "last_failed_at": clock.now(),
    }
    return _update(connection, Filter(ids=[id]), values)


def request(connection: sa.Connection, which: Collection[int] | Filter) -> int:
    """Ask for dead or discarded letters to be tried again; return how many.

    A filter that names no statuses means the unresolved ones. Parked letters need no request:
    they follow as soon as nothing stands before them.
    """
    chosen = which if isinstance(which, Filter) else Filter(ids=which, statuses=_REQUESTABLE)
    values = {"status": "requested", "resolved_at": sa.null(), "note": sa.null()}
    return _update(connection, chosen, values, letters.c.status.in_(_REQUESTABLE))


# Made once: a worker asks it for every batch.
_ANY_UNRESOLVED: Final = sa.select(
    sa.select(letters.c.id)
    .where(letters.c.stage == sa.bindparam("stage"), letters.c.owner == sa.bindparam("owner"))
    .where(letters.c.resolved_at.is_(None), letters.c.type.is_not(None))
    .exists()
)
_REQUESTABLE: Final[tuple[Status, ...]] = ("dead", "discarded")


def discard(connection: sa.Connection, which: Collection[int] | Filter, note: str) -> int:
    """Give unresolved letters up for good, and say why; return how many."""
    chosen = which if isinstance(which, Filter) else Filter(ids=which)
    values = {"status": "discarded", "note": note, "resolved_at": clock.now()}
    return _update(connection, chosen, values, letters.c.resolved_at.is_(None))


def find(connection: sa.Connection, which: Filter, limit: int) -> list[Letter]:
    """Return letters, oldest first."""
    query = sa.select(letters).where(*which.conditions()).order_by(letters.c.id).limit(limit)
    return [from_row(row) for row in connection.execute(query)]


def get(connection: sa.Connection, id: int) -> Letter | None:  # noqa: A002  # its name
    """Return a letter, or None where there is none of this id."""
    row = connection.execute(sa.select(letters).where(letters.c.id == id)).one_or_none()
    return None if row is None else from_row(row)


def count(connection: sa.Connection, which: Filter) -> int:
    """Count letters."""
    query = sa.select(sa.func.count()).select_from(letters).where(*which.conditions())
    return connection.scalar(query) or 0


def tally(connection: sa.Connection, stage: Stage) -> dict[tuple[str, Status], int]:
    """Count the unresolved letters of a stage by owner and status."""
    query = (
        sa.select(letters.c.owner, letters.c.status, sa.func.count())
        .where(letters.c.stage == stage, letters.c.resolved_at.is_(None))
        .group_by(letters.c.owner, letters.c.status)
    )
    return {(owner, status): number for owner, status, number in connection.execute(query)}


def _update(
    connection: sa.Connection,
    which: Filter,
    values: dict[str, Any],
    *conditions: sa.ColumnElement[bool],
) -> int:
    found = 0
    ids = None if which.ids is None else list(which.ids)
    chunks = [ids] if ids is None else in_chunks(ids, CHUNK)
    for chunk in chunks:
        where = replace(which, ids=chunk).conditions()
        statement = sa.update(letters).where(*where, *conditions).values(values)
        found += connection.execute(statement).rowcount
    return found


def _unresolved(
    table: sa.FromClause, stage: str | sa.BindParameter[Any], owner: str | sa.BindParameter[Any]
) -> tuple[sa.ColumnElement[bool], ...]:
    """Select the unresolved letters of events; what is no event has no key to keep in order."""
    return (
        table.c.stage == stage,
        table.c.owner == owner,
        table.c.resolved_at.is_(None),
        table.c.type.is_not(None),
    )
