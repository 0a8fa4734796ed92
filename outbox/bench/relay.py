"""`outbox bench relay`: how fast a backlog goes to Kafka, beside the hand-written script.

Each contender drains the same rows, in a process of its own, into a topic of its own; what arrived
is counted at the broker, committed records alone.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outbox.bench.backlog import empty, fill, held_open
from outbox.bench.child import Child
from outbox.bench.place import BenchError, driver_arguments
from outbox.bench.records import count
from outbox.bench.report import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from outbox.bench.place import Place
    from outbox.bench.report import Figures, Round

BY_HAND: Final = "by hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured."""

    backlogs: Sequence[int]
    """Rows that wait."""
    sizes: Sequence[int]
    """Bytes of data of one event."""
    deliveries: Sequence[str]
    """What publishing guarantees."""
    rounds: int = 3
    page: int = 10_000
    """Rows that the hand-written script reads at once; the relay has its own setting."""
    is_held_open: bool = False
    """Whether a transaction that has emitted stays open from the start."""


def measure(place: Place, plan: Plan, tell: Callable[[str], None]) -> Iterator[Series]:
    """Measure each size at each backlog; yield a series for each."""
    for size in plan.sizes:
        empty(place.url)
        with held_open(place.url) if plan.is_held_open else nullcontext():
            filled = 0
            for backlog in sorted(plan.backlogs):
                tell(f"writing {backlog:,} events of {size:,} bytes")
                fill(place.url, filled + 1, backlog, size)
                filled = backlog
                rounds = []
                for number in range(1, plan.rounds + 1):
                    tell(f"{backlog:,} events of {size:,} bytes: round {number} of {plan.rounds}")
                    rounds.append(_round(place, plan, backlog))
                where = {"rows": backlog, "bytes": size, "held_open": plan.is_held_open}
                yield Series(kind="relay", where=where, rounds=rounds, ratios=("rows_per_second",))


def _round(place: Place, plan: Plan, backlog: int) -> Round:
    """Let each contender drain the backlog."""
    found = {}
    with place.broker.topic("by-hand") as topic:
        arguments = {
            "database": driver_arguments(place.url),
            "kafka": place.broker.config,
            "topic": topic,
            "page": plan.page,
        }
        found[BY_HAND] = _drained(place, "drain_by_hand", topic, arguments, backlog)
    for delivery in plan.deliveries:
        with place.broker.topic(delivery) as topic:
            arguments = {
                "url": place.url.render_as_string(hide_password=False),
                "name": topic,
                "route": place.broker.route(topic, delivery),
            }
            found[relay_name(delivery)] = _drained(
                place, "drain_by_relay", topic, arguments, backlog
            )
    return found


def _drained(
    place: Place, name: str, topic: str, arguments: dict[str, Any], backlog: int
) -> Figures:
    with Child(name, arguments) as child:
        told = child.result()
    arrived = count(place.broker.config, topic, place.broker.partitions)
    if not told.result["count"] == arrived.count == backlog:
        said = told.result["count"]
        raise BenchError(
            f"{name} said that it moved {said:,} of {backlog:,} events, and {arrived.count:,}"
            f" arrived: this is a bug"
        )
    return {
        "rows_per_second": backlog / told.result["seconds"],
        "warm_rows_per_second": arrived.rows_per_second,
        "cpu_seconds": told.result["cpu_seconds"],
        "peak_bytes": told.peak_bytes,
    }


def relay_name(delivery: str) -> str:
    """Name the relay with a guarantee, as one of the contenders."""
    return f"relay, {delivery}"
