"""Events that wait to be relayed, made by plain SQL; and transactions that do not end in time."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK: Final = 50_000
"""Rows of one statement."""
WRITERS: Final = 2
"""At a time, because one cannot keep a server busy, and millions of rows take long."""
FILL: Final = sa.text("""
INSERT INTO outbox_event (source, type, partition_key, data)
SELECT '/bench', 'outbox.bench.order.placed', CAST(:key AS text) || i % 1000,
       convert_to(rpad('{"order_id":"' || i || '","pad":"', :size - 2, 'x') || '"}', 'UTF8')
  FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS i
""")


def fill(url: sa.URL, count: int, size: int, key: str = "k") -> None:
    """Insert so many events, each with `size` bytes of data and one of a thousand keys."""
    engine = _autocommit(url)

    def insert(first: int) -> None:
        with engine.connect() as connection:
            _insert(connection, first, count, size, key)

    with ThreadPoolExecutor(WRITERS) as writers:
        deque(writers.map(insert, range(1, count + 1, CHUNK)), maxlen=0)
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE outbox_event")


@contextmanager
def filled_late(url: sa.URL, count: int, size: int) -> Iterator[None]:
    """Insert as many within one transaction, which commits when the block ends."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for first in range(1, count + 1, CHUNK):
            _insert(connection, first, count, size, "late")
        yield


def empty(url: sa.URL) -> None:
    """Remove all events."""
    with _autocommit(url).connect() as connection:
        connection.exec_driver_sql("TRUNCATE outbox_event")


@contextmanager
def held_open(url: sa.URL) -> Iterator[None]:
    """Keep a transaction open that has emitted, so that no row after it is the oldest."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO outbox_event (type, data) VALUES ('held', '')")
        yield
        connection.rollback()


def _insert(connection: sa.Connection, first: int, count: int, size: int, key: str) -> None:
    """Insert the chunk of `count` events that begins with the `first` one."""
    last = min(first + CHUNK - 1, count)
    connection.execute(FILL, {"first": first, "last": last, "size": size, "key": key})


def _autocommit(url: sa.URL) -> sa.Engine:
    return sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
