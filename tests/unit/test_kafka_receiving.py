from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from outbox.errors import UsageError
from outbox.transport import Delivery, Message
from outbox.transports import kafka
from outbox.transports.kafka.receiving import KafkaSubscriber, Partition

PLACE = Partition("t", 0)


class FakeConsumer:
    """A consumer that remembers what was committed."""

    def __init__(self) -> None:
        self.commits: list[int] = []

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        self.commits += [offset.offset for offset in offsets]

    def poll(self, _timeout: float) -> None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def consumer() -> FakeConsumer:
    return FakeConsumer()


@pytest.fixture
def subscriber(consumer: FakeConsumer) -> KafkaSubscriber:
    """A member that owns one partition and has offsets 0 to 9 of it out."""
    options = kafka.Options(bootstrap_servers="127.0.0.1:1")
    member: Any = KafkaSubscriber("route", options, "g", ["t"])
    member._consumer = consumer
    member._on_assign(consumer, [TopicPartition(*PLACE)])
    for offset in range(10):
        member._ledger.deliver(PLACE, offset)
    made: KafkaSubscriber = member
    return made


def deliveries(*offsets: int) -> list[Delivery]:
    message = Message("t", None, (), b"")
    return [Delivery(message, "", (PLACE, offset)) for offset in offsets]


def answer(subscriber: KafkaSubscriber, offset: int, code: int) -> None:
    place: Any = SimpleNamespace(topic="t", partition=0, offset=offset, error=KafkaError(code))
    subscriber._on_commit(None, [place])


def test_a_commit_that_the_broker_did_not_take_is_sent_again(
    subscriber: KafkaSubscriber, consumer: FakeConsumer
) -> None:
    subscriber.ack(deliveries(0, 1))
    answer(subscriber, 2, KafkaError.NOT_COORDINATOR)
    subscriber.receive(1, 0)
    assert consumer.commits == [2, 2]


def test_a_failed_commit_never_moves_a_later_one_back(
    subscriber: KafkaSubscriber, consumer: FakeConsumer
) -> None:
    subscriber.ack(deliveries(0, 1))
    subscriber.ack(deliveries(2, 3))
    answer(subscriber, 2, KafkaError.NOT_COORDINATOR)
    subscriber.receive(1, 0)
    assert consumer.commits == [2, 4]


def test_a_commit_of_an_ousted_member_is_dropped(
    subscriber: KafkaSubscriber, consumer: FakeConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.ack(deliveries(0))
    answer(subscriber, 1, KafkaError.ILLEGAL_GENERATION)
    subscriber.receive(1, 0)
    assert consumer.commits == [1]
    assert "acknowledgement dropped: t[0] was lost" in caplog.text


def test_an_acknowledgement_after_the_partition_went_is_dropped(
    subscriber: KafkaSubscriber, consumer: FakeConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    member: Any = subscriber
    member._on_revoke(consumer, [TopicPartition(*PLACE)])
    subscriber.ack(deliveries(0, 1))
    assert consumer.commits == []
    assert "t[0] was given to another member with events unsettled" in caplog.text


def test_partitions_that_are_taken_are_logged_by_name(
    subscriber: KafkaSubscriber, consumer: FakeConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    member: Any = subscriber
    member._on_assign(consumer, [TopicPartition(*PLACE), TopicPartition("t", 1)])
    (record,) = caplog.records
    assert vars(record)["partitions"] == ["t[0]", "t[1]"]


def test_what_was_acknowledged_is_committed_before_the_partition_goes(
    subscriber: KafkaSubscriber, consumer: FakeConsumer
) -> None:
    subscriber.ack(deliveries(0))
    answer(subscriber, 1, KafkaError.NOT_COORDINATOR)
    member: Any = subscriber
    member._on_revoke(consumer, [TopicPartition(*PLACE)])
    assert consumer.commits == [1, 1]


def test_a_closed_subscriber_receives_no_more(subscriber: KafkaSubscriber) -> None:
    subscriber.close()
    subscriber.close()
    with pytest.raises(UsageError, match="closed"):
        subscriber.receive(1, 0)
