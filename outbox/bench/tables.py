"""What people see of a report: its tables, made of its JSON alone, without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
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
    machine, server = report["machine"], report.get("server")
    versions = machine["libraries"]
    parts = [
        f"{machine['cores']} cores ({machine['cpu']}, {machine['architecture']})",
        *([_of_server(server)] if server else []),
        f"Python {machine['python']}",
        *(f"{name} {versions[name]}" for name in ("sqlalchemy", "psycopg", "confluent-kafka")),
    ]
    return ", ".join([*parts, report["note"]] if report["note"] else parts)


def _of_server(server: Mapping[str, str]) -> str:
    return f"PostgreSQL {server['server_version'].split()[0]} with fsync {server['fsync']}"


def _table(kind: str, series: Sequence[Mapping[str, Any]]) -> Table:
    """Make the table of a kind, without the columns that nothing was measured for."""
    found = [
        (column, [column.cell(each, name) for each in series for name in each["contenders"]])
        for column in COLUMNS[kind]
    ]
    columns = [(column, cells) for column, cells in found if any(cells)]
    return Table(
        [column.title for column, _ in columns],
        [*zip(*(cells for _, cells in columns), strict=True)],
        sum(column.is_text for column, _ in columns),
    )


def _name(_series: Mapping[str, Any], name: str) -> str:
    return name


def _where(key: str) -> Cell:
    return lambda series, _name: f"{series['where'][key]:,}"


def _where_text(key: str) -> Cell:
    return lambda series, _name: str(series["where"][key])


def _median(metric: str, digits: int = 0, unit: float = 1) -> Cell:
    def cell(series: Mapping[str, Any], name: str) -> str:
        value = series["contenders"][name]["median"].get(metric)
        return "" if value is None else f"{value / unit:,.{digits}f}"

    return cell


def _of_smallest(metric: str) -> Cell:
    def cell(series: Mapping[str, Any], name: str) -> str:
        found = series["contenders"][name].get("of_smallest")
        return "" if found is None else f"{found[metric]:.2f}"

    return cell


def _ratio(metric: str, other: str) -> Cell:
    return lambda series, name: _compared(series["contenders"][name]["ratio"][metric], other, "")


def _above(metric: str, other: str) -> Cell:
    return lambda series, name: _compared(series["contenders"][name]["above"][metric], other, "+")


def _beside(change: str, into: str, cell: Callable[[str], Cell], *, without: str = "") -> Cell:
    """Compare a contender with the one whose name differs from its own so; others not at all."""

    def compared(series: Mapping[str, Any], name: str) -> str:
        other = name.replace(change, into)
        return "" if other == name else cell(other.removesuffix(without))(series, name)

    return compared


def _compared(values: Mapping[str, float], other: str, sign: str) -> str:
    """Write what a contender is beside another one; nothing beside itself."""
    return f"{values[other]:{sign}.2f}" if other in values else ""


EXACTLY, AT_LEAST = "exactly-once", "at-least-once"
CONTENDER: Final = Column("", _name, is_text=True)


def _of_trail(rate: str) -> Sequence[Column]:
    return [
        CONTENDER,
        Column("database", _where_text("database"), is_text=True),
        Column("records", _where("records")),
        Column(rate, _median("records_per_second")),
        Column("of by hand", _ratio("records_per_second", "by hand")),
    ]


COLUMNS: Final[Mapping[str, Sequence[Column]]] = {
    "relay": [
        CONTENDER,
        Column("rows", _where("rows")),
        Column("bytes", _where("bytes")),
        Column("rows/s", _median("rows_per_second")),
        Column("of by hand", _ratio("rows_per_second", "by hand")),
        Column("of at-least-once", _beside(EXACTLY, AT_LEAST, partial(_ratio, "rows_per_second"))),
        Column("of smallest", _of_smallest("rows_per_second")),
        Column("rows/s once warm", _median("warm_rows_per_second")),
        Column("of smallest", _of_smallest("warm_rows_per_second")),
        Column("CPU s", _median("cpu_seconds", 2)),
        Column("peak MiB", _median("peak_bytes", unit=MEBIBYTE)),
    ],
    "late": [
        CONTENDER,
        Column("rows", _where("rows")),
        Column("bytes", _where("bytes")),
        Column("rows/s", _median("rows_per_second")),
        Column("of by hand", _ratio("rows_per_second", "by hand")),
        Column("of not late", _beside(", late", "", partial(_ratio, "rows_per_second"))),
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
        Column("from", _where_text("from"), is_text=True),
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
    "fanout-steady": [
        CONTENDER,
        Column("commits/s", _where("commits_per_second")),
        Column("p50 ms", _median("p50_ms", 2)),
        Column("p99 ms", _median("p99_ms", 2)),
        Column("p50 above alone", _above("p50_ms", "alone")),
        Column("p99 above alone", _above("p99_ms", "alone")),
    ],
    "fanout": [
        CONTENDER,
        Column("rows", _where("rows")),
        Column("rows/s", _median("rows_per_second")),
        Column("of alone", _ratio("rows_per_second", "alone")),
    ],
    "transports": [
        CONTENDER,
        Column("rows", _where("rows")),
        Column("published/s", _median("published_per_second")),
        Column("received/s", _median("received_per_second")),
    ],
    "s3": [
        CONTENDER,
        Column("events", _where("events")),
        Column("events/s", _median("events_per_second")),
        Column("of boto3", _ratio("events_per_second", "boto3")),
    ],
    "audit-append": _of_trail("appended/s"),
    "audit-verify": _of_trail("verified/s"),
    "ring": [
        CONTENDER,
        Column("consumers", _where("consumers")),
        Column("items/s", _median("items_per_second")),
        Column("of queue.Queue", _ratio("items_per_second", "queue.Queue")),
    ],
    "latency": [
        CONTENDER,
        Column("p50 ms", _median("p50_ms", 2)),
        Column("p90 ms", _median("p90_ms", 2)),
        Column("p99 ms", _median("p99_ms", 2)),
        Column("max ms", _median("max_ms", 1)),
        Column("p50 above direct", _above("p50_ms", "direct produce")),
        Column("p99 above direct", _above("p99_ms", "direct produce")),
        Column(
            "p50 above by hand",
            _beside("relay", "by hand", partial(_above, "p50_ms"), without=", no doorbell"),
        ),
        Column("p50 above at-least-once", _beside(EXACTLY, AT_LEAST, partial(_above, "p50_ms"))),
    ],
    "idle": [
        CONTENDER,
        Column("CPU % of a core", _median("cpu_percent", 2)),
        Column("statements/s", _median("statements_per_second", 1)),
        Column("peak MiB", _median("peak_bytes", unit=MEBIBYTE)),
    ],
}
