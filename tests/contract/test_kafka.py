from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from outbox.testing import Features, PublisherContract, SubscriberContract
from outbox.transports import kafka as transport_module
from tests.absence import skipped_unless_ci
from tools.servers import kafka
from tools.servers.kafka import JARS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.transport import Publisher, Subscriber
    from tools.servers import KafkaServer


class KafkaUnderTest:
    oversize = 1_100_000

    def __init__(self, server: KafkaServer, delivery: Any) -> None:
        self.server = server
        self.options = transport_module.Options(
            bootstrap_servers=server.bootstrap_servers, delivery=delivery
        )

    def topic(self) -> str:
        name = f"contract-{uuid.uuid4().hex}"
        admin = AdminClient({"bootstrap.servers": self.server.bootstrap_servers})
        admin.create_topics([NewTopic(name, 3)])[name].result()
        return name

    def publisher(self, timeout: float) -> Publisher:
        return transport_module.publisher("route", self.options, timeout)

    def subscriber(self, group: str, topic: str) -> Subscriber:
        # A group belongs to one topic here, so that the tests of one broker do not meet.
        return transport_module.subscriber("route", self.options, f"{group}-{topic}", [topic])

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
def server() -> Iterator[KafkaServer]:
    with skipped_unless_ci():
        JARS.find()
    with kafka() as server:
        yield server


@pytest.mark.kafka
class TestKafka(PublisherContract, SubscriberContract):
    features = Features(
        name="kafka, at-least-once", delivery="at-least-once", survives_restart=True
    )

    @pytest.fixture
    def transport(self, server: KafkaServer) -> KafkaUnderTest:
        return KafkaUnderTest(server, "at-least-once")


@pytest.mark.kafka
class TestKafkaExactlyOnce(PublisherContract, SubscriberContract):
    features = Features(name="kafka", delivery="exactly-once", survives_restart=True)

    @pytest.fixture
    def transport(self, server: KafkaServer) -> KafkaUnderTest:
        return KafkaUnderTest(server, "exactly-once")
