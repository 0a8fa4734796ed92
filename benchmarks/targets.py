"""What the figures are to reach, each beside what was measured; decided from reports alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outbox.bench.tables import MEBIBYTE, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Reports = Mapping[str, Any]
    """Reports by their names."""

EXACTLY, AT_LEAST = "relay, exactly-once", "relay, at-least-once"
RELAYS: Final = (EXACTLY, AT_LEAST)
HELD_OPEN: Final = f"{EXACTLY}, a transaction held open"
LATE: Final = f"{EXACTLY}, late"
SMALL, LARGE = 50_000, 5_000_000
"""Backlogs that are to be relayed at one pace."""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure, and what it is to reach."""

    what: str
    is_least: bool
    """Whether the bound is the least that is good, not the most."""
    bound: float
    unit: str
    digits: int
    measured: float | None
    """None where no report tells."""

    @property
    def short_by(self) -> float | None:
        """How much is missing; zero where it is met."""
        if self.measured is None:
            return None
        missing = self.bound - self.measured if self.is_least else self.measured - self.bound
        return max(0.0, missing)

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {
            "what": self.what,
            "bound": {"least" if self.is_least else "most": self.bound},
            "unit": self.unit,
            "measured": self.measured,
            "short_by": self.short_by,
        }

    def to_row(self) -> Sequence[str]:
        """Return it for people."""
        sign = "≥" if self.is_least else "≤"
        measured = "" if self.measured is None else self._written(self.measured)
        return self.what, measured, f"{sign} {self._written(self.bound)}", self._verdict()

    def _verdict(self) -> str:
        if self.short_by is None:
            return "not measured"
        if not self.short_by:
            return "met"
        least = 10.0**-self.digits
        if self.short_by < least:
            return f"falls short by less than {self._written(least)}"
        return f"falls short by {self._written(self.short_by)}"

    def _written(self, value: float) -> str:
        return f"{value:,.{self.digits}f} {self.unit}".rstrip()


def targets(reports: Reports) -> list[Target]:
    """Return all targets, with what these reports tell of them."""
    return [
        *_throughput(reports),
        *_flatness(reports),
        *_memory(reports),
        *_latency(reports),
        *_idle(reports),
        *_application(reports),
        *_s3(reports),
        *_audit(reports),
        *_ring(reports),
    ]


def summary(reports: Reports) -> dict[str, Any]:
    """Return the JSON of all targets."""
    return {"targets": [each.to_json() for each in targets(reports)]}


def table(reports: Reports) -> Table:
    """Return the table of all targets."""
    rows = [each.to_row() for each in targets(reports)]
    return Table(("figure", "measured", "target", ""), rows, left=1)


def _least(what: str, bound: float, measured: float | None) -> Target:
    """Make a target for a ratio."""
    return Target(what, True, bound, "", 2, measured)


def _most(what: str, bound: float, unit: str, measured: float | None) -> Target:
    return Target(what, False, bound, unit, 0 if unit == "MiB" else 2, measured)


def _throughput(reports: Reports) -> Iterator[Target]:
    for size in (200, 2_048):
        series = _series(reports, "relay", "relay", bytes=size)
        for name in RELAYS:
            found = _value(series, name, "ratio", "rows_per_second", "by hand")
            yield _least(f"rows/s of by hand: {name}, {size:,} bytes", 0.8, found)
        found = _value(series, EXACTLY, "ratio", "rows_per_second", AT_LEAST)
        yield _least(f"rows/s of at-least-once: {EXACTLY}, {size:,} bytes", 0.8, found)


def _flatness(reports: Reports) -> Iterator[Target]:
    small, large = _backlogs(reports)
    series = _series(reports, "backlog", "relay", rows=large)
    for rate, note in (("rows_per_second", ""), ("warm_rows_per_second", " once warm")):
        for name in RELAYS:
            found = _value(series, name, "of_smallest", rate)
            yield _least(f"rows/s{note} at {large:,} rows of {small:,}: {name}", 0.9, found)
    for rows in (small, large):
        series = _series(reports, "backlog", "relay", rows=rows)
        found = _value(series, HELD_OPEN, "ratio", "rows_per_second", EXACTLY)
        yield _least(f"rows/s at {rows:,} rows of none held open: {HELD_OPEN}", 0.9, found)


def _memory(reports: Reports) -> Iterator[Target]:
    for rows in _backlogs(reports):
        series = _series(reports, "backlog", "relay", rows=rows)
        for name in (*RELAYS, HELD_OPEN):
            yield _most(f"peak at {rows:,} rows: {name}", 250, "MiB", _peak(series, name))
    series = _series(reports, "late", "late")
    yield _most(f"peak at a large transaction: {LATE}", 250, "MiB", _peak(series, LATE))


def _latency(reports: Reports) -> Iterator[Target]:
    series = _series(reports, "latency", "latency")
    for percentile, bound in (("p50", 3), ("p99", 15)):
        for name in RELAYS:
            found = _value(series, name, "above", f"{percentile}_ms", "direct produce")
            yield _most(f"{percentile} above direct produce: {name}", bound, "ms", found)
    found = _value(series, EXACTLY, "above", "p50_ms", AT_LEAST)
    yield _most(f"p50 above at-least-once: {EXACTLY}", 6, "ms", found)


def _idle(reports: Reports) -> Iterator[Target]:
    series = _series(reports, "latency", "idle")
    for name in RELAYS:
        cpu = _value(series, name, "median", "cpu_percent")
        yield _most(f"idle: {name}", 1, "% of a core", cpu)
        statements = _value(series, name, "median", "statements_per_second")
        yield _most(f"idle: {name}", 20, "statements/s", statements)


def _application(reports: Reports) -> Iterator[Target]:
    for version, report in (("2.1", "emit"), ("2.0", "emit-2.0")):
        for count, events, bound in ((1, "one event", 1.0), (10, "ten events", 0.8)):
            series = _series(reports, report, "emit", events=count)
            found = _value(series, "emit", "ratio", "transaction_us", "by hand")
            what = f"time of by hand: emit of {events}, SQLAlchemy {version}"
            yield _most(what, bound, "", found)
        series = _series(reports, report, "hooks")
        found = _value(series, "with hooks", "above", "transaction_us", "without hooks")
        what = f"hooks of a transaction that emits nothing, SQLAlchemy {version}"
        yield _most(what, 15, "µs", found)
    for source in ("memory", "Kafka"):
        series = _series(reports, "consume", "consume", **{"from": source})
        found = _value(series, "worker", "ratio", "messages_per_second", "by hand")
        yield _least(f"messages/s of by hand: worker, from {source}", 0.8, found)


def _s3(reports: Reports) -> Iterator[Target]:
    series = _series(reports, "s3", "s3")
    found = _value(series, "publisher", "ratio", "events_per_second", "boto3")
    yield _least("events/s of boto3: publisher of S3", 0.8, found)


def _audit(reports: Reports) -> Iterator[Target]:
    for database in ("postgresql", "sqlite"):
        series = _series(reports, "audit", "audit-verify", database=database)
        for name in ("verify", "outbox audit verify"):
            found = _value(series, name, "median", "records_per_second")
            yield Target(f"records/s on {database}: {name}", True, 50_000, "", 0, found)


def _ring(reports: Reports) -> Iterator[Target]:
    for consumers in (1, 3):
        series = _series(reports, "ring", "ring", consumers=consumers)
        for name in ("ring", "ring, 100 at once"):
            found = _value(series, name, "ratio", "items_per_second", "queue.Queue")
            yield _least(f"items/s of queue.Queue, consumers: {consumers}: {name}", 3.0, found)


def _all(reports: Reports, name: str, kind: str) -> Sequence[Mapping[str, Any]]:
    return [each for each in reports.get(name, {"series": ()})["series"] if each["kind"] == kind]


def _series(reports: Reports, name: str, kind: str, **where: Any) -> Mapping[str, Any] | None:
    """Return the first series of a report under these circumstances, if there is one."""
    found = [each for each in _all(reports, name, kind) if where.items() <= each["where"].items()]
    return found[0] if found else None


def _backlogs(reports: Reports) -> tuple[int, int]:
    """Return the smallest and the largest backlog, or what they are to be."""
    rows = [each["where"]["rows"] for each in _all(reports, "backlog", "relay")]
    return (min(rows), max(rows)) if rows else (SMALL, LARGE)


def _value(series: Mapping[str, Any] | None, name: str, *path: str) -> float | None:
    """Return a figure of a contender; None where it was not measured."""
    found: Any = series
    for key in ("contenders", name, *path):
        found = None if found is None else found.get(key)
    return None if found is None else float(found)


def _peak(series: Mapping[str, Any] | None, name: str) -> float | None:
    """Return the most MiB that a contender had in any round."""
    if series is None or name not in series["contenders"]:
        return None
    most: float = max(each[name]["peak_bytes"] for each in series["rounds"])
    return most / MEBIBYTE
