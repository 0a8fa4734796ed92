"""`outbox bench relay`: how fast a backlog goes to Kafka, beside the hand-written script.

Each contender drains the same rows, in a process of its own, into a topic of its own; what arrived
is counted at the broker, committed records alone. The backlogs take turns as the contenders do, so
that a change of the machine's pace between a small one and a large one is in both.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from outbox.bench.backlog import empty, fill, held_open
from outbox.bench.child import Child
from outbox.bench.place import BenchError, driver_arguments
from outbox.bench.records import count
from outbox.bench.report import Series, ratio
from outbox.bench.rounds import taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from outbox.bench.place import Place
    from outbox.bench.report import Figures, Round

BY_HAND: Final = "by hand"
PAGE: Final = 10_000
"""Rows that the hand-written script reads at once; the relay has its own setting."""
WARM_UP: Final = 200_000
"""Rows that are drained first, and are in no figure: a broker that just started is slow."""
LARGE: Final = 1_000_000
RATES: Final = ("rows_per_second", "warm_rows_per_second")


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
    large_rounds: int = 2
    """Rounds at most of a backlog beyond `LARGE`."""
    page: int = PAGE
    has_held_open: bool = False
    """Whether the first delivery is measured beside a transaction held open as well."""

    def rounds_of(self, backlog: int) -> int:
        """Return how often each contender drains it."""
        return min(self.rounds, self.large_rounds) if backlog > LARGE else self.rounds


def measure(place: Place, plan: Plan, tell: Callable[[str], None]) -> Iterator[Series]:
    """Measure each size at each backlog; yield a series for each."""
    tell("warming up")
    warm_up(place, plan.deliveries, min(WARM_UP, max(plan.backlogs)))
    for size in plan.sizes:
        rounds: dict[int, list[Round]] = {backlog: [] for backlog in sorted(plan.backlogs)}
        for number in range(plan.rounds):
            for backlog in (each for each in rounds if number < plan.rounds_of(each)):
                turn = f"round {number + 1} of {plan.rounds_of(backlog)}"
                tell(f"{turn}: {backlog:,} events of {size:,} bytes")
                rounds[backlog].append(_round(place, plan, backlog, size, number))
        smallest = min(rounds)
        for backlog, found in rounds.items():
            flat = {} if backlog == smallest else flatness(smallest, rounds[smallest], found)
            where = {"rows": backlog, "bytes": size}
            yield Series(
                kind="relay", where=where, rounds=found, ratios=("rows_per_second",), extra=flat
            )


def warm_up(place: Place, deliveries: Sequence[str], backlog: int) -> None:
    """Let each contender drain a few rows, so that the first one measured does not pay for all."""
    empty(place.url)
    fill(place.url, backlog, 200)
    taken(_contenders(place, deliveries, backlog, PAGE), 0)


def flatness(rows: int, few: Sequence[Round], many: Sequence[Round]) -> dict[str, Any]:
    """Return, by contender, its rates as multiples of those at the smallest backlog."""
    return {
        name: {
            "of_smallest": {
                "rows": rows,
                **{
                    rate: ratio(_median(many, name, rate), _median(few, name, rate))
                    for rate in RATES
                },
            }
        }
        for name in many[0]
    }


def _round(place: Place, plan: Plan, backlog: int, size: int, number: int) -> Round:
    """Let each contender drain the backlog; first of all the one with a transaction in its way."""
    empty(place.url)
    held: dict[str, Figures] = {}
    if plan.has_held_open:
        delivery = plan.deliveries[0]
        # It has emitted before all others, so the rows have to be written anew each time.
        with held_open(place.url):
            fill(place.url, backlog, size)
            held[held_open_name(delivery)] = by_relay(place, delivery, backlog)
    else:
        fill(place.url, backlog, size)
    return {**taken(_contenders(place, plan.deliveries, backlog, plan.page), number), **held}


def _contenders(
    place: Place, deliveries: Sequence[str], backlog: int, page: int
) -> dict[str, Callable[[], Figures]]:
    relays = {relay_name(each): partial(by_relay, place, each, backlog) for each in deliveries}
    return {BY_HAND: partial(by_hand, place, backlog, page), **relays}


def by_hand(place: Place, backlog: int, page: int) -> Figures:
    """Drain the backlog by the hand-written script."""
    with place.broker.topic("by-hand") as topic:
        arguments = {
            "database": driver_arguments(place.url),
            "kafka": place.broker.config,
            "topic": topic,
            "page": page,
        }
        return drained(place, "drain_by_hand", topic, arguments, backlog)


def by_relay(place: Place, delivery: str, backlog: int) -> Figures:
    """Drain the backlog by the relay, which has relayed nothing before."""
    with place.broker.topic(delivery) as topic:
        return drained(
            place, "drain_by_relay", topic, relay_arguments(place, delivery, topic), backlog
        )


def relay_arguments(place: Place, delivery: str, topic: str) -> dict[str, Any]:
    """Return what a relay is given that sends all into one topic; the route has its name."""
    return {
        "url": place.url.render_as_string(hide_password=False),
        "name": topic,
        "route": place.broker.route(topic, delivery),
    }


def drained(
    place: Place,
    name: str,
    topic: str,
    arguments: dict[str, Any],
    backlog: int,
    *,
    before: int = 0,
    by_key: bool = False,
) -> Figures:
    """Run a contender to its end; the topic must then hold the backlog, and what was there before.

    Raises `BenchError` where it does not; `by_key` looks at the order of each key as well.
    """
    with Child(name, arguments) as child:
        told = child.result()
    kafka, partitions = place.broker.config, place.broker.partitions
    arrived = count(kafka, topic, partitions, before + backlog, by_key=by_key)
    if not told.result["count"] == arrived.count - before == backlog:
        said = told.result["count"]
        raise BenchError(
            f"{name} said that it moved {said:,} of {backlog:,} events, and"
            f" {arrived.count - before:,} arrived: this is a bug"
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


def held_open_name(delivery: str) -> str:
    """Name it where a transaction that has emitted stays open from the start."""
    return f"{relay_name(delivery)}, a transaction held open"


def _median(rounds: Sequence[Round], name: str, metric: str) -> float:
    return statistics.median(each[name][metric] for each in rounds)
