"""One idempotent producer, and what became of the records that it was given."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from outbox.transports.kafka.errors import PURGED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from confluent_kafka import Message

    from outbox.transports.kafka.page import Record

_GLANCE_SECONDS: Final = 0.1
"""How long a wait lasts before the failures so far are looked at."""
_POLL_EVERY: Final = 500
"""Records between two looks at the failures so far."""
_PURGE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Sending:
    """What became of the records of one call."""

    arrived: Sequence[Record]
    """Those that the broker confirmed, in order."""
    unsettled: Sequence[Record]
    """The others, in order: not stored, or not known to be."""
    error: KafkaError | None = None
    """The first cause; None where the time was up."""
    topic: str = ""
    """The topic that the cause is about."""


class Sender:
    """Sends records and waits for them; used for nothing more once something was unsettled.

    Reports come for failures alone, so that a record that arrives costs no call into Python: an
    empty queue without a report means that all arrived. A report names no record, only its
    topic, key and value; so a record counts as failed when one that equals it did.
    """

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self._reported: set[tuple[str | None, bytes | None, bytes | None]] = set()
        self._cause: tuple[KafkaError, str | None] | None = None

    def send(
        self, records: Iterable[tuple[Record, list[tuple[str, bytes]]]], deadline: float
    ) -> Sending:
        """Send records with their headers and wait; at the first failure nothing more is sent.

        Afterwards nothing is in flight, and the log of each partition holds a prefix of what
        was sent to it, unless the broker itself refused some: later ones may then be stored.
        """
        remaining = iter(records)
        queued: list[Record] = []
        unsent: list[Record] = []
        self._produce(remaining, queued, unsent, deadline)
        unsent += [record for record, _ in remaining]
        if self._cause is None and not unsent and self._drain(deadline):
            return Sending(queued, ())
        return self._give_up(queued, unsent)

    def _produce(
        self,
        records: Iterator[tuple[Record, list[tuple[str, bytes]]]],
        queued: list[Record],
        unsent: list[Record],
        deadline: float,
    ) -> None:
        """Queue records until one fails; that one is unsent, and what follows stays where it is."""
        # Untyped: it only reads the list of headers, which its own type does not say.
        produce: Any = self.producer.produce
        report = self._report
        for record, headers in records:
            _, topic, key, data = record
            if len(queued) % _POLL_EVERY == 0:
                self.producer.poll(0)
                if self._cause is not None:
                    unsent.append(record)
                    return
            while True:
                try:
                    produce(topic, data, key, on_delivery=report, headers=headers)
                except BufferError:
                    self.producer.poll(_GLANCE_SECONDS)
                    if self._cause is not None or time.monotonic() > deadline:
                        unsent.append(record)
                        return
                except KafkaException as exc:
                    self._cause = (exc.args[0], topic)
                    unsent.append(record)
                    return
                else:
                    queued.append(record)
                    break

    def _give_up(self, queued: Sequence[Record], unsent: Sequence[Record]) -> Sending:
        """Take back what can be taken back, and tell apart what has arrived."""
        self.producer.purge()
        is_drained = self.producer.flush(_PURGE_SECONDS) == 0
        failed = self._reported
        # A report that fits no record would hide one that failed: then nothing counts as arrived.
        if is_drained and failed <= {_identity(record) for record in queued}:
            arrived = [record for record in queued if _identity(record) not in failed]
            unsettled = [record for record in queued if _identity(record) in failed]
        else:
            arrived, unsettled = [], list(queued)
        error, topic = self._cause or (None, None)
        return Sending(arrived, [*unsettled, *unsent], error, topic or "")

    def _drain(self, deadline: float) -> bool:
        """Wait until the queue is empty; False at a failure or at the deadline."""
        while self._cause is None:
            left = deadline - time.monotonic()
            if self.producer.flush(max(0.0, min(_GLANCE_SECONDS, left))) == 0:
                break
            if left <= 0:
                return False
        return self._cause is None

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        if self._cause is None and error.code() not in PURGED:
            self._cause = (error, message.topic())
            # At once: what waits behind a failed batch must not be sent.
            self.producer.purge(blocking=False)
        self._reported.add((message.topic(), message.key() or None, message.value() or None))


def _identity(record: Record) -> tuple[str, bytes | None, bytes | None]:
    # librdkafka reports an empty key or value as none.
    return record.topic, record.key or None, record.data or None
