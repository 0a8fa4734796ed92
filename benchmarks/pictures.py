"""The pictures of docs/performance.md, each made of a report's JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.svg import Axis, Line, bar_chart, line_chart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Report = Mapping[str, Any]


def backlog(report: Report) -> str:
    """Draw rows/s over the backlog, a line for each contender and size of an event."""
    points: dict[str, list[tuple[float, float]]] = {}
    for series in _of_kind(report, "relay"):
        where = series["where"]
        for name, contender in series["contenders"].items():
            line = f"{name}, {where['bytes']:,} bytes"
            rate = contender["median"]["rows_per_second"]
            points.setdefault(line, []).append((where["rows"], rate))
    lines = [Line(name, sorted(each)) for name, each in points.items()]
    return line_chart(
        "How fast a backlog goes to Kafka",
        Axis("backlog (rows)", is_log=True),
        Axis("rows a second, from start to end"),
        lines,
    )


def latency(report: Report) -> str:
    """Draw how many records could be read within how many milliseconds."""
    (series,) = _of_kind(report, "latency")
    lines = [
        Line(
            name,
            [(each["ms"], each["percent"]) for each in contender["percentiles"] if each["ms"] > 0],
            has_marks=False,
        )
        for name, contender in series["contenders"].items()
    ]
    return line_chart(
        f"From commit to readable, at {series['where']['commits_per_second']} commits a second",
        Axis("milliseconds", is_log=True),
        Axis("records readable by then (%)"),
        lines,
    )


def commits(report: Report) -> str:
    """Draw how many commits a second concurrent writers make."""
    (series,) = _of_kind(report, "commits")
    bars = [
        (name, contender["median"]["commits_per_second"])
        for name, contender in series["contenders"].items()
    ]
    writers = series["where"]["writers"]
    return bar_chart(f"What a bell costs {writers} writers", "commits a second", bars)


PICTURES: Final[Mapping[str, tuple[str, Callable[[Report], str]]]] = {
    "backlog.svg": ("backlog", backlog),
    "latency.svg": ("latency", latency),
    "commits.svg": ("commits-durable", commits),
}
"""By file: the report that it is made of, and what draws it."""


def _of_kind(report: Report, kind: str) -> Sequence[Mapping[str, Any]]:
    return [series for series in report["series"] if series["kind"] == kind]
