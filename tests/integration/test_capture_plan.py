"""A page touches its own ranges of two indexes, whatever the planner knows about the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from outbox.settings import RouteSettings
from relay.capture.position import LatePass
from relay.capture.snapshot import LATE_LIMIT, _reading_on, _reading_pass
from tests.capturing import connect
from tests.explaining import FILL, explain, tell_plans, touched

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

COUNT = 300_000
PAGE: int = RouteSettings.model_fields["page_size"].default
JIT_ABOVE_COST = 100_000
DISABLED_COST = 10**10
"""What the server adds for a scan that is switched off: that of outbox_incarnation, of one row."""


@pytest.fixture(params=["analyzed", "never analyzed", "analyzed when it was small"])
def statistics(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["planned when it was small", "planned now", "planned each time"])
def planned(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def table(statistics: str, planned: str, postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A table of 300,000 rows, the last 10,000 by one transaction after the others."""
    with connect(postgres_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE outbox_event SET (autovacuum_enabled = off)")
        tell_plans(connection, is_planned_once=planned != "planned each time")
        with connect(postgres_url, autocommit=True) as other:
            other.execute(FILL.format(100).encode())
            if statistics == "analyzed when it was small":
                other.execute("ANALYZE outbox_event")
            if planned == "planned when it was small":
                explain(connection, _reading_on("3:3:") | {"floor": 0, "late": 1, "fresh": 1})
            other.execute(FILL.format(COUNT - 10_100).encode())
            other.execute(FILL.format(10_000).encode())
            if statistics == "analyzed":
                other.execute("VACUUM ANALYZE outbox_event")
        yield connection


def assert_frugal(plan: list[dict[str, Any]]) -> None:
    """Nothing is scanned through, nothing filtered away, and nothing compiled."""
    on_table = [node for node in plan if node.get("Relation Name") == "outbox_event"]
    assert on_table
    assert not [node for node in on_table if node["Node Type"] == "Seq Scan"]
    assert sum(node.get("Rows Removed by Filter", 0) for node in on_table) == 0
    assert plan[0]["Total Cost"] % DISABLED_COST < JIT_ABOVE_COST


def test_a_page_reads_nothing_but_its_own_ranges(table: psycopg.Connection[Any]) -> None:
    row = table.execute(
        "SELECT pg_current_snapshot()::text, max(transaction_id::text::bigint) FROM outbox_event"
    ).fetchone()
    assert row is not None
    snapshot, last = row
    check_fresh_rows(table, snapshot)
    check_late_rows(table, last)
    check_rows_above_xmax(table, last)


def check_fresh_rows(table: psycopg.Connection[Any], snapshot: str) -> None:
    for floor in (0, COUNT // 2, COUNT + 100):
        parameters = {"floor": floor, "late": LATE_LIMIT, "fresh": PAGE}
        plan = explain(table, _reading_on(snapshot) | parameters)
        assert_frugal(plan)
        # Twice, for their size and for themselves, some 27 rows a block.
        assert touched(plan) < PAGE / 10


def check_late_rows(table: psycopg.Connection[Any], last: int) -> None:
    """The position's snapshot lists the last transaction as running, and a thousand more."""
    running = ",".join(str(last - 1_000 + i) for i in range(1_001))
    position = _reading_on(f"{last - 1_000}:{last + 1}:{running}")
    rest_of_pass = _reading_pass(LatePass("", (last,), cursor=COUNT - 5_000))
    cases = ((position | {"fresh": PAGE}, 1_001), (rest_of_pass | {"fresh": 0}, 1))
    for parameters, transactions in cases:
        plan = explain(table, parameters | {"floor": COUNT, "late": LATE_LIMIT})
        assert_frugal(plan)
        assert plan[0]["Actual Rows"] == LATE_LIMIT + 1
        # For each transaction and each row a descent of an index.
        assert touched(plan) < 5 * (transactions + LATE_LIMIT)


def check_rows_above_xmax(table: psycopg.Connection[Any], last: int) -> None:
    """The route stood still for 10,000 rows: the first page walks over their index entries."""
    parameters = {"floor": COUNT - 10_000, "late": LATE_LIMIT, "fresh": PAGE}
    plan = explain(table, _reading_on(f"{last}:{last}:") | parameters)
    assert_frugal(plan)
    assert touched(plan) < PAGE / 10
