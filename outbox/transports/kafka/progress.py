"""Where a route's progress is recorded: the last record of a compacted topic of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from outbox.errors import ConfigurationError, DestinationRefusedError
from outbox.transports.kafka.client import make
from outbox.transports.kafka.errors import DENIED, UNKNOWN, transient

if TYPE_CHECKING:
    from confluent_kafka import Message

    from outbox.transports.kafka.errors import Reports
    from outbox.transports.kafka.options import Options

KEY: Final = b"progress"
"""The key of every record: compaction keeps the last one."""
_FIRST_LOOK: Final = 64
"""Offsets before the end that are read first; aborted records and markers stand among them."""
_WIDER: Final = 8
_POLL_SECONDS: Final = 0.1
_NO_LEADER: Final = frozenset(
    {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}
)


class ProgressTopic:
    """The topic of one route's progress, with one partition."""

    def __init__(self, name: str, options: Options, reports: Reports) -> None:
        self.name = name
        self._options = options
        self._reports = reports

    def create(self, deadline: float) -> None:
        """Create the topic where there is none.

        Raises `DestinationRefusedError` where this client may not, and `ConfigurationError`
        where a topic of this name cannot hold it.
        """
        admin = make(AdminClient, self._options.admin_config(), self._reports)
        topic = NewTopic(
            self.name,
            num_partitions=1,
            replication_factor=-1,  # as the brokers are set
            config={"cleanup.policy": "compact"},
        )
        seconds = _left(deadline)
        future = admin.create_topics([topic], operation_timeout=seconds, request_timeout=seconds)[
            self.name
        ]
        try:
            future.result()
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            is_there = error.code() == KafkaError.TOPIC_ALREADY_EXISTS or (
                error.code() in DENIED and self._is_there(admin, deadline)
            )
            if not is_there:
                raise self._not_created(error) from exc
            self._check(admin, deadline)

    def last(self, deadline: float) -> bytes | None:
        """Return the progress that was committed last; None where there was never one.

        Call it when no transaction of this route is open any more. Raises `TransientError`.
        """
        consumer = make(
            Consumer,
            {
                **self._options.admin_config(),
                "group.id": self.name,  # the client wants one; it is never joined
                "enable.auto.commit": "false",
                "enable.partition.eof": "true",
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": "10",  # how long the end of the partition is waited for
            },
            self._reports,
        )
        try:
            return self._last(consumer, deadline)
        except KafkaException as exc:
            raise transient(exc.args[0], self.name) from exc
        finally:
            consumer.close()

    def _last(self, consumer: Consumer, deadline: float) -> bytes | None:
        partition = TopicPartition(self.name, 0)
        low, high = _ends(consumer, partition, deadline)
        width = _FIRST_LOOK
        while True:
            start = max(low, high - width)
            consumer.assign([TopicPartition(self.name, 0, start)])
            found = self._read(consumer, high, deadline)
            if found is not None or start == low:
                return found
            width *= _WIDER

    def _read(self, consumer: Consumer, high: int, deadline: float) -> bytes | None:
        """Return the last record up to the end of the partition."""
        last: bytes | None = None
        while True:
            if time.monotonic() > deadline:
                raise transient(KafkaError(KafkaError._TIMED_OUT), self.name)  # noqa: SLF001  # librdkafka's own codes have such names
            message: Message | None = consumer.poll(_POLL_SECONDS)
            if message is None:
                continue
            error = message.error()
            if error is None:
                last = message.value()
            elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001  # the same
                raise KafkaException(error)
            elif (message.offset() or 0) >= high:
                return last

    def _is_there(self, admin: AdminClient, deadline: float) -> bool:
        found = admin.list_topics(self.name, timeout=_left(deadline)).topics.get(self.name)
        return found is not None and found.error is None

    def _check(self, admin: AdminClient, deadline: float) -> None:
        try:
            found = admin.list_topics(self.name, timeout=_left(deadline)).topics[self.name]
        except KafkaException as exc:
            raise transient(exc.args[0], self.name) from exc
        if found.error is None and len(found.partitions) != 1:
            raise ConfigurationError(
                f"the topic {self.name!r} has {len(found.partitions)} partitions, and the route's"
                " progress needs exactly one: delete the topic, and the relay"
                " makes it anew"
            )

    def _not_created(self, error: KafkaError) -> Exception:
        if error.code() in DENIED | UNKNOWN:
            return DestinationRefusedError(
                f"the relay may not create the topic {self.name!r}, which holds the route's"
                " progress: grant it Create, or create the topic with one partition and"
                f" cleanup.policy=compact ({error.str()})"
            )
        return transient(error, self.name)


def _ends(consumer: Consumer, partition: TopicPartition, deadline: float) -> tuple[int, int]:
    """Ask for the first and the next offset; a topic made a moment ago is waited for."""
    while True:
        try:
            found: tuple[int, int] = consumer.get_watermark_offsets(
                partition, timeout=_left(deadline)
            )
        except KafkaException as exc:
            if exc.args[0].code() not in _NO_LEADER or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
        else:
            return found


def _left(deadline: float) -> float:
    return max(0.05, deadline - time.monotonic())
