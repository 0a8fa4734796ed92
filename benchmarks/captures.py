"""What each capture costs: reading a backlog, idle pages, late rows, gaps.

    python -m benchmarks.captures [--rows N]

It starts servers of its own, PostgreSQL and MariaDB, and makes a file of SQLite.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from outbox.engine import make_engine
from outbox.migration import upgrade
from outbox.table import outbox_event
from relay.capture import open_capture
from tools.servers import mariadb, postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relay.capture import Capture

PAGE = 10_000
BATCH = 10_000
ROW = {
    "type": "bench.happened",
    "source": "/bench",
    "partition_key": "k",
    "data": b"x" * 200,
}
ONE = sa.insert(outbox_event).values(**ROW)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=500_000)
    rows = parser.parse_args().rows
    print(f"{'':12}{'rows/s':>10}{'idle':>9}{'10 open':>9}{'100 open':>9}", end="")
    print(f"{'late':>9}{'1,000 gaps':>12}{'10,000 gaps':>12}   (ms a page)")
    for name, place in {"postgresql": on_postgres, "mariadb": on_mariadb, "sqlite": here}.items():
        with place() as url:
            upgrade(url)
            engine = make_engine(sa.make_url(url), "captures", poolclass=sa.NullPool)
            print(f"{name:12}", end="", flush=True)
            for figure in figures(engine, rows):
                print(figure, end="", flush=True)
            print()


@contextmanager
def on_postgres() -> Iterator[str]:
    with postgres() as server:
        yield server.url()


@contextmanager
def on_mariadb() -> Iterator[str]:
    with mariadb() as server:
        engine = sa.create_engine(server.url(), poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE bench")
        yield server.url("bench")


@contextmanager
def here() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="outbox-captures-") as folder:
        yield f"sqlite:///{folder}/bench.db"


def figures(engine: sa.Engine, rows: int) -> Iterator[str]:
    capture = open_capture(engine)
    beginning = capture.beginning()
    insert(engine, rows)
    took = min(timed(lambda: read_all(capture, beginning)) for _ in range(3))
    yield f"{rows / took:>10,.0f}"
    position = read_all(capture, beginning)
    yield f"{page_ms(capture, position):>9.2f}"
    if engine.dialect.name == "sqlite":
        return  # its writers take turns: nothing is open beside another, late or missing
    for count in (10, 100):
        with open_transactions(engine, count):
            insert(engine, 1)
            position = read_all(capture, position)
            yield f"{page_ms(capture, position):>9.2f}"
    with engine.connect() as late:
        late.execute(sa.insert(outbox_event), [ROW] * PAGE)
        insert(engine, 1)
        position = read_all(capture, position)
        late.commit()
    yield f"{page_ms(capture, position, 5):>9.2f}"
    for count in (1_000, 10_000):
        rolled_back(engine, count)
        position = read_all(capture, position)
        yield f"{page_ms(capture, position):>12.2f}"
    capture.close()


def insert(engine: sa.Engine, count: int) -> None:
    for done in range(0, count, BATCH):
        with engine.begin() as connection:
            connection.execute(sa.insert(outbox_event), [ROW] * min(BATCH, count - done))


@contextmanager
def open_transactions(engine: sa.Engine, count: int) -> Iterator[None]:
    """Hold transactions open that have emitted one event each."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(engine.connect()).execute(ONE)
        yield


def rolled_back(engine: sa.Engine, count: int) -> None:
    """Emit events in turn, each second one rolled back."""
    with engine.connect() as kept, engine.connect() as doomed:
        for _ in range(count):
            kept.execute(ONE)
            doomed.execute(ONE)
        kept.commit()
        doomed.rollback()


def read_all(capture: Capture, position: Any) -> Any:
    page = capture.next_page(position, PAGE)
    while not page.is_last:
        page = capture.next_page(page.position(), PAGE)
    return page.position()


def page_ms(capture: Capture, position: Any, repeat: int = 31) -> float:
    return 1e3 * statistics.median(
        timed(lambda: capture.next_page(position, PAGE)) for _ in range(repeat)
    )


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
