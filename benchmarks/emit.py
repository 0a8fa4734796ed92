"""What `emit` costs a transaction, beside a flush and a Core insert written by hand.

    python -m tools.servers --postgres -- python -m benchmarks.emit

Each contender writes one order by the ORM and some events, in turn with the others, so that a
change of the machine's pace meets all of them. Serialising the events is part of every figure.
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
        for name, hook in HOOKS.items():
            sa.event.remove(Session, name, hook)
        run("order alone, without hooks", place)
        for name, hook in HOOKS.items():
            sa.event.listen(Session, name, hook)
        run("order alone", place)
        run("by hand: flush, Core insert", place_and_insert)
        run("emit", place_and_emit)
    return seconds, cpu


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
    engine.dispose()
    Console().print(table)


if __name__ == "__main__":
    main()
