"""Figures beside what they are to reach."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.page import filled, read
from benchmarks.targets import Target, summary, table, targets
from outbox.bench.relay import flatness
from outbox.bench.report import Series, report

if TYPE_CHECKING:
    from pathlib import Path

    from outbox.bench.report import Figures

BY_HAND, EXACTLY, AT_LEAST = "by hand", "relay, exactly-once", "relay, at-least-once"
HELD_OPEN = f"{EXACTLY}, a transaction held open"


def relay(rows: int, size: int, *rounds: dict[str, tuple[float, int]]) -> Series:
    """Make a series of rates and peaks in MiB."""
    told: list[dict[str, Figures]] = [
        {
            name: {"rows_per_second": rate, "warm_rows_per_second": rate, "peak_bytes": mib << 20}
            for name, (rate, mib) in each.items()
        }
        for each in rounds
    ]
    where = {"rows": rows, "bytes": size}
    return Series(kind="relay", where=where, rounds=told, ratios=("rows_per_second",))


def found(reports: dict[str, list[Series]], what: str) -> Target:
    made = {name: report(name, series=series) for name, series in reports.items()}
    (target,) = [each for each in targets(made) if each.what == what]
    return target


def test_a_target_is_met_or_says_by_how_much_it_is_not() -> None:
    met = Target("a", True, 0.8, "", 2, 0.83)
    short = Target("b", False, 3, "ms", 2, 4.25)
    unknown = Target("c", True, 0.8, "", 2, None)
    assert [each.short_by for each in (met, short, unknown)] == [0, 1.25, None]
    assert met.to_row() == ("a", "0.83", "≥ 0.80", "met")
    assert short.to_row() == ("b", "4.25 ms", "≤ 3.00 ms", "falls short by 1.25 ms")
    assert unknown.to_row() == ("c", "", "≥ 0.80", "not measured")
    assert short.to_json() == {
        "what": "b",
        "bound": {"most": 3},
        "unit": "ms",
        "measured": 4.25,
        "short_by": 1.25,
    }


def test_what_just_meets_its_target_is_not_short_by_nothing() -> None:
    barely = Target("a", True, 0.8, "", 2, 0.7999)
    assert barely.to_row()[1:] == ("0.80", "≥ 0.80", "falls short by less than 0.01")


def test_without_reports_nothing_is_measured_and_nothing_fails() -> None:
    assert {each.measured for each in targets({})} == {None}
    assert {row[-1] for row in table({}).rows} == {"not measured"}


def test_rates_are_taken_from_the_rounds_of_their_own_size() -> None:
    small = relay(200_000, 200, {BY_HAND: (100, 9), EXACTLY: (70, 9), AT_LEAST: (90, 9)})
    large = relay(200_000, 2_048, {BY_HAND: (10, 9), EXACTLY: (9, 9), AT_LEAST: (10, 9)})
    reports = {"relay": [small, large]}
    assert found(reports, f"rows/s of by hand: {EXACTLY}, 200 bytes").measured == 0.7
    assert found(reports, f"rows/s of by hand: {AT_LEAST}, 2,048 bytes").measured == 1
    of_plain = found(reports, f"rows/s of at-least-once: {EXACTLY}, 2,048 bytes")
    assert (of_plain.measured, of_plain.short_by) == (0.9, 0)


def test_flatness_is_judged_between_the_smallest_and_the_largest_backlog() -> None:
    few = relay(50_000, 200, {EXACTLY: (100, 120), HELD_OPEN: (95, 120)})
    many = relay(
        5_000_000,
        200,
        {EXACTLY: (80, 130), HELD_OPEN: (40, 130)},
        {EXACTLY: (80, 251), HELD_OPEN: (40, 7)},
    )
    flat = flatness(50_000, few.rounds, many.rounds)
    reports = {"backlog": [few, replace(many, extra=flat)]}
    target = found(reports, f"rows/s at 5,000,000 rows of 50,000: {EXACTLY}")
    assert target.measured == 0.8
    assert target.short_by == pytest.approx(0.1)
    what = f"rows/s at 5,000,000 rows of none held open: {HELD_OPEN}"
    assert found(reports, what).measured == 0.5
    peak = found(reports, f"peak at 5,000,000 rows: {EXACTLY}")
    assert (peak.measured, peak.short_by) == (251, 1), "the most of any round, not the median"


def test_idle_statements_that_could_not_be_counted_are_not_measured() -> None:
    rounds = [{EXACTLY: {"cpu_percent": 0.5, "peak_bytes": 1}}]
    series = Series(kind="idle", where={}, rounds=rounds)
    made = {"latency": report("latency", series=[series])}
    idle = [each for each in targets(made) if each.what == f"idle: {EXACTLY}"]
    assert [(each.unit, each.measured) for each in idle] == [
        ("% of a core", 0.5),
        ("statements/s", None),
    ]


def test_the_page_has_the_targets_of_all_reports_and_the_summary_is_no_report(
    tmp_path: Path,
) -> None:
    series = relay(200_000, 200, {BY_HAND: (100, 9), EXACTLY: (70, 9), AT_LEAST: (90, 9)})
    told = report("relay", series=[series])
    (tmp_path / "relay.json").write_text(json.dumps(told))
    (tmp_path / "summary.json").write_text(json.dumps(summary({"relay": told})))
    reports = read(tmp_path)
    assert list(reports) == ["relay"]
    page = filled("a\n<!-- figures: targets -->\nold\n<!-- end -->\nb\n", reports)
    line = f"| rows/s of by hand: {EXACTLY}, 200 bytes | 0.70 | ≥ 0.80 | falls short by 0.10 |\n"
    assert line in page
    assert "old" not in page
