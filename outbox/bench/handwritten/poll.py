"""Events to Kafka as they commit, by hand: the ceiling of `outbox bench latency`.

One loop asks every two milliseconds for what became visible since its last look, produces it
without lingering, and flushes. What it knows it keeps in memory; or, exactly once, in a record of
the same transaction, which nobody reads here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import psycopg
from confluent_kafka import Producer

if TYPE_CHECKING:
    from collections.abc import Mapping

POLL_SECONDS: Final = 0.002

BEGINNING: Final = """
SELECT coalesce(max(seq), 0), pg_current_snapshot()::text FROM outbox_event
"""

STATEMENT: Final = """
SELECT seq, id::text, type, partition_key, time::text, data, pg_current_snapshot()::text
  FROM outbox_event
 WHERE seq > %(floor)s
UNION ALL
SELECT seq, id::text, type, partition_key, time::text, data, pg_current_snapshot()::text
  FROM outbox_event
 WHERE seq <= %(floor)s
   AND transaction_id >= pg_snapshot_xmin(%(snapshot)s::pg_snapshot)
   AND NOT pg_visible_in_snapshot(transaction_id, %(snapshot)s::pg_snapshot)
 ORDER BY 1
"""


def relay(
    database: Mapping[str, Any],
    kafka: Mapping[str, str],
    topic: str,
    transactional_id: str | None = None,
    progress_topic: str | None = None,
) -> NoReturn:
    """Move rows for ever: at least once, or with both of the last, each look in a transaction."""
    failed: list[object] = []
    guarantee = (
        {"transactional.id": transactional_id} if transactional_id else {"enable.idempotence": True}
    )
    producer = Producer(
        {**kafka, **guarantee, "delivery.report.only.error": True, "linger.ms": 0},
        on_delivery=lambda error, _message: failed.append(error),
    )
    if transactional_id:
        producer.init_transactions(60)
    with psycopg.connect(**database, autocommit=True) as connection:
        row = connection.execute(BEGINNING).fetchone()
        assert row is not None  # noqa: S101  # an aggregate has one row
        floor, snapshot = row
        while True:
            position = {"floor": floor, "snapshot": snapshot}
            rows = connection.execute(STATEMENT, position, binary=True).fetchall()
            if not rows:
                time.sleep(POLL_SECONDS)
                continue
            floor, snapshot = max(floor, rows[-1][0]), rows[0][6]
            if transactional_id:
                producer.begin_transaction()
            for seq, event_id, event_type, key, moment, data, _snapshot in rows:
                headers = [
                    ("ce_specversion", b"1.0"),
                    ("ce_id", event_id.encode()),
                    ("ce_type", event_type.encode()),
                    ("ce_time", moment.encode()),
                    ("ce_sequence", b"%019d" % seq),
                ]
                producer.produce(topic, data, key, headers=headers)
            if progress_topic:
                producer.produce(progress_topic, f"{floor} {snapshot}", b"position", 0)
            if producer.flush(60) or failed:
                msg = f"not everything arrived: {failed[:1]}"
                raise RuntimeError(msg)
            if transactional_id:
                producer.commit_transaction(60)
