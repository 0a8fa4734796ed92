"""The example of docs/guide/transports.md that has both sides, under both suites."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from outbox.errors import DestinationRefusedError
from outbox.testing import (
    Features,
    PublisherContract,
    SubscriberContract,
    by_key,
    collect,
    numbered,
    publish_all,
)
from outbox.transport import Retry
from tests.table import code, example, make_tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from outbox.transport import Publisher, Subscriber


class TableUnderTest:
    oversize = 1_000_001

    def __init__(self, file: Path) -> None:
        self._file = file
        self.module = example()
        self._options = self.module.Options(file=str(file))

    def topic(self) -> str:
        return uuid.uuid4().hex

    def publisher(self, timeout: float) -> Publisher:
        made: Publisher = self.module.publisher("route", self._options, timeout)
        return made

    def subscriber(self, group: str, topic: str) -> Subscriber:
        made: Subscriber = self.module.subscriber("route", self._options, group, [topic])
        return made

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Keep everybody from the file, as somebody does who locks it and does not come back."""
        with closing(sqlite3.connect(self._file, isolation_level=None)) as locking:
            locking.execute("BEGIN EXCLUSIVE")
            yield

    def restart(self) -> None:
        """A file has no process of its own."""


class TestTable(PublisherContract, SubscriberContract):
    features = Features(name="table", delivery="at-least-once", survives_restart=True)

    @pytest.fixture
    def transport(self, tmp_path: Path) -> TableUnderTest:
        file = tmp_path / "events.db"
        make_tables(file)
        return TableUnderTest(file)


def test_a_member_that_receives_no_more_is_given_up(tmp_path: Path) -> None:
    file = tmp_path / "events.db"
    make_tables(file)
    transport = TableUnderTest(file)
    now = 1_800_000_000.0
    transport.module.time = lambda: now
    topic = filled(transport)
    with closing(transport.subscriber("g", topic)) as silent:
        held = collect(silent, 12)
        with closing(transport.subscriber("g", topic)) as heir:
            assert not heir.receive(1, 0)
            now += 61
            assert by_key(collect(heir, 12)) == by_key(held)
            silent.ack(held)
        with closing(transport.subscriber("g", topic)) as third:
            assert by_key(collect(third, 12)) == by_key(held)


def test_what_was_acknowledged_in_an_outage_is_stored_after_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "events.db"
    make_tables(file)
    transport = TableUnderTest(file)
    topic = filled(transport)
    with closing(transport.subscriber("g", topic)) as subscriber:
        deliveries = collect(subscriber, 12)
        with transport.outage():
            subscriber.ack(deliveries)
        assert "to be settled later: " in caplog.text
        assert not subscriber.receive(1, 0)
    with closing(transport.subscriber("g", topic)) as heir:
        assert not heir.receive(1, 0.2)


def test_a_file_without_its_tables_needs_an_operator(tmp_path: Path) -> None:
    transport = TableUnderTest(tmp_path / "events.db")
    with closing(transport.publisher(3.0)) as publisher:
        (outcome,) = publisher.publish(numbered("t", 1))
    assert isinstance(outcome, Retry)
    assert isinstance(outcome.error, DestinationRefusedError)
    with (
        closing(transport.subscriber("g", "t")) as subscriber,
        pytest.raises(DestinationRefusedError, match="no such table: progress"),
    ):
        subscriber.receive(1, 0)


def filled(transport: TableUnderTest) -> str:
    """Publish 12 events to a topic, and return its name."""
    topic = transport.topic()
    with closing(transport.publisher(3.0)) as publisher:
        publish_all(publisher, numbered(topic, 12))
    return topic


def test_the_example_is_as_long_as_an_example_may_be() -> None:
    assert len([line for line in code().splitlines() if line.strip()]) <= 130
