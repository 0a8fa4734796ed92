"""A relay beside an application that writes to the same SQLite file."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import outbox
from outbox import engine as engines
from outbox.settings import Settings
from outbox.table import outbox_event
from relay import selfcheck
from relay.retention import sweep
from relay.retention_state import State
from relay.status import route_status
from tests.emitting import Happened
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WRITERS = 6
SECONDS = 6.0


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
    routes = json.dumps({"file": {"transport": "append", "path": str(path)}})
    with subprocess.Popen(
        [sys.executable, "-m", "tests.relay_process", url, routes],
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.terminate()


def delivered(path: Path) -> dict[str, list[str]]:
    """Return the ids of what the file transport has, by key."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else ():
        _, key, event_id = line.split()
        found[key].append(event_id)
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
    with relaying(sqlite_url, path):
        with application.writing():
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                (status,) = route_status(looker, settings)
                assert status.error is None
                assert isinstance(sweep(looker, settings, "test", threading.Event()), State)
        emitted = sum(map(len, application.emitted.values()))
        eventually(lambda: sum(map(len, delivered(path).values())) >= emitted)
    assert not application.errors
    assert emitted > 100
    assert delivered(path) == application.emitted
    with looker.connect() as connection:
        left = connection.scalar(sa.select(sa.func.count()).select_from(outbox_event))
    assert left is not None
    assert left < emitted, "nothing was deleted meanwhile"
    looker.dispose()


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
