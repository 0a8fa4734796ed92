"""Long lists in parts, because databases limit the values of one statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from outbox.any_text import fetch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import sqlalchemy as sa

Item = TypeVar("Item")

CHUNK: Final = 500
"""Values in one query that looks rows up, at most."""


def in_chunks(values: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield the values in their order, `size` at a time; nothing where there are none."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def rows_with(
    connection: sa.Connection,
    query: sa.Select[Any],
    column: sa.ColumnElement[Any],
    values: Collection[Any],
) -> Iterator[sa.Row[Any]]:
    """Yield the rows of a query whose column, or tuple of columns, has one of the values.

    Rows of one value come in the order of the query.
    """
    for chunk in in_chunks(sorted(values), CHUNK):
        yield from fetch(connection, query.where(column.in_(chunk)))
