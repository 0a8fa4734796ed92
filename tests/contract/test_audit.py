"""The audit transport under the suite of publishers, as far as a trail can be read back.

A record has the digest of an event's data in place of them, and not every attribute; so what is
read back is looked up by its digest, and no event is ever too large.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox.audit.record import digest
from outbox.audit.store import TableChain
from outbox.codec import to_headers
from outbox.testing import Features, PublisherContract, envelope, publishing
from outbox.transport import PUBLISHED, Delivery, Message
from outbox.transports.audit.publishing import AuditPublisher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outbox.envelope import Envelope
    from outbox.testing import TransportUnderTest
    from outbox.transport import Outcome, Publisher, Subscriber


class Remembering:
    """A publisher that remembers what the trail does not keep."""

    def __init__(self, inner: AuditPublisher, sent: dict[bytes, Envelope]) -> None:
        self._inner = inner
        self._sent = sent

    def publish(self, batch: Sequence[Envelope], /) -> Sequence[Outcome]:
        self._sent.update({digest(each.content_type, each.data): each for each in batch})
        return self._inner.publish(batch)

    def close(self) -> None:
        self._inner.close()


class Read:
    """A subscriber that reads the trail."""

    def __init__(self, chain: TableChain, sent: dict[bytes, Envelope]) -> None:
        self._chain = chain
        self._sent = sent
        self._position = 0

    def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
        del timeout
        found = next(self._chain.pages(self._position), [])[:limit]
        if found:
            self._position = found[-1].position
        return [self._delivery(record.data_digest, str(record.position)) for record in found]

    def _delivery(self, data_digest: bytes, place: str) -> Delivery:
        event = self._sent[data_digest]
        key = None if event.partition_key is None else event.partition_key.encode()
        return Delivery(Message("any", key, to_headers(event), event.data), place, None)

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        raise NotImplementedError

    nack = ack

    def close(self) -> None:
        pass


class AuditUnderTest:
    oversize = 1_000_000

    def __init__(self, url: sa.URL) -> None:
        self.url = url
        self.sent: dict[bytes, Envelope] = {}

    def topic(self) -> str:
        return "any"

    def publisher(self, timeout: float) -> Publisher:
        return Remembering(AuditPublisher(self.url, timeout), self.sent)

    def subscriber(self, group: str, topic: str) -> Subscriber:
        del group, topic
        return Read(TableChain(sa.create_engine(self.url, poolclass=sa.NullPool)), self.sent)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Let another one write to the file for as long as it likes."""
        with closing(sqlite3.connect(self.url.database or "")) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    def restart(self) -> None:
        pass


class TestAudit(PublisherContract):
    features = Features(name="audit", delivery="exactly-once", survives_restart=True)

    @pytest.fixture
    def transport(self, sqlite_url: str) -> AuditUnderTest:
        return AuditUnderTest(sa.make_url(sqlite_url))

    def test_each_envelope_has_an_outcome_in_order(self, transport: TransportUnderTest) -> None:
        """None is refused, however large."""
        batch = [envelope(None, "k", bytes(size), sequence=size) for size in (1, 5_000_000)]
        with publishing(transport) as publisher:
            assert list(publisher.publish(batch)) == [PUBLISHED] * 2

    def test_what_the_destination_never_takes_is_dead_alone(
        self, transport: TransportUnderTest
    ) -> None:
        """There is no such event."""
