"""`outbox bench latency`: from commit to a record that a consumer can read, at a steady rate.

A writer commits one event at a time, as an application does, and notes when its commit returned;
a reader notes when the record is there. Both are threads of one process, on one clock. The same is
done for a record that is produced without a database, and with hand-written scripts between.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

import outbox
from outbox.bench.child import Child
from outbox.bench.handwritten.direct import Direct
from outbox.bench.place import driver_arguments
from outbox.bench.records import Arrivals
from outbox.bench.relay import BY_HAND, relay_name
from outbox.bench.report import Series, percentile
from outbox.bench.rounds import is_warm, taken
from outbox.bench.shop import order_placed
from outbox.bench.tables import EXACTLY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from outbox.bench.place import Place
    from outbox.bench.report import Figures

    Write = Callable[[int], tuple[str, int]]
    """Writes event number n; returns its id, and when it was written, in nanoseconds."""

DIRECT: Final = "direct produce"
WARM_UP: Final = 50
"""Events that are sent first and not counted."""
WARM_UP_SECONDS: Final = 5.0
"""Of a turn that is not counted. Each contender has such turns until they become no faster: a
broker that just started takes seven times as long for a transaction, for the first minute."""
WARM_UP_FACTOR: Final = 4
"""So many times as long as a contender is measured it warms up, at most."""
FIRST_SECONDS: Final = 0.2
"""How long a first event is waited for before another one is sent."""
ARRIVAL_SECONDS: Final = 30.0
SETTLED_SECONDS: Final = 15.0
"""After so long without events a relay's pauses have become as long as they do."""
SHOWN: Final = (*range(100), 99.5, 99.9, 100)
"""The percentiles that are kept for a picture."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way from the commit to the broker, through a relay or the hand-written script."""

    delivery: str
    has_doorbell: bool = False
    is_by_hand: bool = False

    @property
    def name(self) -> str:
        """As people read it."""
        if self.is_by_hand:
            return f"{BY_HAND}, {self.delivery}"
        name = relay_name(self.delivery)
        return name if self.has_doorbell else f"{name}, no doorbell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured."""

    per_second: int = 200
    """Commits a second."""
    seconds: float = 10.0
    """Of each contender in each round."""
    size: int = 200
    """Bytes of data of one event."""
    deliveries: Sequence[str]
    """What publishing guarantees."""
    rounds: int = 3
    doorbells: Sequence[bool] = (True,)
    """Whether the writer has a doorbell."""
    idle_seconds: float = 20.0
    """How long an idle relay is watched; 0 for not at all."""


def measure(place: Place, plan: Plan, tell: Callable[[str], None]) -> Iterator[Series]:
    """Measure the latencies, then what an idle relay costs; yield a series for each."""
    by_hand = [Way(each, is_by_hand=True) for each in plan.deliveries]
    ways = [Way(each, has_bell) for each in plan.deliveries for has_bell in plan.doorbells]
    contenders: dict[str, Way | None] = {DIRECT: None}
    contenders |= {way.name: way for way in (*by_hand, *ways)}
    samples: dict[str, list[float]] = {name: [] for name in contenders}

    def turn(plan: Plan, name: str) -> list[float]:
        with place.broker.topic("latency") as topic:
            return _latencies(place, plan, contenders[name], topic)

    def measured(number: int, name: str) -> Figures:
        tell(f"round {number + 1} of {plan.rounds}: {name}")
        latencies = turn(plan, name)
        samples[name].extend(latencies)
        return figures(latencies)

    short = replace(plan, seconds=min(plan.seconds, WARM_UP_SECONDS))
    for name in contenders:
        tell(f"warming up: {name}")
        medians: list[float] = []
        deadline = time.monotonic() + WARM_UP_FACTOR * plan.rounds * plan.seconds
        while not medians or (time.monotonic() < deadline and not is_warm(medians)):
            medians.append(percentile(sorted(turn(short, name)), 50))
    rounds = [
        taken({name: partial(measured, number, name) for name in contenders}, number)
        for number in range(plan.rounds)
    ]
    yield Series(
        kind="latency",
        where={"commits_per_second": plan.per_second, "bytes": plan.size},
        rounds=rounds,
        differences=("p50_ms", "p90_ms", "p99_ms", "max_ms"),
        extra={name: {"percentiles": _percentiles(found)} for name, found in samples.items()},
    )
    if plan.idle_seconds:
        idle = {}
        for way in (each for each in ways if each.has_doorbell):
            tell(f"idle for {plan.idle_seconds:g} s: {way.name}")
            idle[way.name] = _idle(place, plan, way)
        yield Series(kind="idle", where={"seconds": plan.idle_seconds}, rounds=[idle])


def _latencies(place: Place, plan: Plan, way: Way | None, topic: str) -> list[float]:
    """Return the milliseconds of each event through one contender."""
    if way is None:
        with _direct(place, plan, topic) as write, _arrivals(place, topic) as arrivals:
            return _timed(plan, write, arrivals, lambda: None)
    with (
        _contender(place, way, topic) as (function, arguments),
        Child(function, arguments) as child,
    ):
        return relayed(place, plan, topic, child.require_alive, has_doorbell=way.has_doorbell)


def relayed(
    place: Place,
    plan: Plan,
    topic: str,
    require_alive: Callable[[], None],
    *,
    has_doorbell: bool = True,
) -> list[float]:
    """Commit events, and return how many milliseconds later each could be read from the topic.

    Somebody else relays them, of whom `require_alive` raises where he has ended.
    """
    with (
        _committing(place, plan, has_doorbell=has_doorbell) as write,
        _arrivals(place, topic) as arrivals,
    ):
        return _timed(plan, write, arrivals, require_alive)


@contextmanager
def _contender(place: Place, way: Way, topic: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what is to run in the child, and its arguments."""
    if not way.is_by_hand:
        # From now on: what the contenders before it have sent is not sent again.
        route = {**place.broker.route(topic, way.delivery), "start": "now"}
        url = place.url.render_as_string(hide_password=False)
        yield "relay", {"url": url, "name": topic, "route": route}
        return
    is_exactly_once = way.delivery == EXACTLY
    with place.broker.topic("progress") if is_exactly_once else nullcontext() as progress_topic:
        transactional_id = f"{place.broker.transaction_prefix}{topic}" if is_exactly_once else None
        yield (
            "poll_by_hand",
            {
                "database": driver_arguments(place.url),
                "kafka": place.broker.config,
                "topic": topic,
                "transactional_id": transactional_id,
                "progress_topic": progress_topic,
            },
        )


def _timed(
    plan: Plan, write: Write, arrivals: Arrivals, require_alive: Callable[[], None]
) -> list[float]:
    _until_one_arrives(write, arrivals, require_alive)
    _paced(plan.per_second, range(WARM_UP), write, arrivals)
    count = max(1, round(plan.per_second * plan.seconds))
    return _paced(plan.per_second, range(count), write, arrivals)


def _until_one_arrives(write: Write, arrivals: Arrivals, require_alive: Callable[[], None]) -> None:
    """Write until one comes through: nothing else says that the contender is at work."""
    sent: dict[str, int] = {}
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while True:
        event_id, at = write(0)
        sent[event_id] = at
        if arrivals.wait_for_any(FIRST_SECONDS):
            return
        require_alive()
        if time.monotonic() > deadline:
            arrivals.wait(sent, 0)  # which says what is missing


def _paced(
    per_second: int, numbers: Sequence[int], write: Write, arrivals: Arrivals
) -> list[float]:
    """Write so many a second; return for each how many milliseconds later it could be read."""
    written: dict[str, int] = {}
    started = time.monotonic()
    for number in numbers:
        time.sleep(max(0.0, started + number / per_second - time.monotonic()))
        event_id, at = write(number)
        written[event_id] = at
    arrived = arrivals.wait(written, ARRIVAL_SECONDS)
    return [(arrived[each] - at) / 1e6 for each, at in written.items()]


@contextmanager
def _direct(place: Place, plan: Plan, topic: str) -> Iterator[Write]:
    producer = Direct(place.broker.config, topic)
    event = order_placed(0, plan.size)
    data = event.model_dump_json().encode()
    yield lambda number: producer.produce(order_placed(number, 0).order_id, data)
    producer.close()


@contextmanager
def _committing(place: Place, plan: Plan, *, has_doorbell: bool) -> Iterator[Write]:
    engine = sa.create_engine(place.url)
    doorbell = outbox.Doorbell(engine) if has_doorbell else nullcontext()

    def write(number: int) -> tuple[str, int]:
        with Session(engine) as session, session.begin():
            envelope = outbox.emit(session, order_placed(number, plan.size))
        return envelope.id, time.monotonic_ns()

    try:
        with doorbell:
            yield write
    finally:
        engine.dispose()


def _arrivals(place: Place, topic: str) -> Arrivals:
    return Arrivals(place.broker.config, topic, place.broker.partitions)


def figures(latencies: Sequence[float]) -> Figures:
    """Return the percentiles that a table shows."""
    ordered = sorted(latencies)
    found = {f"p{percent}_ms": percentile(ordered, percent) for percent in (50, 90, 99)}
    return {**found, "max_ms": ordered[-1], "count": len(ordered)}


def _percentiles(latencies: Sequence[float]) -> list[Mapping[str, float]]:
    ordered = sorted(latencies)
    return [{"percent": each, "ms": percentile(ordered, each)} for each in SHOWN]


def _idle(place: Place, plan: Plan, way: Way) -> Figures:
    """Watch a relay that has nothing to do."""
    with (
        place.broker.topic("idle") as topic,
        _contender(place, way, topic) as (_, arguments),
        Child("watched_relay", arguments) as child,
        _committing(place, plan, has_doorbell=True) as write,
        _arrivals(place, topic) as arrivals,
    ):
        _until_one_arrives(write, arrivals, child.require_alive)
        time.sleep(min(SETTLED_SECONDS, plan.idle_seconds))
        before, started = child.look(), time.monotonic()
        time.sleep(plan.idle_seconds)
        after, seconds = child.look(), time.monotonic() - started
    found = {
        "cpu_percent": (after.cpu_seconds - before.cpu_seconds) / seconds * 100,
        "peak_bytes": after.peak_bytes,
    }
    if before.statement_count is not None and after.statement_count is not None:
        statements = after.statement_count - before.statement_count
        found["statements_per_second"] = statements / seconds
    return found
