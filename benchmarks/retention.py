"""What it costs to get rid of delivered rows, and what a writer beside it feels of that.

    python -m benchmarks.retention --rows 5000000

On a PostgreSQL of its own, once for each way, over the same rows: by a script that deletes 10,000
at a time without a pause, by the relay's retention, and by its retention of whole partitions.
Beside each, a process of its own commits single events at an even pace; the first line is what it
sees when nothing else goes on. WAL is without the writer's own, at the rate of that line.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from outbox import partitions
from outbox.migration import upgrade
from outbox.settings import Settings
from outbox.table import outbox_checkpoint
from relay import lease, rotation
from relay.capture import open_capture
from relay.retention import sweep
from relay.retention_state import State
from tools.servers import PostgresServer, postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILL = """
INSERT INTO outbox_event (type, source, partition_key, data, headers, time)
SELECT 'bench.happened', '/bench', 'k' || i %% 1000, convert_to(repeat('x', 200), 'UTF8'),
       '{"correlationid": "c-1", "actor": "user:42"}', now() - interval '1 d'
  FROM generate_series(1, %s) AS i
"""
ONE = "INSERT INTO outbox_event (type, data) VALUES ('bench.happened', convert_to('{}', 'UTF8'))"
DELETE = "DELETE FROM outbox_event WHERE seq > %s AND seq <= %s"
CHUNK = 100_000
BATCH = 10_000


@dataclass
class Measured:
    """One way, beside a writer."""

    seconds: float = 0.0
    wal_bytes: float = 0.0
    commits_ms: list[float] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        return statistics.quantiles(self.commits_ms, n=100, method="inclusive")[98]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--partition-rows", type=int, help="by default a fifth of the rows")
    parser.add_argument("--pace", type=float, default=200.0, help="commits a second")
    parser.add_argument("--idle-seconds", type=float, default=10.0)
    parser.add_argument("--durable", action="store_true", help="with fsync")
    given = parser.parse_args()
    console = Console()
    settings = {"autovacuum": "off", "max_wal_size": "16GB", "checkpoint_timeout": "1h"}
    with postgres(durable=given.durable, settings=settings) as server:
        upgrade(server.url())
        bench = Bench(server, given.rows, given.pace)
        bench.idle(given.idle_seconds)
        bench.fill()
        bench.measure("DELETE, no pause", bench.delete)
        bench.measure("  its VACUUM", bench.vacuum)
        bench.fill()
        bench.measure("retention", bench.retain)
        bench.measure("  its VACUUM", bench.vacuum)
        bench.divide(given.partition_rows or given.rows // 5)
        bench.fill()
        bench.measure("retention, partitions", bench.retain)
        bench.engine.dispose()
    fsync = "on" if given.durable else "off"
    console.print(f"{given.rows:,} rows, fsync {fsync}, {given.pace:g} commits/s beside it")
    console.print(bench.table)


class Bench:
    """A server, and what was measured on it so far."""

    def __init__(self, server: PostgresServer, rows: int, pace: float) -> None:
        self.server = server
        self.rows = rows
        self.pace = pace
        self.engine = sa.create_engine(server.url())
        self.idle_wal = 0.0
        self.table = Table("", "s", "rows/s", "WAL MB", "writer p50 ms", "p99 ms", "max ms")

    def idle(self, seconds: float) -> None:
        found = self.measure("nothing", lambda: time.sleep(seconds))
        self.idle_wal = found.wal_bytes / found.seconds

    def fill(self) -> None:
        """Make the table new: as many old rows, all of them delivered."""
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            connection.execute("TRUNCATE outbox_event")
            for start in range(0, self.rows, CHUNK):
                if partitioned(self.engine):
                    rotation.make_ahead(self.engine)
                connection.execute(FILL.encode(), (min(CHUNK, self.rows - start),))
            connection.execute("VACUUM ANALYZE outbox_event")
        capture = open_capture(self.engine)
        position = capture.now().to_json()
        capture.close()
        with self.engine.begin() as connection:
            connection.execute(sa.delete(outbox_checkpoint))
            lease.acquire(connection, "bench", "bench", 60)
            connection.execute(sa.update(outbox_checkpoint).values(position=position))

    def divide(self, rows: int) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql("TRUNCATE outbox_event")
            partitions.convert(connection, rows)

    def measure(self, name: str, work: Callable[[], object]) -> Measured:
        found = Measured()
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            with writer(self.server.dsn(), self.pace, found):
                before, started = lsn(connection), time.monotonic()
                work()
                found.seconds = time.monotonic() - started
                found.wal_bytes = lsn(connection) - before - self.idle_wal * found.seconds
        self.table.add_row(
            name,
            f"{found.seconds:.1f}",
            f"{self.rows / found.seconds:,.0f}" if name != "nothing" else "",
            f"{found.wal_bytes / 1e6:.1f}",
            f"{statistics.median(found.commits_ms):.2f}",
            f"{found.p99_ms:.1f}",
            f"{max(found.commits_ms):.1f}",
        )
        return found

    def delete(self) -> None:
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            row = connection.execute("SELECT min(seq) - 1 FROM outbox_event").fetchone()
            first = int(row[0]) if row else 0
            for start in range(first, first + self.rows, BATCH):
                connection.execute(DELETE, (start, min(start + BATCH, first + self.rows)))

    def retain(self) -> None:
        settings = Settings.model_validate(
            {"database_url": self.server.url(), "retention": {"events": "1h"}}
        )
        done = sweep(self.engine, settings, "bench", threading.Event(), anew=True)
        if not isinstance(done, State) or not any(done.deleted.values()):
            raise SystemExit(f"retention deleted nothing: {done}")

    def vacuum(self) -> None:
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            connection.execute("VACUUM outbox_event")


@contextmanager
def writer(dsn: str, pace: float, found: Measured) -> Iterator[None]:
    """Commit events in another process while a block lasts, and keep how long each took."""
    context = multiprocessing.get_context("spawn")
    stopping, ready, results = context.Event(), context.Event(), context.Queue()
    process = context.Process(target=write, args=(dsn, pace, ready, stopping, results))
    process.start()
    ready.wait()
    try:
        yield
    finally:
        stopping.set()
        found.commits_ms = results.get()
        process.join()


def write(dsn: str, pace: float, ready: Any, stopping: Any, results: Any) -> None:
    """Take the time from when a commit was due, so that a stall counts for all that it held up."""
    took: list[float] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(ONE.encode())
        ready.set()
        due = time.perf_counter()
        while not stopping.is_set():
            connection.execute(ONE.encode())
            took.append((time.perf_counter() - due) * 1e3)
            due += 1 / pace
            time.sleep(max(due - time.perf_counter(), 0))
    results.put(took)


def partitioned(engine: sa.Engine) -> bool:
    with engine.begin() as connection:
        return partitions.is_partitioned(connection)


def lsn(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    return int(row[0]) if row else 0


if __name__ == "__main__":
    main()
