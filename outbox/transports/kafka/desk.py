"""What publishing at least once and exactly once have in common: clients, topics, records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from confluent_kafka import Producer

from outbox.errors import BrokerUnavailableError
from outbox.rows import DATA, KEY
from outbox.transports.kafka.client import connect, explained, make
from outbox.transports.kafka.encode import Encoder
from outbox.transports.kafka.errors import Reports
from outbox.transports.kafka.sender import Identity, Sender, identity
from outbox.transports.kafka.topics import Topics
from outbox.transports.topic import TopicTemplate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from outbox.errors import TransientError
    from outbox.rows import Row
    from outbox.transports.kafka.encode import Record
    from outbox.transports.kafka.options import Options
    from outbox.transports.page import Page

SENDING_SHARE: Final = 0.8
"""Of a publisher's time-out; the rest is for purging, and for the records' own time-out to be
later."""
_LOOK_SHARE: Final = 0.05
"""Of a publisher's time-out, for finding out why a broker that does answer refuses."""
_BATCH_SHARE: Final = 0.9
"""Of a topic's limit that librdkafka may fill with one batch: its own count is an estimate."""
_BATCH_BYTES: Final = 900_000
"""Bytes of a batch where no topic's limit is known: they fit into a topic as brokers make it."""


class Rest(NamedTuple):
    """What the encoder did not come to, and why."""

    indexes: Sequence[int]
    error: TransientError | None
    """None where it was only the producer that had to be replaced."""


class Desk:
    """The clients of one publisher, made when they are needed and dropped when something failed."""

    def __init__(
        self, route: str, options: Options, timeout: float, further: Mapping[str, str] | None = None
    ) -> None:
        """`further` is configuration of the producer."""
        self.reports = Reports(route)
        self.options = options
        self.further: Mapping[str, str] = further or {}
        self._timeout_ms = int(timeout * SENDING_SHARE * 1000)
        self._look_seconds = timeout * _LOOK_SHARE
        self._connected: Sender | None = None
        self._topics = Topics(options, self.reports)
        self._encoder = Encoder(
            TopicTemplate(options.topic), self._topics, compresses=options.compresses
        )
        self._sender: Sender | None = None
        self._batch_bytes = _BATCH_BYTES

    def sender(self) -> Sender:
        """Return the sender in use, or else a new one, whose batches fit into known topics."""
        if self._sender is None:
            self._batch_bytes = self._fitting()
            config = self.options.producer_config(
                timeout_ms=self._timeout_ms, largest_batch=self._batch_bytes
            )
            config |= self.further
            reports_failures_only = {"delivery.report.only.error": True}

            def make_producer(**callbacks: Any) -> Producer:
                return make(Producer, config, self.reports, **reports_failures_only, **callbacks)

            self._sender = Sender(make_producer)
        return self._sender

    def connected(self, deadline: float) -> Sender:
        """Return the same once a broker has answered it; raises `TransientError` as `connect`."""
        sender = self.sender()
        if sender is not self._connected:
            connect(sender.producer, self.options.admin_config(), self.reports, deadline)
            self._connected = sender
        return sender

    def records(self, page: Page, indexes: Sequence[int], deadline: float) -> Iterator[Record]:
        """Make records one by one as they are sent; settle the events that must not be."""

        def learn(name: str) -> bool:
            self._topics.learn([name], lambda: self.sender().producer, deadline)
            return self._fitting() >= self._batch_bytes

        return self._encoder.records(page, indexes, learn)

    def take_rest(self, indexes: Sequence[int]) -> Rest:
        """Return what the last `records` stopped before; a producer in its way is dropped."""
        if self._encoder.stopped is None:
            return Rest((), None)
        first, error = self._encoder.stopped
        if error is None:
            self._sender = None
        return Rest([index for index in indexes if index >= first], error)

    def identity(self, row: Row) -> Identity:
        """Return by what the record of an event is recognised."""
        return identity(self._encoder.topic_of(row), row[KEY], row[DATA])

    def topics_of(self, rows: Iterable[Row]) -> str:
        """Name the topics of some events."""
        return ", ".join(sorted({self._encoder.topic_of(row) for row in rows}))

    def refuse(self, topic: str, error: TransientError) -> None:
        """Remember for a while that a topic refused a write."""
        self._topics.refuse(topic, error)

    def stopped_by(self, error: TransientError) -> TransientError:
        """Give up for now; return the error to tell: a refusal explains an outage."""
        self.drop_clients()
        refusal = self.reports.take_refusal()
        if refusal and isinstance(error, BrokerUnavailableError):
            return explained(refusal, self.options.admin_config(), self._look_seconds)
        return error

    def drop_clients(self) -> None:
        """Make every client anew for what comes next; between two sendings nothing is in flight."""
        self._topics.poll()
        if self._sender is not None:
            self._sender.look()
            self._sender = self._connected = None
        self._topics.forget()
        self._encoder.forget()

    def forget_topics(self) -> None:
        """Ask anew what the topics take."""
        self._topics.forget()
        self._encoder.forget()

    def _fitting(self) -> int:
        limit = self._topics.smallest_limit
        return _BATCH_BYTES if limit is None else max(1, int(limit * _BATCH_SHARE))


def late() -> BrokerUnavailableError:
    """Return the error of what was not confirmed before its time was up."""
    return BrokerUnavailableError("the broker did not confirm the events in time")
