"""Names of topics and queues at the broker, as its documentation of virtual topics has them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from outbox.transports.activemq.options import Options


def target(options: Options, topic: str) -> str:
    """Return where events of a topic are sent to."""
    if options.destination == "queue":
        return f"/queue/{topic}"
    return f"/topic/VirtualTopic.{topic}"


def source(options: Options, group: str, topic: str) -> str:
    """Return the queue from which a group receives the events of a topic."""
    if options.destination == "queue":
        return f"/queue/{topic}"
    return f"/queue/Consumer.{_part(group)}.VirtualTopic.{topic}"


def _part(group: str) -> str:
    # A dot divides names: the broker looks for queues of groups that have one part.
    return quote(group, safe="").replace(".", "%2E").replace("~", "%7E")
