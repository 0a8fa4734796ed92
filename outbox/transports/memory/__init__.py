"""The memory transport: a broker inside the process, for tests, demos and a first try.

It has both sides, and needs no server. Nothing of it survives the process: relay and workers
share a broker only as threads of one program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from outbox.transports.memory.broker import MemoryBroker
from outbox.transports.memory.publishing import MemoryPublisher
from outbox.transports.memory.receiving import MemorySubscriber
from outbox.transports.topic import TemplateText, TopicTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MemoryBroker", "Options", "publisher", "subscriber", "topic_of"]


class Options(BaseModel):
    """The settings of a route on the memory transport."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    broker: str = "default"
    """Which of this process's brokers."""
    topic: TemplateText = "{type_prefix}"
    """Template of the topic's name."""


def publisher(route: str, options: Options, timeout: float) -> MemoryPublisher:
    """Make a publisher; it never waits, so the time-out does not matter."""
    del route, timeout
    return MemoryPublisher(MemoryBroker.named(options.broker), TopicTemplate(options.topic))


def subscriber(route: str, options: Options, group: str, topics: Sequence[str]) -> MemorySubscriber:
    """Make a member of a group."""
    del route
    return MemorySubscriber(MemoryBroker.named(options.broker), group, topics)


def topic_of(options: Options, event_type: str) -> str | None:
    """Return the topic of an event type; None where the template needs more than the type."""
    return TopicTemplate(options.topic).topic_of(event_type)
