"""Looks rows up by many values, a part of them in each query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from outbox.chunks import in_chunks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import sqlalchemy as sa

CHUNK: Final = 500
"""Values in one query, at most: databases limit them."""


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
        yield from connection.execute(query.where(column.in_(chunk)))
