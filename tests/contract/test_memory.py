from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from outbox.errors import RecordRefusedError
from outbox.testing import Features, PublisherContract, SubscriberContract
from outbox.transports import memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from outbox.transport import Publisher, Subscriber


class MemoryUnderTest:
    oversize = 1_000_001

    def __init__(self, **options: Any) -> None:
        self._given = options
        self.restart()

    def topic(self) -> str:
        return "topic"

    def publisher(self, timeout: float) -> Publisher:
        return memory.publisher("route", self.options, timeout)

    def subscriber(self, group: str, topic: str) -> Subscriber:
        return memory.subscriber("route", self.options, group, [topic])

    def outage(self) -> AbstractContextManager[None]:
        return self.broker.outage()

    def restart(self) -> None:
        """Begin with an empty broker, as the next process does."""
        self.options = memory.Options(broker=uuid.uuid4().hex, **self._given)
        self.broker = self.options.make_broker()


@contextmanager
def limited(transport: MemoryUnderTest) -> Iterator[MemoryUnderTest]:
    """A broker in memory has no limit of its own."""
    too_large = RecordRefusedError("too large")
    with transport.broker.refuse(
        lambda envelope: len(envelope.data) >= transport.oversize, too_large
    ):
        yield transport


class TestMemory(PublisherContract, SubscriberContract):
    """The suite's members do not work while its one thread publishes: nobody is waited for."""

    features = Features(
        name="memory, stored",
        delivery="at-least-once",
        survives_restart=False,
        new_groups="the rest",
    )

    @pytest.fixture
    def transport(self) -> Iterator[MemoryUnderTest]:
        with limited(MemoryUnderTest(published_when="stored", capacity=512)) as transport:
            yield transport


class TestMemoryThatWaitsUntilGroupsAreDone(PublisherContract, SubscriberContract):
    """Two scenarios publish while members of their own thread are there, who cannot work then."""

    features = Features(
        name="memory", delivery="at-least-once", survives_restart=False, new_groups="the rest"
    )
    test_members_of_a_group_share_and_a_key_has_one_of_them = None  # type: ignore[assignment]
    test_an_outage_ends_and_receiving_goes_on = None  # type: ignore[assignment]

    @pytest.fixture
    def transport(self) -> Iterator[MemoryUnderTest]:
        with limited(MemoryUnderTest()) as transport:
            yield transport
