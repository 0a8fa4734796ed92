"""What `emit` costs a transaction, beside a flush and a Core insert written by hand.

    python -m tools.servers --postgres -- python -m benchmarks.emit

Each contender writes one order by the ORM and some events, in turn with the others, so that a
change of the machine's pace meets all of them. By hand is what one writes who knows SQLAlchemy:
flush the state, then one Core insert of all events, with no column that has a default. Making and
serialising the events is part of both; that `emit` also checks them is part of `emit`.

What the hooks cost a transaction that emits nothing is the difference to one without them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson
import sqlalchemy as sa
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import outbox
from outbox import migration, pending
from outbox.envelope import new_id
from outbox.table import outbox_event

if TYPE_CHECKING:
    from collections.abc import Callable

PAD = "x" * 150
HOOKS = {
    "before_flush": pending._before_flush,  # noqa: SLF001  # to be measured by taking them away
    "after_flush_postexec": pending._after_flush,  # noqa: SLF001
    "before_commit": pending._before_commit,  # noqa: SLF001
    "after_transaction_create": pending._after_create,  # noqa: SLF001
    "after_transaction_end": pending._after_end,  # noqa: SLF001
}


class Base(DeclarativeBase):
    """The application's own tables."""


class Order(Base):
    """The state that changes."""

    __tablename__ = "bench_order"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@outbox.event("bench.order.placed", key="order_id")
class OrderPlaced(BaseModel):
    """What is told of it; 200 bytes of JSON."""

    order_id: str
    total_cents: int
    pad: str


def place(engine: sa.Engine, _count: int) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order(name="x"))


def place_and_emit(engine: sa.Engine, count: int) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order(name="x"))
        for number in range(count):
            outbox.emit(session, OrderPlaced(order_id="o-1", total_cents=number, pad=PAD))


def place_and_insert(engine: sa.Engine, count: int) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order(name="x"))
        session.flush()
        rows = [
            {
                "id": new_id(),
                "type": "bench.order.placed",
                "partition_key": "o-1",
                "time": datetime.now(UTC),
                "data": orjson.dumps({"order_id": "o-1", "total_cents": number, "pad": PAD}),
                "headers": {},
            }
            for number in range(count)
        ]
        session.execute(sa.insert(outbox_event), rows)


def measure(
    engine: sa.Engine, count: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return microseconds a transaction by contender, of the clock and of our own CPU."""
    seconds: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)

    def run(name: str, contender: Callable[[sa.Engine, int], None]) -> None:
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in range(5):
            contender(engine, count)
        cpu[name].append((time.process_time() - cpu_start) / 5 * 1e6)
        seconds[name].append((time.perf_counter() - start) / 5 * 1e6)

    for _ in range(rounds):
        run("order alone", place)
        run("by hand: flush, Core insert", place_and_insert)
        run("emit", place_and_emit)
    return seconds, cpu


def measure_idle(engine: sa.Engine, rounds: int) -> tuple[list[float], list[float]]:
    """Return microseconds that the hooks add to a transaction that emits nothing, by round.

    The first list is of the clock, the second of our own CPU.
    """

    def typical() -> tuple[float, float]:
        clock, cpu = [], []
        for _ in range(8):
            start, cpu_start = time.perf_counter(), time.process_time()
            place(engine, 0)
            cpu.append((time.process_time() - cpu_start) * 1e6)
            clock.append((time.perf_counter() - start) * 1e6)
        # Whoever comes first after a change of hooks pays for it.
        return statistics.median(clock[2:]), statistics.median(cpu[2:])

    found = []
    for number in range(rounds):
        sides = {}
        for has_hooks in (True, False) if number % 2 else (False, True):
            change = sa.event.listen if has_hooks else sa.event.remove
            for name, hook in HOOKS.items():
                if sa.event.contains(Session, name, hook) != has_hooks:
                    change(Session, name, hook)
            sides[has_hooks] = typical()
        found.append([a - b for a, b in zip(sides[True], sides[False], strict=True)])
    for name, hook in HOOKS.items():
        if not sa.event.contains(Session, name, hook):
            sa.event.listen(Session, name, hook)
    clock, cpu = zip(*found, strict=True)
    return list(clock), list(cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("OUTBOX_TEST_POSTGRES"))
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    name = f"outbox_bench_{os.getpid()}"
    server = sa.create_engine(options.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            report(sa.make_url(options.url).set(database=name), options.rounds)
        finally:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def report(url: sa.URL, rounds: int) -> None:
    """Print the medians, and the median of each round's ratio to the hand-written one."""
    migration.upgrade(url)
    engine = sa.create_engine(url, connect_args={"options": "-c synchronous_commit=off"})
    Base.metadata.create_all(engine)
    measure(engine, 1, 20)  # warm up
    versions = f"SQLAlchemy {sa.__version__}, Python {platform.python_version()}"
    table = Table(
        "events", "contender", "µs a transaction", "of our CPU", "ratio to by hand", title=versions
    )
    for count in (1, 10):
        seconds, cpu = measure(engine, count, rounds)
        by_hand = seconds["by hand: flush, Core insert"]
        for name, each in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(each, by_hand, strict=True))
            columns = (statistics.median(each), statistics.median(cpu[name]))
            table.add_row(str(count), name, *(f"{each:.0f}" for each in columns), f"{ratio:.2f}")
    console = Console()
    console.print(table)
    idle = [statistics.median(each) for each in measure_idle(engine, 2 * rounds)]
    console.print(f"hooks, where nothing is emitted: {idle[0]:.1f} µs, of our CPU {idle[1]:.1f} µs")
    engine.dispose()


if __name__ == "__main__":
    main()
