"""A record straight to Kafka, with no database: the floor under `outbox bench latency`."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from confluent_kafka import Producer

if TYPE_CHECKING:
    from collections.abc import Mapping


class Direct:
    """A plain idempotent producer that does not linger."""

    def __init__(self, kafka: Mapping[str, str], topic: str) -> None:
        """Make the producer; it connects by itself."""
        self._topic = topic
        self._producer = Producer({**kafka, "enable.idempotence": True, "linger.ms": 0})

    def produce(self, key: str, data: bytes) -> tuple[str, int]:
        """Produce one record; return its id, and when by the monotonic clock, in nanoseconds."""
        event_id = str(uuid.uuid4())
        headers: list[tuple[str, str | bytes | None]] = [
            ("ce_specversion", b"1.0"),
            ("ce_id", event_id.encode()),
            ("ce_type", b"outbox.bench.order.placed"),
            ("ce_time", b"2026-05-01T12:00:00.000000Z"),
            ("ce_sequence", b"1"),
        ]
        started = time.monotonic_ns()
        self._producer.produce(self._topic, data, key, headers=headers)
        self._producer.poll(0)
        return event_id, started

    def close(self) -> None:
        """Wait for what is under way."""
        self._producer.flush(10)
