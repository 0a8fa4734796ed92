"""What the demo does to a Kafka by itself: topics of its own, repeated messages, who is behind."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from typing import Final

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

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
    def topics(self, prefix: str, names: Collection[str]) -> Iterator[None]:
        """Create topics; when the block ends delete all with the prefix, and groups of the names.

        The relay makes one with its prefix as well, for the progress of its route.
        """
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
            there = self._admin.list_topics(timeout=SECONDS).topics
            ours = [name for name in there if name.startswith(prefix)]
            self._admin.delete_topics(ours, request_timeout=SECONDS)
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

    def is_behind(self, topic: str) -> bool:
        """Tell whether the group of a topic's name has not acknowledged all of its messages."""
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        with self._errors(), closing(self._reader()) as reader:
            wanted = ConsumerGroupTopicPartitions(topic, partitions)
            answer = self._admin.list_consumer_group_offsets([wanted])[topic].result()
            # Not by the difference of two offsets: the marks of transactions have some as well.
            return any(
                next(_messages(reader, topic, each.partition, max(each.offset, 0)), None)
                for each in answer.topic_partitions
            )

    def _last(self, topic: str, count: int) -> list[tuple[int, Message]]:
        with closing(self._reader()) as reader:
            return [
                (number, message)
                for number in range(PARTITIONS)
                for message in deque(_messages(reader, topic, number, 0), count)
            ]

    def _reader(self) -> Consumer:
        return Consumer(
            {**self._config, "group.id": uuid.uuid4().hex, "enable.partition.eof": "true"}
        )

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


def _messages(reader: Consumer, topic: str, number: int, start: int) -> Iterator[Message]:
    """Read one partition from an offset to its end."""
    reader.assign([TopicPartition(topic, number, start)])
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        message = reader.poll(1.0)
        if message is None:
            continue
        error = message.error()
        if error is None:
            yield message
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # its own name
            return
        else:
            raise KafkaException(error)
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001  # the same
