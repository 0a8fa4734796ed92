"""An application that commits events all the time, for what must not get into its way."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
import sqlalchemy as sa

from tests.capturing import INSERT
from tests.sessions import dsn
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

PAUSE_SECONDS: Final = 0.002
"""Between two commits, so that numbers do not run away from a slow test."""
SLOWEST_SECONDS: Final = 2.0
"""On however busy a machine, a commit that takes so long has waited for somebody."""


class Committer:
    """A thread that commits one event after the other; nothing but an error ends its waiting."""

    def __init__(self, url: str) -> None:
        self.connection: psycopg.Connection[Any] = psycopg.connect(dsn(url), prepare_threshold=None)
        self.committed: list[int] = []
        self.errors: list[psycopg.Error] = []
        self.slowest = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._stopping.set()
        self._thread.join()
        self.connection.close()

    def goes_on(self, count: int = 20) -> None:
        """Wait until it has committed some more: at this moment nobody holds it up."""
        wanted = len(self.committed) + count
        eventually(lambda: len(self.committed) >= wanted, why=lambda: self.errors)

    def waits(self, engine: sa.Engine) -> bool:
        """Tell whether it waits for a lock just now."""
        query = sa.text("SELECT wait_event_type FROM pg_stat_activity WHERE pid = :pid")
        with engine.connect() as connection:
            found = connection.scalar(query, {"pid": self.connection.info.backend_pid})
        return bool(found == "Lock")

    def assert_undisturbed(self) -> None:
        assert self.errors == []
        assert self.slowest < SLOWEST_SECONDS

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE_SECONDS):
            started = time.monotonic()
            try:
                row = self.connection.execute(f"{INSERT} RETURNING seq".encode(), ("k",)).fetchone()
                self.connection.commit()
            except psycopg.Error as exc:
                self.errors.append(exc)
                self.connection.rollback()
                continue
            assert row is not None
            self.committed.append(int(row[0]))
            self.slowest = max(self.slowest, time.monotonic() - started)


@contextmanager
def committing(url: str) -> Iterator[Committer]:
    """Commit events until the block ends."""
    made = Committer(url)
    made.start()
    try:
        made.goes_on()
        yield made
    finally:
        made.end()
