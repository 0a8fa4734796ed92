"""The Kafka transport: CloudEvents in binary mode, through confluent-kafka.

Publishing is exactly-once by default, or at-least-once; both are in order per key, and so is
receiving, which is at-least-once. Settings, guarantees and failures are described
in `docs/guide/kafka.md`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from outbox.transports.kafka.client import connect, make
from outbox.transports.kafka.errors import Reports
from outbox.transports.kafka.options import Options
from outbox.transports.kafka.publishing import KafkaPublisher
from outbox.transports.kafka.receiving import KafkaSubscriber
from outbox.transports.kafka.transactional import TransactionalKafkaPublisher
from outbox.transports.topic import TopicTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Options", "publisher", "subscriber", "topic_of"]


def publisher(
    route: str, options: Options, timeout: float
) -> KafkaPublisher | TransactionalKafkaPublisher:
    """Make a publisher; it connects when it is first used."""
    if options.delivery == "at-least-once":
        return KafkaPublisher(route, options, timeout)
    return TransactionalKafkaPublisher(route, options, timeout)


def subscriber(route: str, options: Options, group: str, topics: Sequence[str]) -> KafkaSubscriber:
    """Make a member of a consumer group; it joins when it first receives."""
    return KafkaSubscriber(route, options, group, topics)


def topic_of(options: Options, event_type: str) -> str | None:
    """Return the topic of an event type; None where the template needs more than the type."""
    return TopicTemplate(options.topic).topic_of(event_type)


def probe(route: str, options: Options, timeout: float) -> None:
    """Return once a broker has let a producer of this route in; see `ProbedTransport.probe`.

    Rights are not looked at, because topics depend on the events.
    """
    config = options.producer_config(timeout_ms=int(timeout * 1000), largest_batch=None)
    reports = Reports(route, logging.DEBUG)  # the error says it all
    producer = make(Producer, config, reports)
    connect(producer, config, reports, time.monotonic() + timeout)
