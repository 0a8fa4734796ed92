"""`outbox bench emit`: what `emit` costs a transaction, beside an insert written by hand.

Each contender writes one order by the ORM and some events. Making and serialising the events is
part of both; that `emit` also checks them is part of `emit`. What the hooks cost a transaction that
emits nothing is the difference to one without them. Commits do not wait for the disk, so that the
work is compared and not the disk.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

import outbox
from outbox import pending
from outbox.bench.handwritten import emit as handwritten
from outbox.bench.place import quick
from outbox.bench.report import Series
from outbox.bench.rounds import taken
from outbox.bench.shop import Base, Order, OrderPlaced, pad

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from outbox.bench.place import Database
    from outbox.bench.report import Figures, Round

    Place = Callable[[sa.Engine, int, str], None]
    """Places an order with so many events, padded so."""

BY_HAND: Final = "by hand"
REPEATS: Final = 5
"""Transactions of one turn."""
WARM_UP: Final = 20
HOOKS: Final = {
    "before_flush": pending._before_flush,  # noqa: SLF001  # to be measured by taking them away
    "after_flush_postexec": pending._after_flush,  # noqa: SLF001
    "before_commit": pending._before_commit,  # noqa: SLF001
    "after_transaction_create": pending._after_create,  # noqa: SLF001
    "after_transaction_end": pending._after_end,  # noqa: SLF001
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured."""

    counts: Sequence[int]
    """Events in one transaction."""
    size: int = 200
    """Bytes of data of one event."""
    rounds: int = 200


def measure(place: Database, plan: Plan, tell: Callable[[str], None]) -> Iterator[Series]:
    """Measure transactions with events, then one without; yield a series for each."""
    engine = sa.create_engine(quick(place.url))
    try:
        Base.metadata.create_all(engine)
        text = pad(plan.size)
        for count in plan.counts:
            tell(f"transactions with {count} events of {plan.size:,} bytes")
            turns = [_round(engine, count, text, n) for n in range(WARM_UP + plan.rounds)]
            yield Series(
                kind="emit",
                where={"events": count, "bytes": plan.size},
                rounds=turns[WARM_UP:],
                ratios=("transaction_us", "transaction_cpu_us"),
            )
        tell("transactions without events")
        yield Series(
            kind="hooks",
            where={},
            rounds=[_hooks(engine, number) for number in range(2 * plan.rounds)],
            differences=("transaction_us", "transaction_cpu_us"),
        )
    finally:
        engine.dispose()


def _place(engine: sa.Engine, _count: int, _pad: str) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order(name="x"))


def _place_and_emit(engine: sa.Engine, count: int, pad: str) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order(name="x"))
        for number in range(count):
            outbox.emit(session, OrderPlaced(order_id="o-1", total_cents=number, pad=pad))


CONTENDERS: Final[dict[str, Place]] = {
    "order alone": _place,
    BY_HAND: handwritten.place,
    "emit": _place_and_emit,
}


def _round(engine: sa.Engine, count: int, text: str, number: int) -> Round:
    turns = {name: partial(_turn, place, engine, count, text) for name, place in CONTENDERS.items()}
    return taken(turns, number)


def _turn(place: Place, engine: sa.Engine, count: int, text: str) -> Figures:
    started, cpu_started = time.perf_counter(), time.process_time()
    for _ in range(REPEATS):
        place(engine, count, text)
    return {
        "transaction_us": (time.perf_counter() - started) / REPEATS * 1e6,
        "transaction_cpu_us": (time.process_time() - cpu_started) / REPEATS * 1e6,
    }


def _hooks(engine: sa.Engine, number: int) -> dict[str, Figures]:
    """Compare a transaction that emits nothing with one in a process that never could."""
    found = {}
    try:
        for has_hooks in (True, False) if number % 2 else (False, True):
            _listen(has_hooks=has_hooks)
            found["with hooks" if has_hooks else "without hooks"] = _typical(engine)
    finally:
        _listen(has_hooks=True)
    return {name: found[name] for name in ("without hooks", "with hooks")}


def _listen(*, has_hooks: bool) -> None:
    change = sa.event.listen if has_hooks else sa.event.remove
    for name, hook in HOOKS.items():
        if sa.event.contains(Session, name, hook) != has_hooks:
            change(Session, name, hook)


def _typical(engine: sa.Engine) -> Figures:
    clock, cpu = [], []
    for _ in range(8):
        started, cpu_started = time.perf_counter(), time.process_time()
        _place(engine, 0, "")
        cpu.append((time.process_time() - cpu_started) * 1e6)
        clock.append((time.perf_counter() - started) * 1e6)
    # Whoever comes first after a change of hooks pays for it.
    return {
        "transaction_us": statistics.median(clock[2:]),
        "transaction_cpu_us": statistics.median(cpu[2:]),
    }
