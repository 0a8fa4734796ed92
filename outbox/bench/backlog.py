"""Events that wait to be relayed, made by plain SQL; and a transaction that nobody ends."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK: Final = 50_000
"""Rows of one transaction."""
FILL: Final = sa.text("""
INSERT INTO outbox_event (source, type, partition_key, data, headers)
SELECT '/bench', 'outbox.bench.order.placed', 'k' || i % 1000,
       convert_to(rpad('{"order_id":"' || i || '","pad":"', :size - 2, 'x') || '"}', 'UTF8'),
       '{"correlationid":"c-1","actor":"user:42"}'
  FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS i
""")


def fill(url: sa.URL, first: int, last: int, size: int) -> None:
    """Insert events number `first` to `last`, each with `size` bytes of data."""
    with _autocommit(url).connect() as connection:
        for start in range(first, last + 1, CHUNK):
            end = min(start + CHUNK - 1, last)
            connection.execute(FILL, {"first": start, "last": end, "size": size})
        connection.exec_driver_sql("VACUUM ANALYZE outbox_event")


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


def _autocommit(url: sa.URL) -> sa.Engine:
    return sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
