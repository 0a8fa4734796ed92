"""The example of docs/guide/transports.md under the suite that it recommends."""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from outbox.errors import BrokerUnavailableError, DestinationRefusedError, HeldBackError
from outbox.testing import Features, PublisherContract, envelope
from outbox.transport import PUBLISHED, Dead, Retry
from tests.webhook import LIMIT, Received, ReceivingServer, code, example

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from outbox.transport import Publisher, Subscriber


class WebhookUnderTest:
    oversize = LIMIT + 1

    def __init__(self, server: ReceivingServer) -> None:
        self.server = server
        self._module = example()

    def topic(self) -> str:
        return uuid.uuid4().hex

    def publisher(self, timeout: float) -> Publisher:
        options = self._module.Options(url=self.server.url)
        made: Publisher = self._module.publisher("route", options, timeout)
        return made

    def subscriber(self, group: str, topic: str) -> Subscriber:
        del group
        return Received(self.server, topic)

    def outage(self) -> AbstractContextManager[None]:
        return self.server.silence()

    def restart(self) -> None:
        self.server.restart()


class TestWebhook(PublisherContract):
    features = Features(name="webhook", delivery="at-least-once", survives_restart=True)

    @pytest.fixture
    def transport(self) -> Iterator[WebhookUnderTest]:
        with closing(ReceivingServer()) as server:
            yield WebhookUnderTest(server)

    @pytest.mark.parametrize(
        ("status", "outcome", "error"),
        [
            (401, Retry, DestinationRefusedError),
            (404, Retry, DestinationRefusedError),
            (503, Retry, BrokerUnavailableError),
            (422, Dead, Exception),
        ],
    )
    def test_a_status_says_whose_fault_it_is(
        self, transport: WebhookUnderTest, status: int, outcome: Any, error: type[Exception]
    ) -> None:
        transport.server.status = status
        batch = [envelope("t", "a"), envelope("t", "a"), envelope("t", "b")]
        with closing(transport.publisher(3.0)) as publisher:
            first, second, third = publisher.publish(batch)
            assert isinstance(first, outcome)
            assert isinstance(first.error, error)
            assert str(status) in str(first.error)
            assert isinstance(second, Retry)
            assert isinstance(second.error, HeldBackError) == (outcome is Dead)
            assert isinstance(third, outcome)
            transport.server.status = 204
            assert list(publisher.publish(batch)) == [PUBLISHED] * 3


def test_the_example_is_as_long_as_an_example_may_be() -> None:
    assert len([line for line in code().splitlines() if line.strip()]) <= 65
