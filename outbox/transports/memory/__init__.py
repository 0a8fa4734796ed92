"""The memory transport: a broker inside the process, of ring buffers.

It has both sides, and needs no server. Nothing of it survives the process: relay and workers
share a broker only as threads of one program. So an event counts as published once all groups have
processed it, and not before the relay's position moves behind it: what a crash takes with it is
published again.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from outbox.transports.memory.broker import CAPACITY, MemoryBroker
from outbox.transports.memory.publishing import MemoryPublisher
from outbox.transports.memory.receiving import MemorySubscriber
from outbox.transports.memory.ring import RingBuffer, RingClosedError, RingConsumer, RingFullError
from outbox.transports.memory.waiting import Block, Signal, Spin, WaitStrategy, Yield
from outbox.transports.topic import TemplateText, TopicTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Block",
    "MemoryBroker",
    "Options",
    "RingBuffer",
    "RingClosedError",
    "RingConsumer",
    "RingFullError",
    "Signal",
    "Spin",
    "WaitStrategy",
    "Yield",
    "publisher",
    "subscriber",
    "topic_of",
]


WAITING_SHARE: Final = 0.8
"""Of a publisher's time-out; the rest is for what it does besides waiting."""


class Options(BaseModel):
    """The settings of a route on the memory transport."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    broker: str = "default"
    """Which of this process's brokers."""
    topic: TemplateText = "{type_prefix}"
    """Template of the topic's name."""
    partitions: Annotated[int, Field(ge=1, le=1024)] = 4
    """Of each topic: so many members of a group may work side by side."""
    capacity: int = CAPACITY
    """Messages that wait in each partition, at most; a power of two."""
    wait: Literal["block", "yield", "spin"] = "block"
    """How threads wait for each other: asleep, or looking again and again."""
    published_when: Literal["processed", "stored"] = "processed"
    """What has to have happened before the relay's position moves."""
    groups: dict[str, list[str]] = {}
    """Groups that are waited for before they first join, with the topics that they receive."""
    after: dict[str, list[str]] = {}
    """Groups that are shown a message only once other groups have processed it."""

    @field_validator("groups", "after", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: [each] if isinstance(each, str) else each for name, each in value.items()}

    @field_validator("capacity")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value < 1 or value & (value - 1):
            msg = "use a power of two, for instance 4096"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, before in self.after.items():
            for each in (name, *before):
                if each not in self.groups:
                    msg = f"after names the group {each!r}: list it in groups, with its topics"
                    raise ValueError(msg)
        try:
            TopologicalSorter(self.after).prepare()
        except CycleError as exc:
            circle = " after ".join(reversed(exc.args[1]))
            msg = f"after goes round in a circle: {circle}"
            raise ValueError(msg) from exc
        return self

    def make_broker(self) -> MemoryBroker:
        """Return the broker, with the groups that are waited for."""
        broker = MemoryBroker.named(
            self.broker, partitions=self.partitions, capacity=self.capacity, wait=self.wait
        )
        broker.declare(self.groups, self.after)
        return broker


def publisher(route: str, options: Options, timeout: float) -> MemoryPublisher:
    """Make a publisher."""
    del route
    return MemoryPublisher(
        options.make_broker(),
        TopicTemplate(options.topic),
        timeout * WAITING_SHARE,
        waits_until_processed=options.published_when == "processed",
    )


def subscriber(route: str, options: Options, group: str, topics: Sequence[str]) -> MemorySubscriber:
    """Make a member of a group."""
    del route
    return MemorySubscriber(options.make_broker(), group, topics)


def topic_of(options: Options, event_type: str) -> str | None:
    """Return the topic of an event type; None where the template needs more than the type."""
    return TopicTemplate(options.topic).topic_of(event_type)
