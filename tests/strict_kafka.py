"""A broker that creates no topics, checks rights, and asks for a password at one port."""

from __future__ import annotations

import uuid
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from outbox.testing import by_key, collect
from outbox.transports import kafka
from outbox.transports.kafka.transactional import TransactionalKafkaPublisher
from tests.absence import skipped_unless_ci
from tools.servers import kafka as kafka_server
from tools.servers.kafka import JARS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.transports.kafka.publishing import KafkaPublisher
    from tools.servers import KafkaServer

CLUSTER: Final = "kafka-cluster"
"""What Kafka calls the cluster where it is the object of a right."""


class StrictKafka:
    """The broker, its administration and its topics."""

    def __init__(self, server: KafkaServer) -> None:
        self.address = server.bootstrap_servers
        self.login_address = server.listener("LOGIN")
        self.admin = AdminClient({"bootstrap.servers": self.address})

    def topic(self, **config: str) -> str:
        name = f"strict-{uuid.uuid4().hex}"
        self.create(name, **config)
        return name

    def create(self, name: str, **config: str) -> None:
        settings = {key.replace("_", "."): value for key, value in config.items()}
        self.admin.create_topics([NewTopic(name, 1, config=settings)])[name].result()

    def limit(self, topic: str, max_bytes: int) -> None:
        entry = ConfigEntry(
            "max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET
        )
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        self.admin.incremental_alter_configs([resource])[resource].result()

    def deny(self, topic: str, operation: AclOperation) -> None:
        self._deny(ResourceType.TOPIC, topic, operation)

    def deny_cluster(self, operation: AclOperation) -> None:
        self._deny(ResourceType.BROKER, CLUSTER, operation)

    def allow_everything(self, topic: str) -> None:
        self._allow(ResourceType.TOPIC, topic)

    def allow_cluster(self) -> None:
        self._allow(ResourceType.BROKER, CLUSTER)

    def _deny(self, kind: ResourceType, name: str, operation: AclOperation) -> None:
        everyone = ("User:*", "*", AclOperation.ALL, AclPermissionType.ALLOW)
        denied = ("User:*", "*", operation, AclPermissionType.DENY)
        for acl in (everyone, denied):
            binding = AclBinding(kind, name, ResourcePatternType.LITERAL, *acl)
            self.admin.create_acls([binding])[binding].result()

    def _allow(self, kind: ResourceType, name: str) -> None:
        denied = ("User:*", "*", AclOperation.ANY, AclPermissionType.DENY)
        chosen = AclBindingFilter(kind, name, ResourcePatternType.LITERAL, *denied)
        self.admin.delete_acls([chosen])[chosen].result()

    def publisher(
        self, delivery: str = "at-least-once", timeout: float = 5.0, **options: Any
    ) -> KafkaPublisher | TransactionalKafkaPublisher:
        settings = {"bootstrap_servers": self.address, "delivery": delivery} | options
        made = kafka.publisher("route", kafka.Options(**settings), timeout)
        if isinstance(made, TransactionalKafkaPublisher):
            made.take_over(uuid.uuid4().hex)
        return made

    def arrived(self, topic: str, count: int) -> dict[bytes | None, list[bytes]]:
        options = kafka.Options(bootstrap_servers=self.address)
        reader = kafka.subscriber("route", options, uuid.uuid4().hex, [topic])
        with closing(reader) as subscriber:
            found = by_key(collect(subscriber, count))
            assert not subscriber.receive(1, 0.2)
        return found


@contextmanager
def strict_kafka(password: str) -> Iterator[StrictKafka]:
    """Run it; the user `app` has the password."""
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    properties = {
        "auto.create.topics.enable": "false",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.login.plain.sasl.jaas.config": (
            f'{module} required username="app" password="{password}" user_app="{password}";'
        ),
    }
    with skipped_unless_ci():
        JARS.find()
    with kafka_server(properties=properties, listeners={"LOGIN": "SASL_PLAINTEXT"}) as server:
        yield StrictKafka(server)
