"""What the server does for a page, as EXPLAIN tells it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from relay.capture.connection import SQL, plan_once
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


def tell_plans(connection: psycopg.Connection[Any], *, is_planned_once: bool) -> None:
    """Let the server tell how it runs each statement, and lead its planner as the capture does."""
    connection.execute("LOAD 'auto_explain'")
    connection.execute("SET auto_explain.log_min_duration = 0")
    connection.execute("SET auto_explain.log_analyze = on")
    connection.execute("SET auto_explain.log_buffers = on")
    connection.execute("SET auto_explain.log_format = json")
    connection.execute("SET auto_explain.log_level = notice")
    if is_planned_once:
        plan_once(connection)
    else:
        connection.prepare_threshold = None
        connection.execute(SQL["lead_planner"], {"is_local": False})


def explain(
    connection: psycopg.Connection[Any], parameters: dict[str, object]
) -> list[dict[str, Any]]:
    """Read a page where plans are told; return the nodes of its plan, the root first."""
    notices: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        notices.append(diagnostic.message_primary or "")

    connection.add_notice_handler(note)
    connection.execute(SQL["next_page"], parameters | {"bytes": PAGE_BYTES, "source": "/test"})
    connection.remove_notice_handler(note)
    (notice,) = notices
    told = json.loads(notice.partition("plan:")[2])
    assert "JIT" not in told
    return list(nodes(told["Plan"]))


def touched(plan: list[dict[str, Any]]) -> int:
    return int(plan[0]["Shared Hit Blocks"]) + int(plan[0]["Shared Read Blocks"])
