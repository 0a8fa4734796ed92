from __future__ import annotations

import threading
import time
import uuid
from contextlib import closing
from typing import TYPE_CHECKING

from confluent_kafka.admin import AdminClient, NewTopic

from outbox.errors import BrokerUnavailableError
from outbox.testing import (
    collect,
    collect_through,
    expected,
    first_arrivals,
    numbered,
    publish_all,
)
from outbox.transport import PUBLISHED, Published, Retry
from outbox.transports import kafka
from outbox.transports.kafka import receiving
from outbox.transports.kafka.publishing import KafkaPublisher

if TYPE_CHECKING:
    import pytest

    from outbox.transports.kafka.receiving import KafkaSubscriber
    from tools.servers import KafkaServer

TIMEOUT = 2.0


def new_topic(server: KafkaServer) -> str:
    name = f"outage-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": server.bootstrap_servers})
    admin.create_topics([NewTopic(name, 3)])[name].result()
    return name


def make_publisher(server: KafkaServer, timeout: float = TIMEOUT) -> KafkaPublisher:
    options = kafka.Options(bootstrap_servers=server.bootstrap_servers, delivery="at-least-once")
    return KafkaPublisher("route", options, timeout)


def make_subscriber(server: KafkaServer, topic: str) -> KafkaSubscriber:
    # A member outlives every outage here: a broker that starts slowly takes no partition away.
    options = kafka.Options(
        bootstrap_servers=server.bootstrap_servers, consumer={"session.timeout.ms": "60000"}
    )
    return kafka.subscriber("route", options, uuid.uuid4().hex, [topic])


def test_a_broker_killed_and_restarted_in_the_middle_loses_and_reorders_nothing(
    own_kafka: KafkaServer,
) -> None:
    topic = new_topic(own_kafka)
    events = numbered(topic, 20_000, keys=50)
    is_started = threading.Event()

    def kill_and_restart() -> None:
        is_started.wait()
        own_kafka.kill()
        own_kafka.start()

    killer = threading.Thread(target=kill_and_restart)
    killer.start()
    repeated = 0
    with closing(make_publisher(own_kafka)) as publisher:
        pending = list(events)
        deadline = time.monotonic() + 60
        while pending and time.monotonic() < deadline:
            page, rest = pending[:1000], pending[1000:]
            outcomes = publisher.publish(page)
            again = [e for e, o in zip(page, outcomes, strict=True) if isinstance(o, Retry)]
            assert all(isinstance(o, Published | Retry) for o in outcomes)
            repeated += len(again)
            pending = again + rest
            if len(pending) <= 15_000:
                is_started.set()
    killer.join()
    assert not pending
    assert repeated, "the broker was killed too late to be noticed"
    with closing(make_subscriber(own_kafka, topic)) as subscriber:
        assert first_arrivals(subscriber, events) == expected(events)


def test_a_broker_frozen_longer_than_the_time_out_reorders_nothing(own_kafka: KafkaServer) -> None:
    topic = new_topic(own_kafka)
    events = numbered(topic, 6_000, keys=30)
    with closing(make_publisher(own_kafka)) as publisher:
        assert publisher.publish(events[:1000]) == [PUBLISHED] * 1000
        own_kafka.pause()
        started_at = time.monotonic()
        outcomes = publisher.publish(events[1000:])
        assert time.monotonic() - started_at < TIMEOUT
        assert all(isinstance(outcome, Retry) for outcome in outcomes)
        assert {type(o.error) for o in outcomes if isinstance(o, Retry)} == {BrokerUnavailableError}
        # Frozen beyond everything that could still expire.
        frozen_until = time.monotonic() + 2.5
        while time.monotonic() < frozen_until:
            assert isinstance(publisher.publish(events[1000:1001])[0], Retry)
        own_kafka.resume()
        publish_all(publisher, events[1000:])
    with closing(make_subscriber(own_kafka, topic)) as subscriber:
        assert first_arrivals(subscriber, events) == expected(events)


def test_a_broker_absent_at_the_start_is_found_when_it_comes(own_kafka: KafkaServer) -> None:
    topic = new_topic(own_kafka)
    events = numbered(topic, 10)
    own_kafka.stop()
    with closing(make_publisher(own_kafka)) as publisher:
        started_at = time.monotonic()
        outcomes = publisher.publish(events)
        assert time.monotonic() - started_at < TIMEOUT
        assert all(isinstance(outcome, Retry) for outcome in outcomes)
        own_kafka.start()
        publish_all(publisher, events)
    with closing(make_subscriber(own_kafka, topic)) as subscriber:
        assert first_arrivals(subscriber, events) == expected(events)


def test_an_acknowledgement_of_an_outage_is_kept(own_kafka: KafkaServer) -> None:
    topic = new_topic(own_kafka)
    events = numbered(topic, 10, keys=1)
    with closing(make_publisher(own_kafka, 10)) as publisher:
        assert publisher.publish(events) == [PUBLISHED] * 10
    subscriber = make_subscriber(own_kafka, topic)
    with closing(subscriber):
        deliveries = collect(subscriber, 10)
        own_kafka.stop()
        subscriber.ack(deliveries[:7])
        own_kafka.start()
        with closing(make_publisher(own_kafka, 10)) as publisher:
            publish_all(publisher, numbered(topic, 1, keys=1, first=10))
        collect_through(subscriber, 1)
    group = subscriber._config["group.id"]
    options = kafka.Options(bootstrap_servers=own_kafka.bootstrap_servers)
    with closing(kafka.subscriber("route", options, group, [topic])) as heir:
        assert [d.message.data for d in collect(heir, 4)] == [b"7", b"8", b"9", b"10"]


def test_leaving_the_group_in_an_outage_does_not_wait_for_its_end(
    own_kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "CLOSE_SECONDS", 1.0)
    topic = new_topic(own_kafka)
    with closing(make_publisher(own_kafka, 10)) as publisher:
        assert publisher.publish(numbered(topic, 1)) == [PUBLISHED]
    subscriber = make_subscriber(own_kafka, topic)
    deliveries = collect(subscriber, 1)
    own_kafka.stop()
    subscriber.ack(deliveries)
    started_at = time.monotonic()
    subscriber.close()
    assert time.monotonic() - started_at < 3
