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
from sqlalchemy.sql import visitors
from sqlalchemy.sql.expression import Update, UpdateBase

from outbox.changes import is_flushed
from outbox.errors import UntrackedChangeError, UntrackedChangeWarning, UsageError
from outbox.tracking import ON_BULK, lineage, tracking_of, trackings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.orm import Mapper

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
    if not isinstance(statement, UpdateBase) or is_flushed(connection, statement.table, options):
        return
    # Of an alias, and of the tables of a join.
    inside = visitors.iterate(statement.table)
    tables = [table for table in inside if isinstance(table, sa.TableClause)]
    schema = connection.dialect.default_schema_name
    entity = statement.entity_description.get("entity")
    mapper = None if entity is None else sa.inspect(entity).mapper
    for tracking in trackings():
        on_bulk = options.get(OPTION, tracking.on_bulk)
        if on_bulk not in ON_BULK:
            raise UsageError(f"{OPTION} is one of {', '.join(ON_BULK)}, and not {on_bulk!r}")
        if on_bulk != "ignore" and _is_about(
            statement, mapper, tables, schema, tracking, [*many, one]
        ):
            message = _message(statement, tracking)
            if on_bulk == "raise":
                raise UntrackedChangeError(message)
            warnings.warn(message, UntrackedChangeWarning, stacklevel=_caller_level())


def _is_about(
    statement: UpdateBase,
    mapper: Mapper[Any] | None,
    tables: Sequence[sa.TableClause],
    schema: str | None,
    tracking: Tracking,
    parameters: Sequence[Mapping[str, Any]],
) -> bool:
    """Tell whether a statement changes tracked rows in what is told of them."""
    columns: Mapping[str, sa.Column[Any]] = tracking.columns
    if mapper is not None and mapper.base_mapper is tracking.mapper.base_mapper:
        # All tables of the class, and perhaps not all rows of them.
        if tracking_of(mapper) is not tracking and mapper not in lineage(tracking.mapper):
            return False
    elif any(_is_among(table, tables, schema) for table in tracking.mapper.tables):
        columns = {
            name: column
            for name, column in columns.items()
            if _is_among(column.table, tables, schema)
        }
    else:
        return False
    if not isinstance(statement, Update):
        return True
    written = set(_written(statement, parameters))
    names = columns.keys() | {column.name for column in columns.values()}
    return not written or not written.isdisjoint(names)


def _is_among(table: Any, others: Sequence[sa.TableClause], schema: str | None) -> bool:
    """Tell whether a table is one of others, by name: each `MetaData` has an object of its own."""
    return any(
        table.name == other.name and (table.schema or schema) == (other.schema or schema)
        for other in others
    )


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
