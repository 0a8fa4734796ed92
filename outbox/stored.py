"""Events as they stand in the table: what is selected of them, and how it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from outbox.any_text import fetch
from outbox.codec import ROW_COLUMNS, from_row
from outbox.table import outbox_event

if TYPE_CHECKING:
    from outbox.envelope import Envelope


def columns(source: str | None = None) -> list[sa.ColumnElement[Any]]:
    """Return what `codec.from_row` takes; `source` is for events that have none.

    Data comes as bytes, because SQLite stores it as the producer gave it: as text or a number, too.
    """
    found: dict[str, sa.ColumnElement[Any]] = {name: outbox_event.c[name] for name in ROW_COLUMNS}
    found["data"] = sa.cast(found["data"], sa.LargeBinary).label("data")
    if source is not None:
        found["source"] = sa.func.coalesce(found["source"], source).label("source")
    return list(found.values())


def read(connection: sa.Connection, query: sa.Select[Any]) -> list[Envelope]:
    """Return the events of a query of these columns, whatever a producer wrote."""
    return [from_row(*tuple(row)) for row in fetch(connection, query)]
