"""A listener of the tests' own, which hears what a doorbell sends; and deafness."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import sqlalchemy as sa
from psycopg import sql

from outbox.doorbell import CHANNEL

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 20.0
"""How long a ring that has to come is waited for."""


class Ears:
    def __init__(self, connection: psycopg.Connection[tuple[str]]) -> None:
        self.connection = connection
        row = connection.execute(CHANNEL).fetchone()
        assert row is not None
        (self.channel,) = row
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self.channel)))

    def hear(self) -> psycopg.Notify:
        """Wait for one more ring."""
        (ring,) = self.connection.notifies(timeout=SECONDS, stop_after=1)
        return ring

    def so_far(self) -> int:
        """Count the rings that were sent and not heard yet; those under way are not among them."""
        self.connection.execute("SELECT pg_notify(%s, 'end')", [self.channel])
        for count, ring in enumerate(self.connection.notifies(timeout=SECONDS)):
            if ring.payload == "end":
                return count
        raise AssertionError("the server tells nothing")


@contextmanager
def listening_to(url: str | sa.URL) -> Iterator[Ears]:
    """Listen on a database until the block ends."""
    plain = sa.make_url(url).set(drivername="postgresql")
    dsn = plain.render_as_string(hide_password=False)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield Ears(connection)


@contextmanager
def unreachable(engine: sa.Engine, thread: str) -> Iterator[threading.Semaphore]:
    """Let threads of a name find no server; each attempt to connect releases the semaphore."""
    attempts = threading.Semaphore(0)

    def refuse(*_: object) -> None:
        if threading.current_thread().name == thread:
            attempts.release()
            raise ConnectionRefusedError("nobody there")

    sa.event.listen(engine, "do_connect", refuse)
    try:
        yield attempts
    finally:
        sa.event.remove(engine, "do_connect", refuse)
