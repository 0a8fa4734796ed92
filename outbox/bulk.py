"""Statements that change tracked rows without the unit of work, so that no event tells of them.

They are seen where SQLAlchemy executes them, on every Engine: `update()`, `delete()` and
`insert()` on a Session or a Connection, `Query.update`, `Session.bulk_update_mappings` and its
kin. Not seen is what is no statement of its own there: SQL as text, a part of another statement
(a CTE), what the database does by itself (a trigger, `ON DELETE CASCADE`), other programs.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.sql.expression import Update, UpdateBase

from outbox.changes import is_flushed_by
from outbox.errors import UntrackedChangeError, UntrackedChangeWarning, UsageError
from outbox.tracking import ON_BULK, tracking_of, trackings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from outbox.tracking import Tracking

OPTION: Final = "outbox_on_bulk"
"""The execution option that says what to do about one statement, or a connection's."""


def watch() -> None:
    """Look at the statements of every Engine from now on."""
    if not sa.event.contains(sa.Engine, "before_execute", _before_execute):
        sa.event.listen(sa.Engine, "before_execute", _before_execute)


def _before_execute(
    connection: sa.Connection,
    statement: object,
    many: Sequence[Mapping[str, Any]],
    one: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    # Most statements are queries, and end here.
    if not isinstance(statement, UpdateBase) or is_flushed_by(connection):
        return
    for tracking in trackings():
        on_bulk = options.get(OPTION, tracking.on_bulk)
        if on_bulk not in ON_BULK:
            raise UsageError(f"{OPTION} is one of {', '.join(ON_BULK)}, and not {on_bulk!r}")
        if on_bulk != "ignore" and _is_about(statement, tracking, [*many, one]):
            message = _message(statement, tracking)
            if on_bulk == "raise":
                raise UntrackedChangeError(message)
            warnings.warn(message, UntrackedChangeWarning, stacklevel=_caller_level())


def _is_about(
    statement: UpdateBase, tracking: Tracking, parameters: Sequence[Mapping[str, Any]]
) -> bool:
    """Tell whether a statement changes tracked rows in what is told of them."""
    columns = tracking.columns
    entity = statement.entity_description.get("entity")
    if entity is not None:  # all tables of the class, and perhaps not all rows of them
        cls = sa.inspect(entity).mapper.class_
        if tracking_of(cls) is not tracking and not issubclass(tracking.cls, cls):
            return False
    elif any(statement.table == table for table in tracking.mapper.tables):
        columns = {
            name: column for name, column in columns.items() if column.table == statement.table
        }
    else:
        return False
    if not isinstance(statement, Update):
        return True
    written = set(_written(statement, parameters))
    names = columns.keys() | {column.name for column in columns.values()}
    return not written or not written.isdisjoint(names)


def _written(statement: Update, parameters: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the columns that an UPDATE sets, and other names of its parameters."""
    pairs: Any = statement._values or {}  # noqa: SLF001  # it has no public name
    # SQLAlchemy 2.0 keeps those of `ordered_values` apart, as pairs.
    pairs = [*pairs, *(name for name, _ in getattr(statement, "_ordered_values", None) or ())]
    for column in pairs:
        yield column if isinstance(column, str) else column.name
    for values in parameters:
        yield from values


def _message(statement: UpdateBase, tracking: Tracking) -> str:
    verb = statement.__visit_name__.upper()
    return (
        f"{verb} of {statement.entity_description['name']} changes rows of"
        f" {tracking.cls.__qualname__} without the unit of work, so no {tracking.name} event would"
        " tell: change the instances in a Session, or let it pass by"
        f' execution_options({OPTION}="ignore") and emit an event of your own'
    )


def _caller_level() -> int:
    """Return the level of the stack whose code asked for the statement."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001  # the way to look at the stack
    while frame.f_back is not None and _is_inside(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level


def _is_inside(module: str) -> bool:
    return module.partition(".")[0] == "sqlalchemy" or module == __name__
