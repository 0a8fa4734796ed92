"""The receiving side of Kafka: a member of a consumer group with commits of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from outbox.errors import BrokerUnavailableError, UsageError
from outbox.transport import Delivery, Message
from outbox.transports.kafka.client import DIAGNOSIS_SECONDS, LOOK_SECONDS, explained, make
from outbox.transports.kafka.errors import REFUSED, UNKNOWN, Reports, transient
from outbox.transports.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.errors import TransientError
    from outbox.transports.kafka.options import Options

log = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 10.0
"""How long leaving the group may take; librdkafka would wait for an absent broker for ever."""

_OUSTED: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError._FENCED,  # noqa: SLF001  # librdkafka's own codes have such names
        KafkaError._ASSIGNMENT_LOST,  # noqa: SLF001  # the same
    }
)
"""The group gave the partition to somebody else."""


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    number: int


class KafkaSubscriber:
    """Receives as one member of a group; joins at the first `receive`.

    Commits are sent at once and confirmed while receiving: one that the broker did not take is
    sent again. Partitions are given up and taken only inside `receive`.
    """

    def __init__(self, route: str, options: Options, group: str, topics: Sequence[str]) -> None:
        self._reports = Reports(route)
        self._config = options.consumer_config(group)
        self._topics = list(topics)
        self._ledger: Ledger[Partition] = Ledger()
        self._uncommitted: dict[Partition, int] = {}
        self._sent: dict[Partition, int] = {}
        self._owned: set[Partition] = set()
        self._absent: set[str] = set()
        self._error: TransientError | None = None
        self._failure: TransientError | None = None
        """Why no broker answered when one was last heard of."""
        self._consumer: Consumer | None = None
        self._is_closed = False

    def receive(self, limit: int, timeout: float, /) -> list[Delivery]:
        """See `Subscriber.receive`.

        A topic that does not exist yet is waited for.
        """
        consumer = self._joined()
        self._commit()
        messages = self._poll(consumer, limit, timeout)
        deliveries = [self._delivery(message) for message in messages]
        if deliveries:
            self._failure = None
        else:
            self._raise_if_down(consumer)
        return deliveries

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        """See `Subscriber.ack`."""
        by_partition: dict[Partition, list[int]] = defaultdict(list)
        for delivery in deliveries:
            partition, offset = cast("tuple[Partition, int]", delivery.handle)
            by_partition[partition].append(offset)
        for partition, offsets in by_partition.items():
            following = self._ledger.ack(partition, offsets)
            if following is not None:
                self._uncommitted[partition] = following
        self._commit()

    def nack(self, deliveries: Sequence[Delivery], /) -> None:
        """See `Subscriber.nack`."""
        for delivery in deliveries:
            partition, offset = cast("tuple[Partition, int]", delivery.handle)
            if self._consumer is None or not self._ledger.nack(partition, offset):
                continue
            try:
                self._consumer.seek(TopicPartition(*partition, offset))
            except KafkaException as exc:
                log.warning("rejoining the group to give events back: %s", exc.args[0].str())
                self._abandon()

    def close(self) -> None:
        """See `Subscriber.close`.

        In an outage it gives up after some seconds; the broker then ends the membership itself.
        """
        self._is_closed = True
        self._commit()
        self._abandon()

    def _joined(self) -> Consumer:
        if self._is_closed:
            raise UsageError("the subscriber is closed; make another one")
        if self._consumer is None:
            callbacks = {"on_commit": self._on_commit}
            self._consumer = make(Consumer, self._config, self._reports, **callbacks)
            self._consumer.subscribe(
                self._topics,
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
        return self._consumer

    def _poll(self, consumer: Consumer, limit: int, timeout: float) -> list[KafkaMessage]:
        """Wait for a first message, then take along what has already arrived."""
        messages: list[KafkaMessage] = []
        deadline = time.monotonic() + timeout
        while not messages:
            first = consumer.poll(max(0.0, deadline - time.monotonic()))
            if first is None:
                break
            rest = consumer.consume(limit - 1, 0) if limit > 1 else []
            messages = [message for message in (first, *rest) if not self._is_report(message)]
            if self._error is not None:
                break
        if not messages and self._error is not None:
            error, self._error = self._error, None
            raise self._explained(error)
        return messages

    def _raise_if_down(self, consumer: Consumer) -> None:
        """Raise what keeps this client from its brokers, again and again until one has answered.

        librdkafka says so now and then only, and of some mistakes once.
        """
        refusal, outage = self._reports.take_refusal(), self._reports.take_outage()
        failure: TransientError | None = refusal or outage
        if failure is None and self._failure is not None and not _answers(consumer):
            failure = self._reports.take_refusal() or self._failure
        self._failure = None if failure is None else self._explained(failure)
        if self._failure is not None:
            raise self._failure

    def _explained(self, error: TransientError) -> TransientError:
        return explained(error, self._config, DIAGNOSIS_SECONDS)

    def _is_report(self, message: KafkaMessage) -> bool:
        """Take a message that is a report of the client; False for one of the log."""
        error = message.error()
        if error is None:
            return False
        topic = message.topic()
        if error.code() in UNKNOWN:
            if topic not in self._absent:
                log.warning("waiting for the topic %s, which does not exist yet", topic)
            self._absent.add(topic or "")
        elif error.fatal():
            log.error("rejoining the group: %s", error.str())
            self._abandon()
            self._error = transient(error, topic)
        elif error.code() in REFUSED:
            self._error = transient(error, topic)
        else:
            self._reports.note(error)
        return True

    def _delivery(self, message: KafkaMessage) -> Delivery:
        topic, number, offset = message.topic(), message.partition(), message.offset()
        if topic is None or number is None or offset is None:
            raise BrokerUnavailableError("the client handed out a message without a place")
        partition = Partition(topic, number)
        self._ledger.deliver(partition, offset)
        headers: Any = message.headers() or ()
        # A tombstone carries no value at all.
        content = Message(topic, _bytes(message.key()), headers, _bytes(message.value()) or b"")
        return Delivery(content, f"{topic}[{number}]@{offset}", (partition, offset))

    def _commit(self) -> None:
        """Send what is to be committed; the answer comes to `_on_commit`."""
        if self._consumer is None or not self._uncommitted:
            return
        offsets = [TopicPartition(*place, offset) for place, offset in self._uncommitted.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as exc:
            log.warning("acknowledgement kept for later: %s", exc.args[0].str())
            return
        self._sent.update(self._uncommitted)
        self._uncommitted.clear()

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        for place in places:
            failure = place.error or error
            if failure is None:
                continue
            partition = Partition(place.topic, place.partition)
            if failure.code() in _OUSTED or partition not in self._owned:
                log.warning("acknowledgement dropped: %s[%d] was lost", *partition)
            elif self._sent.get(partition) == place.offset:
                self._reports.note(failure)
                self._uncommitted.setdefault(partition, place.offset)

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        del consumer
        self._owned.update(Partition(place.topic, place.partition) for place in places)
        names = [f"{place.topic}[{place.partition}]" for place in places]
        log.info("partitions taken", extra={"partitions": names})

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        del consumer
        # Before they go: librdkafka waits for a commit under way.
        self._commit()
        self._forget(places)

    def _on_lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        del consumer
        self._forget(places)

    def _forget(self, places: list[TopicPartition]) -> None:
        for place in places:
            partition = Partition(place.topic, place.partition)
            self._owned.discard(partition)
            self._sent.pop(partition, None)
            unsettled = self._ledger.forget(partition)
            if self._uncommitted.pop(partition, None) is not None or unsettled:
                log.warning("%s[%d] was given to another member with events unsettled", *partition)

    def _abandon(self) -> None:
        """Give up the membership; the next receive joins again, from what was committed."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            _leave(consumer)
        self._ledger = Ledger()
        self._owned.clear()
        self._sent.clear()
        self._uncommitted.clear()


def _answers(consumer: Consumer) -> bool:
    try:
        consumer.list_topics(timeout=LOOK_SECONDS)
    except KafkaException:
        return False
    return True


def _leave(consumer: Consumer) -> None:
    leaving = threading.Thread(target=consumer.close, name="kafka-leave", daemon=True)
    leaving.start()
    leaving.join(CLOSE_SECONDS)
    if leaving.is_alive():
        log.warning("left the group without an answer from the broker")


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
