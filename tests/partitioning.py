"""An outbox in partitions, and what fills and looks at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outbox import partitions
from tests.retaining import settings, swept

if TYPE_CHECKING:
    import sqlalchemy as sa

    from relay.retention_state import State


def run(engine: sa.Engine, statement: str) -> Any:
    with engine.begin() as connection:
        return connection.exec_driver_sql(statement)


def fill(count: int) -> str:
    """Insert so many events."""
    return (
        "INSERT INTO outbox_event (type, data) SELECT 'test.happened', ''"
        f" FROM generate_series(1, {count})"
    )


def names(engine: sa.Engine) -> list[str]:
    with engine.begin() as connection:
        return [each.name for each in partitions.partitions(connection)]


def is_pending(engine: sa.Engine) -> bool:
    """Tell whether the oldest partition is being detached, so that nobody reads it."""
    with engine.begin() as connection:
        return partitions.partitions(connection)[0].is_pending


def retain(engine: sa.Engine) -> State:
    """Drop what the route `a` has delivered, however young it is."""
    return swept(engine, settings(engine, "a", events="0s"))
