"""What the server does for a page, as EXPLAIN tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relay.capture.connection import SQL
from relay.capture.sizing import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

FILL = (
    "INSERT INTO outbox_event (type, data, partition_key)"
    " SELECT 'test.happened', convert_to(repeat('x', 200), 'UTF8'), 'k' || i"
    " FROM generate_series(1, {}) AS i"
)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def explain(
    connection: psycopg.Connection[Any], parameters: dict[str, object]
) -> list[dict[str, Any]]:
    statement = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + SQL["next_page"]
    rest = {"bytes": PAGE_BYTES, "source": "/test"}
    row = connection.execute(statement, parameters | rest).fetchone()
    assert row is not None
    assert "JIT" not in row[0][0]
    return list(nodes(row[0][0]["Plan"]))


def touched(plan: list[dict[str, Any]]) -> int:
    return int(plan[0]["Shared Hit Blocks"]) + int(plan[0]["Shared Read Blocks"])
