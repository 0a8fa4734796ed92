"""One idempotent producer, and what became of the records that it was given."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from outbox.transports.kafka.errors import PURGED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet

    from confluent_kafka import Message

    from outbox.transports.kafka.encode import Record

Identity = tuple[str, bytes | None, bytes | None]
"""Topic, key and data: by these a report names a record."""

_GLANCE_SECONDS: Final = 0.1
"""How long a wait lasts before the failures so far are looked at."""
_POLL_EVERY: Final = 500
"""Records between two looks at the failures so far."""
_PURGE_SECONDS: Final = 1.0
_ANY_PARTITION: Final = -1


@dataclass(frozen=True, slots=True)
class Failure:
    """Why not everything arrived."""

    error: KafkaError | None
    """The first cause; None where the time was up."""
    topic: str
    """The topic that the cause is about."""
    reported: AbstractSet[Identity] | None
    """What did not arrive, or is not known to have; None where not even that is known."""
    queued_count: int
    """So many records were given to the producer; the next one was not, nor any after it."""


class Sender:
    """Sends records and waits for them; used for nothing more once something was unsettled.

    Reports come for failures alone, so that a record that arrives costs no call into Python: an
    empty queue without a report means that all arrived. A report names no record, only its
    topic, key and value; so a record counts as failed when one that equals it did.
    """

    def __init__(self, make: Callable[..., Producer]) -> None:
        """Make the producer; `make` takes the callback of reports."""
        self.queued_count = 0
        """Records given to the producer since the last flush."""
        self.producer = make(on_delivery=self._report)
        self._reported: set[Identity] = set()
        self._cause: tuple[KafkaError, str | None] | None = None

    @property
    def cause(self) -> tuple[KafkaError, str | None] | None:
        """The first failure reported, with its topic."""
        return self._cause

    @property
    def reported(self) -> AbstractSet[Identity]:
        """Everything that a failure was reported of."""
        return self._reported

    def send(self, records: Iterator[Record], deadline: float) -> int | Failure:
        """Send records and wait; return how many arrived. At the first failure it stops sending.

        Afterwards nothing is in flight, and the log of each partition holds a prefix of what
        was sent to it, unless the broker itself refused some: later ones may then be stored.
        """
        if self.queue(records, deadline) and self.drain(deadline):
            return self.queued_count
        return self._give_up()

    def queue(self, records: Iterator[Record], deadline: float) -> bool:
        """Give records to the producer, one by one as they are made; False once one failed."""
        self.queued_count = 0
        # Untyped: it only reads the list of headers, which its own type does not say. Arguments
        # by their places: by their names they cost as much as all headers.
        produce: Any = self.producer.produce
        while self._cause is None:
            count = 0
            for topic, data, key, headers in islice(records, _POLL_EVERY):
                try:
                    produce(topic, data, key, _ANY_PARTITION, None, None, 0, headers)
                except BufferError:
                    if not self._queue_when_room((topic, data, key, headers), deadline):
                        self.queued_count += count
                        return False
                except KafkaException as exc:
                    # Within a transaction it only says that one has failed; a report says why.
                    self.look()
                    self._fail(exc, topic)
                    self.queued_count += count
                    return False
                count += 1
            self.queued_count += count
            self.look()
            if count < _POLL_EVERY:
                break
        return self._cause is None

    def drain(self, deadline: float) -> bool:
        """Wait until everything arrived; False at a failure or at the deadline."""
        while self._cause is None:
            left = deadline - time.monotonic()
            try:
                if self.producer.flush(max(0.0, min(_GLANCE_SECONDS, left))) == 0:
                    break
            except KafkaException as exc:
                self._fail(exc)
            if left <= 0:
                return False
        return self._cause is None

    def forget_failures(self) -> None:
        """Begin anew, after a transaction with failures was taken back."""
        self._cause = None
        self._reported.clear()

    def _queue_when_room(self, record: Record, deadline: float) -> bool:
        topic, data, key, headers = record
        produce: Any = self.producer.produce
        while True:
            self.look(_GLANCE_SECONDS)
            if self._cause is not None or time.monotonic() > deadline:
                return False
            try:
                produce(topic, data, key, _ANY_PARTITION, None, None, 0, headers)
            except BufferError:
                continue
            except KafkaException as exc:
                self._cause = (exc.args[0], topic)
                return False
            return True

    def look(self, seconds: float = 0) -> None:
        """Take reports in; the client raises what is fatal, for instance that it was replaced."""
        try:
            self.producer.poll(seconds)
        except KafkaException as exc:
            self._fail(exc)

    def _fail(self, exc: KafkaException, topic: str | None = None) -> None:
        if self._cause is None:
            self._cause = (exc.args[0], topic)

    def _give_up(self) -> Failure:
        """Take back what can be taken back."""
        self.producer.purge()
        is_drained = self.producer.flush(_PURGE_SECONDS) == 0
        error, topic = self._cause or (None, None)
        reported = frozenset(self._reported) if is_drained else None
        return Failure(error, topic or "", reported, self.queued_count)

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        if self._cause is None and error.code() not in PURGED:
            self._cause = (error, message.topic())
            # At once: what waits behind a failed batch must not be sent.
            self.producer.purge(blocking=False)
        self._reported.add(identity(message.topic() or "", message.key(), message.value()))


def identity(topic: str, key: bytes | None, data: bytes | None) -> Identity:
    """Return by what a record is recognised; an empty key or value is reported as none."""
    return topic, key or None, data or None
