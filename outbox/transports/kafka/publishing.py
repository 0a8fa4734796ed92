"""The publishing side of Kafka: a flush a page, at least once and in order per key."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from confluent_kafka import Producer

from outbox.codec import to_headers
from outbox.errors import (
    BrokerUnavailableError,
    RecordRefusedError,
    TransientError,
)
from outbox.transports.kafka.client import make
from outbox.transports.kafka.errors import DENIED, UNFIT, UNKNOWN, Reports, transient, unfit
from outbox.transports.kafka.page import Page, Record
from outbox.transports.kafka.sender import Sender, Sending
from outbox.transports.kafka.size import is_too_large
from outbox.transports.kafka.topics import Topic, Topics
from outbox.transports.topic import TopicTemplate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outbox.envelope import Envelope
    from outbox.transport import Outcome
    from outbox.transports.kafka.options import Options

_SENDING_SHARE: Final = 0.8
"""Of the time-out; the rest is for purging, and for the records' own time-out to be later."""
_BATCH_SHARE: Final = 0.9
"""Of a topic's limit that librdkafka may fill with one batch: its own count is an estimate."""


class KafkaPublisher:
    """Publishes with an idempotent producer, all replicas acknowledging.

    What a topic cannot take is `Dead` before anything is sent. At the first failure the producer
    is purged and replaced, so that nothing is in flight between two publishes.
    """

    def __init__(self, route: str, options: Options, timeout: float) -> None:
        self._options = options
        self._compresses = options.compresses
        self._timeout = timeout
        self._template = TopicTemplate(options.topic)
        self._reports = Reports(route)
        self._topics = Topics(options, self._reports)
        self._sender: Sender | None = None
        self._batch_size: int | None = None

    def publish(self, batch: Sequence[Envelope], /) -> list[Outcome]:
        """See `Publisher.publish`."""
        deadline = time.monotonic() + self._timeout * _SENDING_SHARE
        page = Page(batch)
        self._settle(page, range(len(batch)), deadline, may_ask_again=True)
        return page.outcomes()

    def close(self) -> None:
        """See `Publisher.close`."""
        self._drop_clients()

    def _settle(
        self, page: Page, indexes: Sequence[int], deadline: float, *, may_ask_again: bool
    ) -> TransientError | None:
        """Settle these envelopes; return the error that stops the rest of the page, if any."""
        try:
            named = self._named(page, indexes, deadline)
        except TransientError as error:
            return self._stop(page, indexes, error)
        if not named:
            return None
        sending = self._ready().send(self._records(page, named), deadline)
        page.published(sending.arrived)
        if not sending.unsettled:
            return None
        self._drop_clients()
        return self._resolve(page, sending, deadline, may_ask_again=may_ask_again)

    def _resolve(
        self, page: Page, failure: Sending, deadline: float, *, may_ask_again: bool
    ) -> TransientError | None:
        """Settle what a failure left unsettled, by its cause."""
        unsettled = [record.place for record in failure.unsettled]
        error, topic = failure.error, failure.topic
        if error is None:
            return self._stop(page, unsettled, _late())
        if error.code() in UNFIT:
            if may_ask_again:
                # The topic's limit may have changed: asked again, it shows who is at fault.
                return self._settle(page, unsettled, deadline, may_ask_again=False)
            if len(unsettled) > 1:
                return self._bisect(page, unsettled, deadline)
            page.dead(unsettled[0], unfit(error, topic))
            return None
        if error.code() in UNKNOWN | DENIED:
            # The other topics of the page are not at fault.
            self._topics.refuse(topic, transient(error, topic))
            return self._settle(page, unsettled, deadline, may_ask_again=may_ask_again)
        return self._stop(page, unsettled, transient(error, topic))

    def _bisect(
        self, page: Page, unsettled: Sequence[int], deadline: float
    ) -> TransientError | None:
        """Publish the halves one after the other, to find the record that is refused."""
        middle = len(unsettled) // 2
        stopped = self._settle(page, unsettled[:middle], deadline, may_ask_again=False)
        if stopped is not None:
            page.retry(unsettled[middle:], stopped)
            return stopped
        return self._settle(page, unsettled[middle:], deadline, may_ask_again=False)

    def _named(
        self, page: Page, indexes: Sequence[int], deadline: float
    ) -> list[tuple[int, Envelope, str]]:
        """Return the envelopes that may be sent, with topics that are known, and settle others."""
        if time.monotonic() > deadline:
            raise _late()
        named: list[tuple[int, Envelope, str]] = []
        topic_of = self._template.topic
        for index in indexes:
            if page.has_failures and page.holds_back(index):
                continue
            envelope = page.batch[index]
            try:
                named.append((index, envelope, topic_of(envelope)))
            except RecordRefusedError as refused:
                page.dead(index, refused)
        names = {topic for _, _, topic in named}
        if names:
            self._topics.learn(names, lambda: self._ready().producer, deadline)
        return named

    def _records(
        self, page: Page, named: Sequence[tuple[int, Envelope, str]]
    ) -> Iterator[tuple[Record, list[tuple[str, bytes]]]]:
        """Make records one by one as they are sent; settle the envelopes that must not be."""
        for index, envelope, topic in named:
            if page.has_failures and page.holds_back(index):
                continue
            key = None if envelope.partition_key is None else envelope.partition_key.encode()
            headers = to_headers(envelope)
            error = self._refusal(envelope, topic, key, headers)
            if error is None:
                yield Record(index, topic, key, envelope.data), headers
            elif isinstance(error, TransientError):
                page.retry([index], error)
            else:
                page.dead(index, error)

    def _refusal(
        self,
        envelope: Envelope,
        name: str,
        key: bytes | None,
        headers: list[tuple[str, bytes]],
    ) -> TransientError | RecordRefusedError | None:
        """Say why an envelope must not be sent, if so."""
        topic = self._topics[name]
        if not isinstance(topic, Topic):
            return topic
        if key is None and topic.needs_key:
            return RecordRefusedError(
                f"the topic {name!r} is compacted, and the event has no partition key"
            )
        limit = topic.max_bytes
        # How small compression makes a record is known at the broker alone.
        if (
            limit is None
            or self._compresses
            or not is_too_large(limit, key, envelope.data, headers)
        ):
            return None
        return RecordRefusedError(
            f"the event, {len(envelope.data)} bytes of data and its headers, is larger than"
            f" max.message.bytes = {limit} of the topic {name!r}"
        )

    def _ready(self) -> Sender:
        """Return a sender whose batches fit into every topic known so far."""
        limit = self._topics.smallest_limit
        batch_size = None if limit is None else max(1, int(limit * _BATCH_SHARE))
        if self._sender is not None and (
            batch_size is None or (self._batch_size is not None and self._batch_size <= batch_size)
        ):
            return self._sender
        # Its batches may be too large, and between two sendings it holds nothing.
        self._sender = None
        config = self._options.producer_config(
            timeout_ms=int(self._timeout * _SENDING_SHARE * 1000), largest_batch=batch_size
        )
        self._batch_size = batch_size
        reports_failures_only = {"delivery.report.only.error": True}
        producer = make(Producer, config, self._reports, **reports_failures_only)
        self._sender = Sender(producer)
        return self._sender

    def _drop_clients(self) -> None:
        """Make every client anew for what comes next; between two sendings nothing is in flight."""
        self._topics.poll()
        if self._sender is not None:
            self._sender.producer.poll(0)
            self._sender = None
        self._topics.forget()

    def _stop(self, page: Page, indexes: Sequence[int], error: TransientError) -> TransientError:
        """Give up on the rest of this page."""
        self._drop_clients()
        refusal = self._reports.take_refusal()
        if refusal is not None and isinstance(error, BrokerUnavailableError):
            error = refusal
        page.retry(indexes, error)
        return error


def _late() -> BrokerUnavailableError:
    return BrokerUnavailableError("the broker did not confirm the events in time")
