"""Kafka: one broker a session, topics for each test.

The broker is the one at OUTBOX_TEST_KAFKA, or is started when the first test asks for it.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Protocol

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.absence import mark, own_server, shared_server, whereabouts
from tests.waiting import eventually
from tools.servers import KafkaServer, kafka
from tools.servers.kafka import JARS

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "OUTBOX_TEST_KAFKA"


class TopicFactory(Protocol):
    """Makes topics that are gone after the test."""

    def __call__(self, partitions: int = 3, **config: str) -> str:
        """Create a topic and return its name once every partition has a leader.

        `config` takes the broker's names with underscores: `cleanup_policy="compact"`.
        """
        ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, frozenset({"kafka_server", "own_kafka"}), "kafka")


def pytest_report_header() -> str:
    return whereabouts("kafka", os.environ.get(VARIABLE), JARS.find)


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[str]:
    """The address (host:port) of the session's broker; tests share it, so none may stop it."""
    yield from shared_server(VARIABLE, JARS.find, kafka, lambda server: server.bootstrap_servers)


@pytest.fixture
def bootstrap_servers(kafka_server: str) -> str:
    """The address of the broker, by librdkafka's name for it."""
    return kafka_server


@pytest.fixture
def new_topic(kafka_server: str) -> Iterator[TopicFactory]:
    """A factory of topics with names of their own, deleted after the test."""
    admin = AdminClient({"bootstrap.servers": kafka_server})
    made: list[str] = []

    def create(partitions: int = 3, **config: str) -> str:
        name = f"outbox-test-{uuid.uuid4().hex}"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
        admin.create_topics([topic])[name].result()
        made.append(name)
        _await_leaders(admin, name, partitions)
        return name

    yield create
    if made:
        for deleted in admin.delete_topics(made).values():
            deleted.result()


@pytest.fixture
def kafka_topic(new_topic: TopicFactory) -> str:
    """A topic with three partitions."""
    return new_topic()


@pytest.fixture
def own_kafka() -> Iterator[KafkaServer]:
    """A broker of the test's own, to stop, kill and freeze."""
    with own_server(JARS.find, kafka) as server:
        yield server


def _await_leaders(admin: AdminClient, topic: str, partitions: int) -> None:
    def is_led() -> bool:
        known = admin.list_topics(topic, timeout=10).topics[topic].partitions.values()
        return len(known) == partitions and all(partition.leader >= 0 for partition in known)

    eventually(is_led)
