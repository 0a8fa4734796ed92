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
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from outbox.bench.place import Database
    from outbox.bench.report import Figures, Round

    Place = Callable[[sa.Engine, int, str], None]
    """Places an order with so many events, padded so."""

BY_HAND: Final = "by hand"
REPEATS: Final = 5
"""Transactions of one turn."""
WARM_UP: Final = 20
HOOKS_REPEATS: Final = 50
"""Transactions of each contender in one round about hooks."""
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
            rounds=_hooks(engine, 1 + plan.rounds)[1:],
            differences=("transaction_us", "transaction_cpu_us"),
        )
    finally:
        engine.dispose()


def _place(
    engine: sa.Engine, _count: int, _pad: str, session_class: type[Session] = Session
) -> None:
    with session_class(engine) as session, session.begin():
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


def _turn(
    place: Place, engine: sa.Engine, count: int, text: str, *, repeats: int = REPEATS
) -> Figures:
    started, cpu_started = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        place(engine, count, text)
    return {
        "transaction_us": (time.perf_counter() - started) / repeats * 1e6,
        "transaction_cpu_us": (time.process_time() - cpu_started) / repeats * 1e6,
    }


def _hooks(engine: sa.Engine, rounds: int) -> list[Round]:
    """Compare transactions that emit nothing with those of a process that never could.

    The hooks are those of every Session; meanwhile they belong to one of two classes, so that
    nothing has to be changed between two transactions.
    """

    class Bare(Session):
        pass

    class Hooked(Session):
        pass

    contenders: dict[str, type[Session]] = {"without hooks": Bare, "with hooks": Hooked}
    try:
        for name, hook in HOOKS.items():
            sa.event.remove(Session, name, hook)
            sa.event.listen(Hooked, name, hook)
        return [_hooks_round(engine, contenders, number) for number in range(rounds)]
    finally:
        for name, hook in HOOKS.items():
            sa.event.listen(Session, name, hook)


def _hooks_round(engine: sa.Engine, contenders: Mapping[str, type[Session]], number: int) -> Round:
    """Let them take turns, one transaction each; return the typical ones."""
    turns = {
        name: partial(_turn, partial(_place, session_class=each), engine, 0, "", repeats=1)
        for name, each in contenders.items()
    }
    rounds = [taken(turns, number + turn) for turn in range(HOOKS_REPEATS)]
    return {
        name: {metric: statistics.median(each[name][metric] for each in rounds) for metric in first}
        for name, first in rounds[0].items()
    }
