"""`outbox bench late`: one transaction of a million rows that commits after others were delivered.

It is inserted first and stays open, others commit and are delivered, then it commits: all of its
rows are numbered below what the relay has delivered already. The same rows are also drained as a
plain backlog, by the relay and by the hand-written script, which knows no such thing.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from outbox.bench.backlog import empty, fill, filled_late
from outbox.bench.relay import (
    BY_HAND,
    PAGE,
    WARM_UP,
    by_hand,
    by_relay,
    drained,
    relay_arguments,
    relay_name,
    warm_up,
)
from outbox.bench.report import Series
from outbox.bench.rounds import taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from outbox.bench.place import Place
    from outbox.bench.report import Figures, Round

OTHERS: Final = 1_000
"""Events of others, which commit and are delivered while the transaction is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured."""

    rows: int = 1_000_000
    """Rows of the transaction."""
    size: int = 200
    """Bytes of data of one event."""
    deliveries: Sequence[str]
    """What publishing guarantees."""
    rounds: int = 2


def measure(place: Place, plan: Plan, tell: Callable[[str], None]) -> Iterator[Series]:
    """Measure; yield one series."""
    tell("warming up")
    warm_up(place, plan.deliveries, min(WARM_UP, plan.rows))
    rounds = []
    for number in range(plan.rounds):
        tell(f"round {number + 1} of {plan.rounds}: a transaction of {plan.rows:,} events")
        rounds.append(_round(place, plan, number))
    where = {"rows": plan.rows, "bytes": plan.size, "others": OTHERS}
    yield Series(kind="late", where=where, rounds=rounds, ratios=("rows_per_second",))


def _round(place: Place, plan: Plan, number: int) -> Round:
    empty(place.url)
    total = plan.rows + OTHERS
    contenders: dict[str, Callable[[], Figures]] = {
        BY_HAND: partial(by_hand, place, total, PAGE),
    }
    with ExitStack() as topics:
        with filled_late(place.url, plan.rows, plan.size):
            fill(place.url, OTHERS, plan.size)
            for delivery in plan.deliveries:
                topic = topics.enter_context(place.broker.topic(delivery))
                arguments = relay_arguments(place, delivery, topic)
                drain = partial(drained, place, "drain_by_relay", topic, arguments)
                drain(OTHERS)
                contenders[relay_name(delivery)] = partial(by_relay, place, delivery, total)
                contenders[late_name(delivery)] = partial(
                    drain, plan.rows, before=OTHERS, by_key=True
                )
        # The late one begins: whoever reads the rows first also marks them as committed.
        return taken(contenders, number - 1)


def late_name(delivery: str) -> str:
    """Name the relay that finds the rows below what it has delivered."""
    return f"{relay_name(delivery)}, late"
