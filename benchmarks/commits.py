"""What telling the relay of a commit costs the commits: nothing told, the doorbell, a trigger.

    python -m tools.servers --postgres -- python -m benchmarks.commits
    python -m benchmarks.commits --durable        # a server of its own that flushes each commit

Writers commit as fast as they can: each transaction updates a row of the writer's own and emits one
event. The contenders take turns, so that a change of the machine's pace meets all of them, and a
connection listens all the time, as a relay would. The trigger notifies in the transaction itself.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import uuid
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg
import sqlalchemy as sa
from psycopg import sql
from pydantic import BaseModel

import outbox
from benchmarks.command import arguments, described, finish, started_now
from outbox import migration
from outbox.bench.report import Series
from outbox.bench.rounds import taken
from outbox.doorbell import CHANNEL
from tools.servers import postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.bench.report import Figures

CONTENDERS: Final = ("nothing told", "doorbell", "trigger")
READY_SECONDS: Final = 2.0
"""What the writers have to connect, before the clock of a round starts."""
PAD: Final = "x" * 150


@outbox.event("bench.account.changed", key="account")
class AccountChanged(BaseModel):
    """200 bytes of JSON."""

    account: str
    pad: str = PAD


def measure(
    url: str, *, writers: int = 32, processes: int = 4, rounds: int = 5, seconds: float = 3.0
) -> Series:
    """Let the contenders take turns on a migrated database; their rows stay in `outbox_event`.

    `writers` is the number of all writers, a multiple of `processes`.
    """
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(_dsn(url), autocommit=True))
        stack.enter_context(_accounts(connection, writers))
        pool = stack.enter_context(ProcessPoolExecutor(processes, mp_context=spawn))
        share = writers // processes

        def turn(contender: str) -> Figures:
            with _trigger(connection, wanted=contender == "trigger"), _ears(url) as heard:
                start = time.monotonic() + READY_SECONDS
                futures = [
                    pool.submit(
                        write,
                        url,
                        n * share,
                        share,
                        start,
                        seconds,
                        has_doorbell=contender == "doorbell",
                    )
                    for n in range(processes)
                ]
                done = [future.result() for future in futures]
            commits, cpu = (sum(each) for each in zip(*done, strict=True))
            return {
                "commits_per_second": commits / seconds,
                # Notifications that reached the listening connection.
                "rings_per_second": len(heard) / seconds,
                # Of the writers' processes, the doorbell's thread among them.
                "commit_cpu_us": cpu / max(commits, 1) * 1e6,
            }

        contenders = {name: partial(turn, name) for name in CONTENDERS}
        found = [taken(contenders, number) for number in range(rounds + 1)]
    return Series(
        kind="commits",
        where={"writers": writers, "processes": processes},
        rounds=found[1:],  # the first turns only warm up
        ratios=("commits_per_second",),
    )


def write(
    url: str, first: int, count: int, start: float, seconds: float, *, has_doorbell: bool
) -> tuple[int, float]:
    """Commit by `count` threads for some seconds from `start` on; return how often, and our CPU."""
    engine = sa.create_engine(url, pool_size=count)
    change = sa.text("UPDATE bench_account SET changes = changes + 1 WHERE id = :id")

    def run(number: int) -> int:
        commits = 0
        with engine.connect() as connection:
            connection.rollback()
            time.sleep(max(0.0, start - time.monotonic()))
            while time.monotonic() < start + seconds:
                with connection.begin():
                    connection.execute(change, {"id": number})
                    outbox.emit(connection, AccountChanged(account=str(number)))
                commits += 1
        return commits

    with ExitStack() as stack:
        stack.callback(engine.dispose)
        if has_doorbell:
            stack.enter_context(outbox.Doorbell(engine))
        threads = stack.enter_context(ThreadPoolExecutor(count))
        started = time.process_time()
        commits = sum(threads.map(run, range(first, first + count)))
        return commits, time.process_time() - started


@contextmanager
def _accounts(connection: psycopg.Connection[Any], writers: int) -> Iterator[None]:
    connection.execute("CREATE TABLE bench_account (id int PRIMARY KEY, changes int NOT NULL)")
    try:
        connection.execute(
            "INSERT INTO bench_account SELECT i, 0 FROM generate_series(0, %s) AS i", [writers]
        )
        yield
    finally:
        connection.execute("DROP TABLE bench_account")


@contextmanager
def _trigger(connection: psycopg.Connection[Any], *, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    body = f"BEGIN PERFORM pg_notify('{_channel(connection)}', ''); RETURN NULL; END"
    create = sql.SQL("CREATE FUNCTION bench_ring() RETURNS trigger LANGUAGE plpgsql AS {}")
    connection.execute(create.format(body))
    try:
        connection.execute(
            "CREATE TRIGGER bench_ring AFTER INSERT ON outbox_event"
            " FOR EACH STATEMENT EXECUTE FUNCTION bench_ring()"
        )
        yield
    finally:
        connection.execute("DROP FUNCTION bench_ring() CASCADE")


@contextmanager
def _ears(url: str) -> Iterator[list[psycopg.Notify]]:
    """Listen until the block ends; the list then has what was heard."""
    heard: list[psycopg.Notify] = []
    over = threading.Event()
    with psycopg.connect(_dsn(url), autocommit=True) as connection:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(_channel(connection))))

        def listen() -> None:
            while not over.is_set():
                heard.extend(connection.notifies(timeout=0.1))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield heard
        finally:
            over.set()
            thread.join()


def _channel(connection: psycopg.Connection[Any]) -> str:
    name: str = connection.execute(CHANNEL).fetchall()[0][0]
    return name


def _dsn(url: str) -> str:
    return sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def _database(server: str) -> Iterator[str]:
    """Make a migrated database on a server until the block ends."""
    name = f"bench_{uuid.uuid4().hex[:8]}"
    url = sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(_dsn(server), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            migration.upgrade(url)
            yield url
        finally:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(name)))


def main() -> None:
    """Measure on a database of its own, and print a table or JSON."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--url", default=os.environ.get("OUTBOX_TEST_POSTGRES"))
    parser.add_argument("--durable", action="store_true", help="a server of its own, with fsync")
    parser.add_argument("--writers", type=int, default=32)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one turn")
    options = parser.parse_args()
    if options.writers % options.processes:
        parser.error("--writers has to be a multiple of --processes")
    if options.url is None and not options.durable:
        parser.error("give --url or --durable, or run it by `python -m tools.servers --postgres`")
    with ExitStack() as stack:
        address = options.url
        if options.durable:
            address = stack.enter_context(postgres(durable=True)).url()
        url = stack.enter_context(_database(address))
        series = measure(
            url,
            writers=options.writers,
            processes=options.processes,
            rounds=options.rounds,
            seconds=options.seconds,
        )
        found = described(url)
    finish("commits", options, [series], started_at=started_now(), server=found)


if __name__ == "__main__":
    main()
