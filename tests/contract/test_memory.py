from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from outbox.errors import RecordRefusedError
from outbox.testing import PublisherContract, SubscriberContract
from outbox.transports import memory
from outbox.transports.memory import MemoryBroker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from outbox.transport import Publisher, Subscriber


class MemoryUnderTest:
    oversize = 1_000_001

    def __init__(self) -> None:
        self.options = memory.Options(broker=uuid.uuid4().hex)
        self.broker = MemoryBroker.named(self.options.broker)

    def topic(self) -> str:
        return "topic"

    def publisher(self, timeout: float) -> Publisher:
        return memory.publisher("route", self.options, timeout)

    def subscriber(self, group: str, topic: str) -> Subscriber:
        return memory.subscriber("route", self.options, group, [topic])

    def outage(self) -> AbstractContextManager[None]:
        return self.broker.outage()


class TestMemory(PublisherContract, SubscriberContract):
    @pytest.fixture
    def transport(self) -> Iterator[MemoryUnderTest]:
        transport = MemoryUnderTest()
        too_large = RecordRefusedError("too large")
        with transport.broker.refuse(
            lambda envelope: len(envelope.data) >= transport.oversize, too_large
        ):
            yield transport
