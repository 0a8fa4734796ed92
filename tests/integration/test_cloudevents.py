"""Real brokers between this library and the official SDK of CloudEvents, both ways."""

from __future__ import annotations

import uuid
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Consumer, Producer

from outbox.reading import read_all
from outbox.testing import collect, envelope
from outbox.transport import PUBLISHED
from outbox.transports import activemq, kafka, s3
from tests.cloudevents_sdk import equals, matches, message_of, read_binary, read_json
from tests.stomp import stomp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope
    from outbox.transport import Publisher, Subscriber
    from tests.fix_kafka import TopicFactory
    from tests.fix_s3 import Bucket

ZONE = timezone(timedelta(hours=-9, minutes=-30))


def ours(topic: str) -> list[Envelope]:
    """Return events of every kind that the envelope has."""
    made = [
        envelope(topic, "Zürich", b'{"a":[1,"\xe2\x98\x83"]}', subject="Straße/☃"),
        envelope(topic, None, b"", time=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=ZONE)),
        envelope(topic, "k", b"a;b\n", content_type="text/csv; charset=utf-8", actor="user:42"),
        envelope(topic, "k", b"\x89PNG\xff\0", content_type="image/png", version=3),
        envelope(
            topic,
            "k",
            b"null ",
            correlation_id="c-1",
            causation_id="c-2",
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            tracestate="a=1,b=2",
            dataschema="https://example.org/s?a=b&c=%20d#e",
            headers={"X-Tenant": "eu:1", "empty": ""},
        ),
    ]
    return [replace(event, sequence=number) for number, event in enumerate(made, 4711)]


def theirs() -> list[CloudEvent]:
    """Return events of every kind that the SDK makes."""
    required = {"source": "/käse", "type": "com.example.made", "partitionkey": "p"}
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    return [
        CloudEvent({**required, "id": "1", "time": moment, "subject": "☃"}, {"a": [1, None, "☃"]}),
        CloudEvent({**required, "id": "2", "time": moment.astimezone(ZONE)}, None),
        CloudEvent({**required, "id": "3", "datacontenttype": "text/plain", "region": "eu"}, "é"),
        CloudEvent(
            {**required, "id": "4", "datacontenttype": "image/png", "retries": 3}, b"\x89\xff\0"
        ),
        CloudEvent({**required, "id": "5", "sequence": "a-17", "sampledrate": 30}, {}),
    ]


def publish(publisher: Publisher, events: Sequence[Envelope]) -> None:
    with closing(publisher):
        assert list(publisher.publish(events)) == [PUBLISHED] * len(events)


def received(subscriber: Subscriber, count: int) -> list[Envelope]:
    with closing(subscriber):
        found = read_all(collect(subscriber, count))
    assert [each.error for each in found] == [None] * count
    return [each.content for each in found]  # type: ignore[misc]  # they are all events


def by_id(events: Sequence[Envelope]) -> list[Envelope]:
    return sorted(events, key=lambda event: event.id)


def test_the_sdk_reads_what_we_put_on_kafka(kafka_server: str, new_topic: TopicFactory) -> None:
    topic = new_topic(1)
    events = ours(topic)
    options = kafka.Options(bootstrap_servers=kafka_server, delivery="at-least-once")
    publish(kafka.publisher("route", options, 20), events)
    config = {"bootstrap.servers": kafka_server, "group.id": topic, "auto.offset.reset": "earliest"}
    consumer = Consumer(config)
    consumer.subscribe([topic])
    with closing(consumer):
        records = consumer.consume(len(events), 30)
    for record, event in zip(records, events, strict=True):
        headers: Any = record.headers()
        seen = read_binary(record.key(), dict(headers), record.value() or b"")
        assert equals(seen, event)


@pytest.mark.parametrize("structured", [False, True])
def test_we_read_what_the_sdk_puts_on_kafka(
    kafka_server: str,
    new_topic: TopicFactory,
    structured: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    topic = new_topic(1)
    producer = Producer({"bootstrap.servers": kafka_server})
    made = theirs()
    for event in made:
        message = message_of(event, structured=structured)
        producer.produce(topic, message.value, message.key, headers=list(message.headers.items()))
    assert producer.flush(20) == 0
    options = kafka.Options(bootstrap_servers=kafka_server)
    found = received(kafka.subscriber("route", options, topic, [topic]), len(made))
    assert all(matches(ours, event) for ours, event in zip(found, made, strict=True))


def test_the_sdk_reads_what_we_put_on_activemq(activemq_server: str) -> None:
    topic = f"ce-{uuid.uuid4().hex}"
    events = ours(topic)
    options = activemq.Options(brokers=activemq_server, destination="queue")
    publish(activemq.publisher("route", options, 20), events)
    with stomp(activemq_server) as client:
        client.send("SUBSCRIBE", {"id": "1", "destination": f"/queue/{topic}"})
        frames = [client.receive() for _ in events]
    for frame, event in zip(frames, events, strict=True):
        headers = {name: value.encode() for name, value in frame.headers.items()}
        assert equals(read_binary(None, headers, frame.body), event)


@pytest.mark.parametrize("structured", [False, True])
def test_we_read_what_the_sdk_puts_on_activemq(
    activemq_server: str,
    structured: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    topic = f"ce-{uuid.uuid4().hex}"
    made = theirs()
    with stomp(activemq_server) as client:
        for event in made:
            message = message_of(event, structured=structured)
            headers = {name: value.decode() for name, value in message.headers.items()}
            client.send(
                "SEND",
                {"destination": f"/queue/{topic}", "persistent": "true", **headers},
                message.value,
            )
        options = activemq.Options(brokers=activemq_server, destination="queue")
        found = received(activemq.subscriber("route", options, "g", [topic]), len(made))
    assert all(matches(ours, event) for ours, event in zip(found, made, strict=True))


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_the_sdk_reads_what_we_put_on_s3(bucket: Bucket, form: str) -> None:
    events = ours("ce")
    options = s3.Options(**bucket.options, format=form, key="{id}.json")
    publish(s3.publisher("route", options, 20), events)
    bodies = [bucket.read(key) for key in bucket.data_keys()]
    lines = [line for body in bodies for line in body.splitlines()]
    seen = {event.get_id(): event for event in map(read_json, lines)}
    for event in events:
        found = seen[event.id]
        # The data of structured mode is bytes where it is neither JSON nor absent.
        attributes = dict(found.get_attributes())
        own = attributes.pop("outboxheaders", None)
        assert (own is not None) == bool(event.headers)
        data = found.get_data()
        if isinstance(data, bytes) and event.content_type.startswith("text/"):
            data = data.decode()
        again = CloudEvent(attributes, data or None)
        assert equals(again, event)


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_we_read_what_the_sdk_puts_on_s3(bucket: Bucket, form: str) -> None:
    made = theirs()
    options = s3.Options(**bucket.options, format=form, key="{id}.json", partitions=1)
    # The log names objects of ours, which another tool has written anew.
    publish(s3.publisher("route", options, 20), [envelope("ce", "p") for _ in made])
    keys = bucket.data_keys()
    lines = [JSONFormat().write(event) for event in made]
    bodies = lines if form == "json" else [b"\n".join([*lines, b""])]
    for key, body in zip(keys, bodies, strict=True):
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=body)
    found = by_id(received(s3.subscriber("route", options, "g", ["ce"]), len(made)))
    assert all(matches(ours, event) for ours, event in zip(found, made, strict=True))
