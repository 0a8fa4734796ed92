"""A relay beside an application that writes to the same SQLite file."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import outbox
from outbox import engine as engines
from outbox.settings import Settings
from outbox.table import outbox_event
from relay import lease, selfcheck
from relay.retention import sweep
from relay.retention_state import State
from relay.status import route_status
from tests import append_transport
from tests.emitting import Happened
from tests.pages import block, page
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WRITERS = 6
BUSY_SECONDS = 5.0
"""How long the driver of an application waits for others, as it comes."""
PAGE = "guide/databases.md"


class Base(DeclarativeBase):
    pass


class Counter(Base):
    __tablename__ = "counter"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]


class Application:
    """Threads that count their own row up and emit the count, on an engine as anyone makes it."""

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url)
        self.emitted: dict[str, list[str]] = defaultdict(list)
        self.slowest = 0.0
        self.errors: list[BaseException] = []
        self._stopping = threading.Event()
        Base.metadata.create_all(self.engine)
        with Session(self.engine) as session, session.begin():
            session.add_all(Counter(id=number, version=0) for number in range(WRITERS))

    @contextmanager
    def writing(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._write, args=(n,)) for n in range(WRITERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
            self.engine.dispose()

    def _write(self, number: int) -> None:
        try:
            while not self._stopping.is_set():
                started = time.monotonic()
                with Session(self.engine) as session, session.begin():
                    counter = session.get_one(Counter, number)
                    counter.version += 1
                    event = outbox.emit(session, Happened(name="counted", key=str(number)))
                self.emitted[str(number)].append(event.id)
                self.slowest = max(self.slowest, time.monotonic() - started)
        except BaseException as exc:  # noqa: BLE001  # handed to the test
            self.errors.append(exc)


@contextmanager
def relaying(url: str, path: Path) -> Iterator[None]:
    """Run a relay in a process of its own; it has to end well."""
    routes = json.dumps({"file": {"transport": "append", "path": str(path)}})
    with subprocess.Popen(
        [sys.executable, "-m", "tests.relay_process", url, routes],
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.terminate()
        assert process.wait(30) == 0


def delivered(path: Path) -> dict[str, list[str]]:
    """Return the ids of what the file transport has, by key."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in append_transport.published(path):
        found[line.key].append(line.id)
    return found


def test_an_application_never_finds_the_database_locked_beside_a_relay(
    sqlite_url: str, tmp_path: Path
) -> None:
    """Six writers, a relay that reads and stores, retention, and somebody who looks."""
    path = tmp_path / "delivered"
    application = Application(sqlite_url)
    settings = Settings.model_validate(
        {
            "database_url": sqlite_url,
            "routes": {"file": {"transport": "memory"}},
            "retention": {"events": "1s"},
        }
    )
    looker = engines.make_engine(settings.url, "look")

    def deleted() -> int:
        """Look and delete, as an operator and a relay do; return how many rows went."""
        (status,) = route_status(looker, settings)
        assert status.error is None
        state = sweep(looker, settings, "test", threading.Event())
        assert isinstance(state, State)
        return state.deleted["events"]

    def emitted() -> int:
        return sum(map(len, application.emitted.values()))

    with relaying(sqlite_url, path):
        with application.writing():
            eventually(lambda: (deleted() > 0 and emitted() > 100) or application.errors)
        eventually(lambda: sum(map(len, delivered(path).values())) >= emitted())
    assert not application.errors
    assert application.slowest < BUSY_SECONDS
    assert delivered(path) == application.emitted
    looker.dispose()


class Begins:
    """Ways of an application to come to a write after it has read, in one transaction."""

    @staticmethod
    def by_itself(engine: sa.Engine, between: Callable[[], object]) -> None:
        """As anyone does: the driver begins before the first write."""
        with Session(engine) as session, session.begin():
            counter = session.get_one(Counter, 0)
            between()
            counter.version += 1
            outbox.emit(session, Happened(name="counted"))

    @staticmethod
    def by_hand(engine: sa.Engine, between: Callable[[], object]) -> None:
        with Session(engine) as session, session.begin():
            if not in_transaction(session):
                session.execute(sa.text("BEGIN"))
            counter = session.get_one(Counter, 0)
            between()
            counter.version += 1
            outbox.emit(session, Happened(name="counted"))

    @staticmethod
    def by_a_savepoint(engine: sa.Engine, between: Callable[[], object]) -> None:
        with Session(engine) as session, session.begin(), session.begin_nested():
            counter = session.get_one(Counter, 0)
            between()
            counter.version += 1
            outbox.emit(session, Happened(name="counted"))

    @staticmethod
    def by_half_a_result(engine: sa.Engine, between: Callable[[], object]) -> None:
        with Session(engine) as session, session.begin():
            counter = session.get_one(Counter, 0)
            with half_read(session):
                between()
                counter.version += 1
                outbox.emit(session, Happened(name="counted"))
                session.flush()


SNAPSHOTS = [Begins.by_hand, Begins.by_a_savepoint, Begins.by_half_a_result]


def half_read(session: Session) -> sa.Result[Any]:
    """Return a result of which one row has been fetched, and others are left."""
    result = session.execute(sa.select(Counter), execution_options={"yield_per": 1})
    assert result.fetchone()
    return result


def in_transaction(session: Session) -> bool:
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver.in_transaction


def relay_writes(url: str, timeout: float = BUSY_SECONDS) -> None:
    """Take a lease, which is what a relay does all the time."""
    engine = engines.make_engine(sa.make_url(url).update_query_dict({"timeout": str(timeout)}), "r")
    try:
        with engine.begin() as connection:
            lease.acquire(connection, "a", "me", 0.001)
    finally:
        engine.dispose()


def counts(engine: sa.Engine) -> tuple[int, int]:
    """Return what is counted, and the events that tell of it."""
    with engine.connect() as connection:
        versions = connection.scalar(sa.select(sa.func.sum(Counter.version))) or 0
        events = connection.scalar(sa.select(sa.func.count()).select_from(outbox_event)) or 0
    return versions, events


def test_a_relay_may_write_between_what_an_application_reads_and_writes(sqlite_url: str) -> None:
    engine = Application(sqlite_url).engine
    Begins.by_itself(engine, lambda: relay_writes(sqlite_url))
    assert counts(engine) == (1, 1)
    engine.dispose()


@pytest.mark.parametrize("way", SNAPSHOTS)
def test_a_transaction_that_read_first_cannot_write_once_somebody_has_written(
    sqlite_url: str, way: Callable[[sa.Engine, Callable[[], object]], None]
) -> None:
    """It is told so at once, however long it would wait: its view of the file is an old one."""
    Application(sqlite_url).engine.dispose()
    engine = sa.create_engine(sqlite_url, connect_args={"timeout": 60})
    started = time.monotonic()
    with pytest.raises(sa.exc.OperationalError, match="database is locked") as caught:
        way(engine, lambda: relay_writes(sqlite_url))
    assert time.monotonic() - started < 30
    assert isinstance(caught.value.orig, sqlite3.OperationalError)
    assert caught.value.orig.sqlite_errorcode == sqlite3.SQLITE_BUSY_SNAPSHOT
    assert counts(engine) == (0, 0)
    engine.dispose()


@pytest.mark.parametrize("way", [Begins.by_itself, *SNAPSHOTS])
def test_what_the_page_says_lets_any_transaction_read_first(
    sqlite_url: str, way: Callable[[sa.Engine, Callable[[], object]], None]
) -> None:
    """Who holds the write lock from the start on is waited for."""
    Application(sqlite_url).engine.dispose()
    engine: sa.Engine = as_the_page_says(sqlite_url)["engine"]

    def between() -> None:
        with pytest.raises(sa.exc.OperationalError, match="database is locked"):
            relay_writes(sqlite_url, timeout=0.01)

    way(engine, between)
    relay_writes(sqlite_url)
    assert counts(engine) == (1, 1)
    engine.dispose()


def test_half_a_result_that_is_not_closed_keeps_its_connection_in_the_past(
    sqlite_url: str,
) -> None:
    """The page asks to close it: a commit does not end it, and neither does the pool."""
    Application(sqlite_url).engine.dispose()
    engine: sa.Engine = as_the_page_says(sqlite_url)["engine"]
    with Session(engine) as session, session.begin():
        result = half_read(session)
    relay_writes(sqlite_url)
    with pytest.raises(sa.exc.OperationalError, match="database is locked") as caught:
        counts(engine)
    assert isinstance(caught.value.orig, sqlite3.OperationalError)
    assert caught.value.orig.sqlite_errorcode == sqlite3.SQLITE_BUSY_SNAPSHOT
    result.close()
    assert counts(engine) == (0, 0)
    engine.dispose()


def test_the_same_holds_for_asyncio(sqlite_url: str) -> None:
    Application(sqlite_url).engine.dispose()
    engine = create_async_engine(sqlite_url.replace("sqlite:", "sqlite+aiosqlite:"))
    as_the_page_says(sqlite_url, engine=engine.sync_engine)

    def count(session: Session) -> None:
        counter = session.get_one(Counter, 0)
        with pytest.raises(sa.exc.OperationalError, match="database is locked"):
            relay_writes(sqlite_url, timeout=0.01)
        counter.version += 1
        outbox.emit(session, Happened(name="counted"))

    async def run() -> None:
        async with AsyncSession(engine) as session, session.begin():
            await session.run_sync(count)
        await engine.dispose()

    asyncio.run(run())
    assert counts(sa.create_engine(sqlite_url, poolclass=sa.NullPool)) == (1, 1)


def as_the_page_says(url: str, engine: sa.Engine | None = None) -> dict[str, Any]:
    """Run the page's own lines, on another file or for an engine that is there."""
    code = block(page(PAGE, "SQLite"), "python", "BEGIN IMMEDIATE")
    assert 'sa.create_engine("sqlite:///shop.db")' in code
    if engine is not None:
        code = code.replace('sa.create_engine("sqlite:///shop.db")', "given")
    names: dict[str, Any] = {"given": engine}
    exec(code.replace("sqlite:///shop.db", url), names)  # noqa: S102  # a page of ours
    return names


def test_the_page_tells_the_time_outs(sqlite_url: str) -> None:
    with closing(sqlite3.connect(sa.make_url(sqlite_url).database or "")) as plain:
        (driver,) = plain.execute("PRAGMA busy_timeout").fetchone()
        (synchronous,) = plain.execute("PRAGMA synchronous").fetchone()
    own = engines.make_engine(sa.make_url(sqlite_url), "relay", poolclass=sa.NullPool)
    with own.connect() as connection:
        ours = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
    assert (driver, ours, synchronous) == (BUSY_SECONDS * 1000, 30_000, 2)
    told = page(PAGE)
    assert f"{ours // 1000} s" in told
    assert f"{driver // 1000} s" in told


def test_migrating_gives_the_file_a_write_ahead_log(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"


def test_a_file_without_one_gets_it_from_the_relay(sqlite_url: str) -> None:
    plain = sa.create_engine(sqlite_url, poolclass=sa.NullPool)
    with plain.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = DELETE")
    (finding,) = selfcheck.look(plain)
    assert (finding.state, finding.found[:22]) == ("degraded", "journal_mode is delete")
    own = engines.make_engine(sa.make_url(sqlite_url), "relay", poolclass=sa.NullPool)
    (finding,) = selfcheck.look(own)
    assert finding.state == "ok"


def test_a_file_gets_its_log_after_whoever_writes_to_it_at_the_moment(sqlite_url: str) -> None:
    """SQLite refuses that at once, whatever the time-out; so it is asked for again."""
    plain = sa.create_engine(sqlite_url, poolclass=sa.NullPool)
    own = engines.make_engine(sa.make_url(sqlite_url), "relay", poolclass=sa.NullPool)
    with plain.connect() as application, ThreadPoolExecutor(1) as pool:
        application.exec_driver_sql("PRAGMA journal_mode = DELETE")
        application.exec_driver_sql("BEGIN IMMEDIATE")
        waiting = pool.submit(selfcheck.look, own)
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        application.rollback()
        (finding,) = waiting.result(30)
    assert finding.state == "ok"


def test_a_file_that_others_write_to_for_long_is_used_as_it_is(sqlite_url: str) -> None:
    plain = sa.create_engine(sqlite_url, poolclass=sa.NullPool)
    own = engines.make_engine(sa.make_url(f"{sqlite_url}?timeout=0.1"), "relay")
    with plain.connect() as application:
        application.exec_driver_sql("PRAGMA journal_mode = DELETE")
        application.exec_driver_sql("BEGIN IMMEDIATE")
        (finding,) = selfcheck.look(own)
        assert finding.state == "degraded"
    own.dispose()
    (finding,) = selfcheck.look(own)
    assert finding.state == "ok"
    own.dispose()


def test_our_connections_wait_for_others_longer_than_the_driver_does(sqlite_url: str) -> None:
    for url, expected in ((sqlite_url, 30_000), (f"{sqlite_url}?timeout=7", 7_000)):
        engine = engines.make_engine(sa.make_url(url), "relay", poolclass=sa.NullPool)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == expected
