"""What is made of measured rounds: medians, ratios, tables, pictures and the page."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.page import filled
from benchmarks.pictures import backlog, commits, latency
from benchmarks.svg import Axis, Line, line_chart, linear_ticks, log_ticks
from outbox.bench.records import warm_rate
from outbox.bench.relay import Plan, flatness
from outbox.bench.report import Series, percentile, report
from outbox.bench.tables import tables

SVG = "{http://www.w3.org/2000/svg}"


def relay_series(rows: int, *rates: tuple[float, float], size: int = 200) -> Series:
    common = {"warm_rows_per_second": 1.0, "cpu_seconds": 0.5, "peak_bytes": 100 << 20}
    return Series(
        kind="relay",
        where={"rows": rows, "bytes": size},
        rounds=[
            {
                "by hand": {"rows_per_second": theirs, **common},
                "relay <fast> & safe": {"rows_per_second": mine, **common},
            }
            for theirs, mine in rates
        ],
        ratios=("rows_per_second",),
    )


def made(*series: Series) -> dict[str, Any]:
    machine = {
        "cores": 2,
        "cpu": "an EPYC",
        "architecture": "x86_64",
        "python": "3.11.7",
        "libraries": {"sqlalchemy": "2.1", "psycopg": "3.3", "confluent-kafka": "2.16"},
    }
    return report(
        "relay",
        started_at="2026-05-01T12:00:00+00:00",
        machine=machine,
        server={"server_version": "15.18 (Debian)", "fsync": "off"},
        note="Kafka 4.1",
        series=series,
    )


def test_a_ratio_is_the_median_of_the_ratios_of_rounds_not_of_medians() -> None:
    found = relay_series(1, (100, 90), (1000, 500), (10, 8)).to_json()["contenders"]
    relay = found["relay <fast> & safe"]
    assert relay["ratio"] == {"rows_per_second": {"by hand": 0.8}}
    assert relay["median"]["rows_per_second"] == 90
    assert found["by hand"]["ratio"]["rows_per_second"] == {
        "relay <fast> & safe": pytest.approx(1.25)
    }


def test_a_difference_is_compared_within_a_round() -> None:
    rounds = [{"direct": {"p50_ms": a}, "relay": {"p50_ms": b}} for a, b in ((1, 2), (9, 10))]
    series = Series(kind="latency", where={}, rounds=rounds, differences=("p50_ms",))
    assert series.to_json()["contenders"]["relay"]["above"] == {"p50_ms": {"direct": 1}}


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 2), (51, 3), (99, 4), (100, 4)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    assert percentile([1, 2, 3, 4], percent) == expected


def test_the_warm_rate_leaves_out_the_first_tenth() -> None:
    assert warm_rate({1_000: 1, 9_000: 1, 9_500: 4, 10_000: 4}) == pytest.approx(9 / 9)
    assert warm_rate({1_000: 100, 2_000: 900}) == pytest.approx(900)
    assert warm_rate({5: 10}) == 0
    assert warm_rate({}) == 0


def test_a_relay_is_compared_with_the_script_of_its_own_guarantee() -> None:
    medians = {
        "direct produce": 1.0,
        "by hand, exactly-once": 9.0,
        "by hand, at-least-once": 2.0,
        "relay, exactly-once": 12.0,
        "relay, exactly-once, no doorbell": 11.0,
        "relay, at-least-once": 4.0,
    }
    rounds = [
        {name: {"p50_ms": p50, "p99_ms": p50, "max_ms": p50} for name, p50 in medians.items()}
    ]
    differences = ("p50_ms", "p99_ms")
    series = Series(kind="latency", where={}, rounds=rounds, differences=differences)
    (table,) = tables(made(series))
    column = table.titles.index("p50 above by hand")
    assert [row[column] for row in table.rows] == ["", "", "", "+3.00", "+2.00", "+2.00"]
    column = table.titles.index("p50 above at-least-once")
    assert [row[column] for row in table.rows] == ["", "+7.00", "", "+8.00", "", ""]


def test_all_series_of_a_kind_are_one_table() -> None:
    (table,) = tables(made(relay_series(50_000, (100_000, 80_000)), relay_series(5, (10, 8))))
    assert table.titles[:5] == ["", "rows", "bytes", "rows/s", "of by hand"]
    assert [list(row[:5]) for row in table.rows] == [
        ["by hand", "50,000", "200", "100,000", ""],
        ["relay <fast> & safe", "50,000", "200", "80,000", "0.80"],
        ["by hand", "5", "200", "10", ""],
        ["relay <fast> & safe", "5", "200", "8", "0.80"],
    ]


def test_a_column_that_nothing_was_measured_for_is_left_out() -> None:
    (table,) = tables(made(relay_series(5, (10, 8))))
    assert "of smallest" not in table.titles
    assert "of at-least-once" not in table.titles


def test_exactly_once_is_set_beside_at_least_once() -> None:
    common = {"warm_rows_per_second": 1.0, "cpu_seconds": 0.5, "peak_bytes": 100 << 20}
    rates = {
        "by hand": 100,
        "relay, exactly-once": 60,
        "relay, at-least-once": 80,
        "relay, exactly-once, a transaction held open": 40,
    }
    series = Series(
        kind="relay",
        where={"rows": 5, "bytes": 200},
        rounds=[{name: {"rows_per_second": rate, **common} for name, rate in rates.items()}],
        ratios=("rows_per_second",),
    )
    (table,) = tables(made(series))
    column = list(table.titles).index("of at-least-once")
    assert [row[column] for row in table.rows] == ["", "0.75", "", ""]


def test_a_large_backlog_is_set_beside_the_smallest_by_the_medians_of_their_rounds() -> None:
    few, many = relay_series(50, (10, 8), (20, 10), (30, 12)), relay_series(5_000, (40, 5), (20, 7))
    found = flatness(50, few.rounds, many.rounds)
    assert found["by hand"]["of_smallest"]["rows_per_second"] == 30 / 20
    assert found["relay <fast> & safe"]["of_smallest"]["rows_per_second"] == 6 / 10
    assert found["relay <fast> & safe"]["of_smallest"]["rows"] == 50
    (table,) = tables(made(few, replace(many, extra=found)))
    column = list(table.titles).index("of smallest")
    assert [row[column] for row in table.rows] == ["", "", "1.50", "0.60"]


def test_a_backlog_beyond_a_million_rows_takes_fewer_turns_never_more() -> None:
    plan = Plan(backlogs=(), sizes=(), deliveries=(), rounds=5)
    assert plan.rounds_of(1_000_000) == 5
    assert plan.rounds_of(5_000_000) == 2
    assert replace(plan, large_rounds=4).rounds_of(5_000_000) == 4
    assert replace(plan, rounds=1).rounds_of(5_000_000) == 1


def test_the_page_is_filled_between_its_markers_alone() -> None:
    page = (
        "# Page\n<!-- figures: relay -->\nold\n<!-- end -->\nbetween\n"
        "<!-- figures: unknown -->\nkept\n<!-- end -->\nafter\n"
    )
    found = filled(page, {"relay": made(relay_series(50_000, (100_000, 80_000)))})
    assert "old" not in found
    assert "| by hand | 50,000 | 200 | 100,000 |  | 1 | 0.50 | 100 |\n" in found
    assert "| --- | ---: | ---: |" in found
    assert "Measured on 2026-05-01: 2 cores (an EPYC, x86_64), PostgreSQL 15.18" in found
    assert "Kafka 4.1.\n<!-- end -->\nbetween\n" in found
    assert found.endswith("<!-- figures: unknown -->\nkept\n<!-- end -->\nafter\n")
    assert filled(found, {"relay": made(relay_series(50_000, (100_000, 80_000)))}) == found


def test_the_picture_of_backlogs_has_every_point_where_it_belongs() -> None:
    sizes = (50_000, 500_000, 5_000_000)
    series = [relay_series(rows, (100_000, 80_000), size=size) for rows in sizes for size in (1, 2)]
    document = ET.fromstring(backlog(made(*series)))  # noqa: S314  # our own
    marks = document.findall(f"{SVG}circle")
    assert len(marks) == 3 * 4
    titles = [mark.findtext(f"{SVG}title") for mark in marks]
    assert "by hand, 1 bytes: 5M, 100,000" in titles
    assert "relay <fast> & safe, 2 bytes: 50,000, 80,000" in titles
    across = sorted({float(mark.get("cx", "")) for mark in marks})
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2), "a log axis"
    up = sorted({float(mark.get("cy", "")) for mark in marks})
    assert len(up) == 2, "equal rates stand equally high"
    shown = [text.text for text in document.findall(f"{SVG}text")]
    assert "backlog (rows)" in shown
    assert "rows a second, from start to end" in shown


def test_the_picture_of_latencies_has_a_line_for_each_contender() -> None:
    percentiles = [{"percent": each, "ms": 1 + each / 10} for each in range(101)]
    rounds = [{name: {"p50_ms": 1.0} for name in ("direct produce", "relay")}]
    series = Series(
        kind="latency",
        where={"commits_per_second": 200},
        rounds=rounds,
        extra={name: {"percentiles": percentiles} for name in rounds[0]},
    )
    document = ET.fromstring(latency(made(series)))  # noqa: S314  # our own
    lines = document.findall(f"{SVG}polyline")
    assert [len(line.get("points", "").split()) for line in lines] == [101, 101]


def test_the_picture_of_commits_has_bars_as_long_as_their_values() -> None:
    rounds = [{"none": {"commits_per_second": 1000.0}, "trigger": {"commits_per_second": 250.0}}]
    series = Series(kind="commits", where={"writers": 32}, rounds=rounds)
    document = ET.fromstring(commits(made(series)))  # noqa: S314  # our own
    widths = [
        float(bar.get("width", ""))
        for bar in document.findall(f"{SVG}rect")
        if "bar" in bar.get("class", "")
    ]
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)


def test_a_picture_has_no_script_and_colours_for_dark_pages() -> None:
    text = line_chart("t", Axis("x", is_log=True), Axis("y"), [Line("l", [(1, 1), (10, 0)])])
    assert "script" not in text
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"\b(nan|inf)\b", text)


def test_axes_have_round_ticks_that_reach_the_highest_value() -> None:
    assert linear_ticks(95_000) == [0, 20_000, 40_000, 60_000, 80_000, 100_000]
    assert linear_ticks(100) == [0, 20, 40, 60, 80, 100]
    assert linear_ticks(0) == [0, 1]
    assert log_ticks(50_000, 5_000_000) == [5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6]
