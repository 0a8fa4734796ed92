"""The ceiling: what one would write by hand to move outbox rows to Kafka, and nothing more.

A reader thread fetches pages by floor and snapshot, the main thread produces them and flushes
once a page. No routes, no lease, no dead letters, no stored position, no settings.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import psycopg
from confluent_kafka import Producer

STATEMENT = """
(SELECT seq, id::text, type, partition_key, time::text, data, false FROM outbox_event
  WHERE seq <= %(floor)s AND transaction_id >= pg_snapshot_xmax(%(snapshot)s::pg_snapshot)
  ORDER BY transaction_id)
UNION ALL
(SELECT seq, id::text, type, partition_key, time::text, data, true FROM outbox_event
  WHERE seq > %(floor)s ORDER BY seq LIMIT %(page)s)
"""


def read(dsn: str, page: int, pages: queue.Queue[list[tuple[Any, ...]] | None]) -> None:
    """Fetch pages until one is empty."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
        assert row is not None  # noqa: S101  # a SELECT without FROM has one row
        position = {"floor": 0, "snapshot": row[0], "page": page}
        while True:
            rows = connection.execute(STATEMENT, position, binary=True).fetchall()
            pages.put(rows or None)
            if not rows:
                return
            position["floor"] = rows[-1][0]


def drain(dsn: str, bootstrap_servers: str, topic: str, page: int) -> tuple[int, float]:
    """Move every row; return how many, and in how many seconds."""
    started = time.perf_counter()
    pages: queue.Queue[list[tuple[Any, ...]] | None] = queue.Queue(3)
    threading.Thread(target=read, args=(dsn, page, pages), daemon=True).start()
    failed: list[object] = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
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
                ("ce_sequence", b"%d" % seq),
            ]
            producer.produce(topic, data, key, headers=headers)
        if producer.flush(60) or failed:
            msg = f"not everything arrived: {failed[:1]}"
            raise RuntimeError(msg)
        count += len(rows)
    return count, time.perf_counter() - started
