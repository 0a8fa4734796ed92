"""What the demo does to a Kafka by itself: topics of its own, repeated messages, the lag."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from outbox.errors import BrokerUnavailableError

_log = logging.getLogger(__name__)

PARTITIONS: Final = 4
SECONDS: Final = 10.0


class Cluster:
    """An administrator of the cluster; its errors are `BrokerUnavailableError`."""

    def __init__(self, bootstrap_servers: str) -> None:
        """Connect at the first call."""
        self._config: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap_servers}
        self._admin = AdminClient(self._config, logger=_log)
        self._bootstrap_servers = bootstrap_servers

    @contextmanager
    def topics(self, names: Collection[str]) -> Iterator[None]:
        """Create topics; when the block ends delete them, and the groups of the same names."""
        with self._errors():
            made = self._admin.create_topics(
                [NewTopic(name, num_partitions=PARTITIONS, replication_factor=1) for name in names],
                request_timeout=SECONDS,
            )
            for created in made.values():
                created.result()
        try:
            yield
        finally:
            self._admin.delete_topics(list(names), request_timeout=SECONDS)
            self._forget(names)

    def repeat(self, topic: str, count: int) -> int:
        """Append the last messages of each partition again, `count` in all; return how many."""
        with self._errors():
            last = self._last(topic, count // PARTITIONS)
            producer = Producer(self._config)
            for number, message in last:
                producer.produce(
                    topic, message.value(), message.key(), number, headers=message.headers()
                )
            producer.flush(SECONDS)
        return len(last)

    def lag(self, topic: str) -> int:
        """Return how many messages of a topic the group of its name has not acknowledged."""
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        with self._errors():
            latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # so it is
            asked = self._admin.list_offsets(dict.fromkeys(partitions, latest))
            ends = {
                partition.partition: found.result().offset for partition, found in asked.items()
            }
            wanted = ConsumerGroupTopicPartitions(topic, partitions)
            answer = self._admin.list_consumer_group_offsets([wanted])[topic].result()
        committed = {each.partition: max(each.offset, 0) for each in answer.topic_partitions}
        return sum(end - committed.get(number, 0) for number, end in ends.items())

    def _last(self, topic: str, count: int) -> list[tuple[int, Message]]:
        reader = Consumer({**self._config, "group.id": uuid.uuid4().hex})
        try:
            return [
                (number, message)
                for number in range(PARTITIONS)
                for message in _tail(reader, topic, number, count)
            ]
        finally:
            reader.close()

    def _forget(self, groups: Collection[str]) -> None:
        # One that never had a member, or whose members were killed just now, stays.
        for deleted in self._admin.delete_consumer_groups(list(groups)).values():
            deleted.exception(SECONDS)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as exc:
            msg = f"Kafka at {self._bootstrap_servers} does not do what the demo needs: {exc}"
            raise BrokerUnavailableError(msg) from exc


def _tail(reader: Consumer, topic: str, number: int, count: int) -> list[Message]:
    low, high = reader.get_watermark_offsets(TopicPartition(topic, number), timeout=SECONDS)
    start = max(low, high - count)
    reader.assign([TopicPartition(topic, number, start)])
    found: list[Message] = []
    deadline = time.monotonic() + SECONDS
    while len(found) < high - start and time.monotonic() < deadline:
        found += reader.consume(high - start - len(found), 1.0)
    return [message for message in found if message.error() is None]
