"""The ActiveMQ transport: CloudEvents in the headers of STOMP messages.

Publishing is at-least-once and in order per key, and so is receiving. Settings, guarantees and
failures are described in `docs/guide/activemq.md`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from outbox.transports.activemq.dialling import Dialler
from outbox.transports.activemq.options import Options
from outbox.transports.activemq.publishing import ActiveMqPublisher
from outbox.transports.activemq.receiving import ActiveMqSubscriber
from outbox.transports.topic import TopicTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Options", "publisher", "subscriber", "topic_of"]


def publisher(route: str, options: Options, timeout: float) -> ActiveMqPublisher:
    """Make a publisher; it connects when it is first used."""
    return ActiveMqPublisher(route, options, timeout)


def subscriber(
    route: str, options: Options, group: str, topics: Sequence[str]
) -> ActiveMqSubscriber:
    """Make a member of a consumer group; it joins when it first receives."""
    return ActiveMqSubscriber(route, options, group, topics)


def topic_of(options: Options, event_type: str) -> str | None:
    """Return the topic of an event type; None where the template needs more than the type."""
    return TopicTemplate(options.topic).topic_of(event_type)


def probe(route: str, options: Options, timeout: float) -> None:
    """Return once a broker has let this route in; see `ProbedTransport.probe`.

    Rights are not looked at: topics depend on the events, and a broker tells only whoever sends
    one there, or makes a queue.
    """
    Dialler(route, options).connect(time.monotonic() + timeout).close()
