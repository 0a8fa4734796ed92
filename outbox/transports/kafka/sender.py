"""One idempotent producer, and what became of the records that it was given."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from outbox.transports.kafka.errors import PURGED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confluent_kafka import Message

    from outbox.transports.kafka.page import Record

_GLANCE_SECONDS: Final = 0.1
"""How long a wait lasts before the failures so far are looked at."""
_POLL_EVERY: Final = 500
"""Records between two looks at the failures so far."""
_PURGE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Some records did not arrive, or are not known to have."""

    error: KafkaError | None
    """The first cause; None where the time was up."""
    topic: str | None
    """The topic that the cause is about."""
    unsettled: Sequence[Record]
    """What the broker did not confirm, in order; the rest arrived."""


class Sender:
    """Sends records and waits for them; used for nothing more once `send` returned a failure.

    Reports come for failures alone, so that a record that arrives costs no call into Python: an
    empty queue without a report means that all arrived. A report names no record, only its
    topic, key and value; so a record counts as failed when one that equals it did.
    """

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self._reported: set[tuple[str | None, bytes | None, bytes | None]] = set()
        self._cause: tuple[KafkaError, str | None] | None = None

    def send(self, records: Sequence[Record], deadline: float) -> Failure | None:
        """Return None when all records have arrived; at the first failure nothing more is sent.

        Afterwards nothing is in flight, and the log of each partition holds a prefix of what
        was sent to it, unless the broker itself refused some: later ones may then be stored.
        """
        sent = self._produce(records, deadline)
        if self._cause is None and self._drain(deadline):
            return None
        is_drained = self._purge()
        error, topic = self._cause or (None, None)
        if is_drained and self._reported <= {_identity(record) for record in records}:
            unsettled = [
                record
                for number, record in enumerate(records)
                if number >= sent or _identity(record) in self._reported
            ]
        else:
            unsettled = list(records)
        return Failure(error, topic, unsettled)

    def _produce(self, records: Sequence[Record], deadline: float) -> int:
        """Queue records until one fails; return how many were queued."""
        # Untyped: it only reads the list of headers, which its own type does not say.
        produce: Any = self.producer.produce
        report = self._report
        for number, (_, topic, key, data, headers) in enumerate(records):
            if number % _POLL_EVERY == 0:
                self.producer.poll(0)
                if self._cause is not None:
                    return number
            while True:
                try:
                    produce(topic, data, key, on_delivery=report, headers=headers)
                except BufferError:
                    self.producer.poll(_GLANCE_SECONDS)
                    if self._cause is not None or time.monotonic() > deadline:
                        return number
                except KafkaException as exc:
                    self._cause = (exc.args[0], topic)
                    return number
                else:
                    break
        return len(records)

    def _drain(self, deadline: float) -> bool:
        """Wait until the queue is empty; False at a failure or at the deadline."""
        while self._cause is None:
            left = deadline - time.monotonic()
            if self.producer.flush(max(0.0, min(_GLANCE_SECONDS, left))) == 0:
                break
            if left <= 0:
                return False
        return self._cause is None

    def _purge(self) -> bool:
        """Drop what is queued or in flight; return whether every record was then reported."""
        self.producer.purge()
        return self.producer.flush(_PURGE_SECONDS) == 0

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        if self._cause is None and error.code() not in PURGED:
            self._cause = (error, message.topic())
            # At once: what waits behind a failed batch must not be sent.
            self.producer.purge(blocking=False)
        self._reported.add((message.topic(), message.key(), message.value()))


def _identity(record: Record) -> tuple[str, bytes | None, bytes | None]:
    return record.topic, record.key, record.data
