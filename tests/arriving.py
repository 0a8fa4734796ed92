"""What a consumer of Kafka reads that begins at the beginning, and ends at the end."""

from __future__ import annotations

import uuid
from collections import defaultdict
from typing import Any

from confluent_kafka import Consumer, TopicPartition

NO_RECORD_SECONDS = 30.0
"""So long no record comes where a transaction was left open, or the broker does not answer."""


def read_all(
    bootstrap_servers: str, topic: str, isolation: str = "read_committed"
) -> dict[str, list[str]]:
    """Return the ids of all events of a topic, by key, in order, each as often as it is there."""
    found: dict[str, list[str]] = defaultdict(list)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "enable.partition.eof": True,
        }
    )
    numbers = consumer.list_topics(topic, timeout=NO_RECORD_SECONDS).topics[topic].partitions
    partitions = [TopicPartition(topic, number, 0) for number in numbers]
    ends = {
        partition.partition: consumer.get_watermark_offsets(partition, timeout=NO_RECORD_SECONDS)[1]
        for partition in partitions
    }
    consumer.assign(partitions)
    while ends:
        message = consumer.poll(NO_RECORD_SECONDS)
        assert message is not None, "a transaction was left open"
        if message.error() is None:
            headers: Any = dict(message.headers() or [])
            found[(message.key() or b"").decode()].append(headers["ce_id"].decode())
        elif (message.offset() or 0) >= ends.get(message.partition() or 0, 0):
            ends.pop(message.partition() or 0, None)
    consumer.close()
    return dict(found)
