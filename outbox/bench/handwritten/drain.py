"""A backlog to Kafka by hand: the ceiling of `outbox bench relay`.

A reader thread fetches pages by floor and snapshot, the main thread produces them with five
headers and flushes once a page.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

import psycopg
from confluent_kafka import Producer

if TYPE_CHECKING:
    from collections.abc import Mapping

STATEMENT = """
(SELECT seq, id::text, type, partition_key, time::text, data, false FROM outbox_event
  WHERE seq <= %(floor)s AND transaction_id >= pg_snapshot_xmax(%(snapshot)s::pg_snapshot)
  ORDER BY transaction_id)
UNION ALL
(SELECT seq, id::text, type, partition_key, time::text, data, true FROM outbox_event
  WHERE seq > %(floor)s ORDER BY seq LIMIT %(page)s)
"""


def read(
    database: Mapping[str, Any], page: int, pages: queue.Queue[list[tuple[Any, ...]] | None]
) -> None:
    """Fetch pages until one is empty; None says that there are no more."""
    try:
        with psycopg.connect(**database, autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
            assert row is not None  # noqa: S101  # a SELECT without FROM has one row
            position = {"floor": 0, "snapshot": row[0], "page": page}
            while rows := connection.execute(STATEMENT, position, binary=True).fetchall():
                pages.put(rows)
                position["floor"] = rows[-1][0]
    finally:
        pages.put(None)


def drain(database: Mapping[str, Any], kafka: Mapping[str, str], topic: str, page: int) -> int:
    """Move every row; return how many."""
    pages: queue.Queue[list[tuple[Any, ...]] | None] = queue.Queue(3)
    threading.Thread(target=read, args=(database, page, pages), daemon=True).start()
    failed: list[object] = []
    producer = Producer(
        {
            **kafka,
            "enable.idempotence": True,
            "delivery.report.only.error": True,
            "linger.ms": 5,
            "queue.buffering.max.messages": 200_000,
        },
        on_delivery=lambda error, _message: failed.append(error),
    )
    count = 0
    while (rows := pages.get()) is not None:
        for seq, event_id, event_type, key, moment, data, _fresh in rows:
            headers = [
                ("ce_specversion", b"1.0"),
                ("ce_id", event_id.encode()),
                ("ce_type", event_type.encode()),
                ("ce_time", moment.encode()),
                ("ce_sequence", b"%019d" % seq),
            ]
            producer.produce(topic, data, key, headers=headers)
        if producer.flush(60) or failed:
            msg = f"not everything arrived: {failed[:1]}"
            raise RuntimeError(msg)
        count += len(rows)
    return count
