from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from outbox.testing import Features, PublisherContract, SubscriberContract
from outbox.transports import activemq as transport_module
from outbox.transports.activemq import receiving
from tests.absence import skipped_unless_ci
from tools.servers import activemq
from tools.servers.activemq import JARS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.transport import Publisher, Subscriber
    from tools.servers import ActiveMqServer

GROUPS = [
    *("order", "outage", "dead", "round-trip", "kinds", "idle", "limit", "first", "second"),
    *("again", "nack", "shared", "leaving", "restart", "crash"),
]
"""All groups of the suite: their queues have to be there before something is published."""


class ActiveMqUnderTest:
    oversize = 1_100_000

    def __init__(self, server: ActiveMqServer, **options: Any) -> None:
        self.server = server
        self.options = transport_module.Options(
            brokers=server.address,
            heart_beat_seconds=1,
            max_message_bytes=1_000_000,
            **options,
        )

    def topic(self) -> str:
        return f"contract-{uuid.uuid4().hex}"

    def publisher(self, timeout: float) -> Publisher:
        return transport_module.publisher("route", self.options, timeout)

    def subscriber(self, group: str, topic: str) -> Subscriber:
        return transport_module.subscriber("route", self.options, group, [topic])

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.server.pause()
        try:
            yield
        finally:
            self.server.resume()

    def restart(self) -> None:
        self.server.kill()
        self.server.start()


@pytest.fixture(scope="module")
def server() -> Iterator[ActiveMqServer]:
    with skipped_unless_ci():
        JARS.find()
    with activemq() as server:
        yield server


@pytest.mark.activemq
class TestActiveMq(PublisherContract, SubscriberContract):
    features = Features(
        name="activemq",
        delivery="at-least-once",
        survives_restart=True,
        new_groups="refused",
    )

    @pytest.fixture
    def transport(
        self, server: ActiveMqServer, monkeypatch: pytest.MonkeyPatch
    ) -> ActiveMqUnderTest:
        # A member that has nothing to do gives up its groups soon.
        monkeypatch.setattr(receiving, "SHARE_SECONDS", 0.5)
        return ActiveMqUnderTest(server, groups=GROUPS)


@pytest.mark.activemq
class TestActiveMqQueue(PublisherContract, SubscriberContract):
    features = Features(
        name="activemq, queue", delivery="at-least-once", survives_restart=True, has_groups=False
    )

    @pytest.fixture
    def transport(
        self, server: ActiveMqServer, monkeypatch: pytest.MonkeyPatch
    ) -> ActiveMqUnderTest:
        monkeypatch.setattr(receiving, "SHARE_SECONDS", 0.5)
        return ActiveMqUnderTest(server, destination="queue")
