"""What people see of a report: its tables, made of its JSON alone, without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Cell = Callable[[Mapping[str, Any], str], str]
    """Writes one cell of a series' contender."""

MEBIBYTE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Table:
    """One table."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int
    """How many columns are text; the others are numbers."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table of a kind of series."""

    title: str
    cell: Cell
    is_text: bool = False


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Return a table for each kind of series in a report."""
    kinds = dict.fromkeys(series["kind"] for series in report["series"])
    return [_table(kind, [s for s in report["series"] if s["kind"] == kind]) for kind in kinds]


def machine_line(report: Mapping[str, Any]) -> str:
    """Say in one line where the figures come from."""
    machine, server = report["machine"], report["server"]
    versions = machine["libraries"]
    parts = [
        f"{machine['cores']} cores ({machine['cpu']}, {machine['architecture']})",
        f"PostgreSQL {server['server_version'].split()[0]} with fsync {server['fsync']}",
        f"Python {machine['python']}",
        *(f"{name} {versions[name]}" for name in ("sqlalchemy", "psycopg", "confluent-kafka")),
    ]
    return ", ".join([*parts, report["note"]] if report["note"] else parts)


def _table(kind: str, series: Sequence[Mapping[str, Any]]) -> Table:
    columns = COLUMNS[kind]
    rows = [
        [column.cell(each, name) for column in columns]
        for each in series
        for name in each["contenders"]
    ]
    return Table(
        [column.title for column in columns],
        rows,
        sum(column.is_text for column in columns),
    )


def _name(_series: Mapping[str, Any], name: str) -> str:
    return name


def _where(key: str) -> Cell:
    return lambda series, _name: f"{series['where'][key]:,}"


def _held_open(series: Mapping[str, Any], name: str) -> str:
    return f"{name}, a transaction held open" if series["where"]["held_open"] else name


def _median(metric: str, digits: int = 0, unit: float = 1) -> Cell:
    return lambda series, name: f"{series['contenders'][name]['median'][metric] / unit:,.{digits}f}"


def _ratio(metric: str, other: str) -> Cell:
    return lambda series, name: _compared(series["contenders"][name]["ratio"][metric], other, "")


def _above(metric: str, other: str) -> Cell:
    return lambda series, name: _compared(series["contenders"][name]["above"][metric], other, "+")


def _compared(values: Mapping[str, float], other: str, sign: str) -> str:
    """Write what a contender is beside another one; nothing beside itself."""
    return f"{values[other]:{sign}.2f}" if other in values else ""


CONTENDER: Final = Column("", _name, is_text=True)
COLUMNS: Final[Mapping[str, Sequence[Column]]] = {
    "relay": [
        Column("", _held_open, is_text=True),
        Column("rows", _where("rows")),
        Column("bytes", _where("bytes")),
        Column("rows/s", _median("rows_per_second")),
        Column("of by hand", _ratio("rows_per_second", "by hand")),
        Column("rows/s once warm", _median("warm_rows_per_second")),
        Column("CPU s", _median("cpu_seconds", 2)),
        Column("peak MiB", _median("peak_bytes", unit=MEBIBYTE)),
    ],
    "emit": [
        CONTENDER,
        Column("events", _where("events")),
        Column("µs a transaction", _median("transaction_us")),
        Column("of by hand", _ratio("transaction_us", "by hand")),
        Column("CPU µs", _median("transaction_cpu_us")),
        Column("of by hand", _ratio("transaction_cpu_us", "by hand")),
    ],
    "hooks": [
        Column("transaction that emits nothing", _name, is_text=True),
        Column("µs", _median("transaction_us")),
        Column("more", _above("transaction_us", "without hooks")),
        Column("CPU µs", _median("transaction_cpu_us")),
        Column("more", _above("transaction_cpu_us", "without hooks")),
    ],
    "consume": [
        CONTENDER,
        Column("from", lambda series, _name: str(series["where"]["from"]), is_text=True),
        Column("messages/s", _median("messages_per_second")),
        Column("of by hand", _ratio("messages_per_second", "by hand")),
    ],
    "commits": [
        CONTENDER,
        Column("writers", _where("writers")),
        Column("commits/s", _median("commits_per_second")),
        Column("of nothing told", _ratio("commits_per_second", "nothing told")),
        Column("CPU µs a commit", _median("commit_cpu_us")),
        Column("rings/s", _median("rings_per_second")),
    ],
    "latency": [
        CONTENDER,
        Column("p50 ms", _median("p50_ms", 2)),
        Column("p90 ms", _median("p90_ms", 2)),
        Column("p99 ms", _median("p99_ms", 2)),
        Column("max ms", _median("max_ms", 1)),
        Column("p50 above direct", _above("p50_ms", "direct produce")),
        Column("p99 above direct", _above("p99_ms", "direct produce")),
    ],
    "idle": [
        CONTENDER,
        Column("CPU % of a core", _median("cpu_percent", 2)),
        Column("statements/s", _median("statements_per_second", 1)),
        Column("peak MiB", _median("peak_bytes", unit=MEBIBYTE)),
    ],
}
