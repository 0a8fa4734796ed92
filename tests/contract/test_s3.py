from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from outbox.testing import Features, PublisherContract, SubscriberContract
from outbox.transports import s3 as transport_module
from tests.absence import skipped_unless_ci
from tests.fix_s3 import new_bucket
from tools.servers import s3
from tools.servers.s3 import JARS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.transport import Publisher, Subscriber
    from tools.servers import S3Server


class S3UnderTest:
    oversize = 1_000_000

    def __init__(self, server: S3Server, **changed: Any) -> None:
        self.server = server
        self.options = transport_module.Options(
            **new_bucket(server.url()).options,
            **({"max_object_bytes": 1_300_000, "partitions": 8, "member_seconds": 3} | changed),
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
def server() -> Iterator[S3Server]:
    with skipped_unless_ci():
        JARS.find()
    with s3() as server:
        yield server


@pytest.mark.s3
class TestS3(PublisherContract, SubscriberContract):
    features = Features(name="s3, json", delivery="exactly-once", survives_restart=True)

    @pytest.fixture
    def transport(self, server: S3Server) -> S3UnderTest:
        return S3UnderTest(server)


@pytest.mark.s3
class TestS3Lines(PublisherContract, SubscriberContract):
    features = Features(name="s3, jsonl", delivery="exactly-once", survives_restart=True)

    @pytest.fixture
    def transport(self, server: S3Server) -> S3UnderTest:
        return S3UnderTest(server, format="jsonl", compression="zstd", batch_events=10)
