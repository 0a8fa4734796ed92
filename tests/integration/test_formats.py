"""A route with a schema registry, on real servers; Confluent's own serializers at its ends."""

from __future__ import annotations

import json
import logging
import uuid
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import Producer
from confluent_kafka.schema_registry import (
    Schema,
    SchemaRegistryClient,
    record_subject_name_strategy,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import message_factory
from google.protobuf.json_format import MessageToDict
from pydantic import BaseModel
from sqlalchemy.orm import Session

import outbox
from outbox.codec import to_headers
from outbox.dead_letter import Filter, find
from outbox.formats import codec, protobuf
from outbox.formats.wire import head_of
from outbox.settings import Settings
from outbox.table import outbox_checkpoint, outbox_dead_letter
from outbox.testing import envelope
from outbox.worker import open_worker
from relay.daemon import Relay
from relay.route import Until
from tests.integration.consuming import Base, Effect, effects, working
from tests.waiting import eventually
from tools.servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fix_kafka import TopicFactory
    from tools.servers import RegistryServer

AVRO = {
    "type": "record",
    "namespace": "tests.formats",
    "name": "avro",
    "fields": [
        {"name": "key", "type": "string"},
        {"name": "n", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
PROTO = """syntax = "proto3";
package tests.formats;
import "google/protobuf/timestamp.proto";
message Proto {
  string key = 1;
  int64 n = 2;
  google.protobuf.Timestamp at = 3;
  optional string note = 4;
}
"""
JSON_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "tests.formats.json",
    "type": "object",
    "properties": {
        "key": {"type": "string"},
        "n": {"type": "integer"},
        "at": {"type": "string"},
        "note": {"type": ["string", "null"]},
    },
    "required": ["key", "n"],
}
TYPES = {
    "tests.formats.avro": ("AVRO", json.dumps(AVRO)),
    "tests.formats.proto": ("PROTOBUF", PROTO),
    "tests.formats.json": ("JSON", json.dumps(JSON_SCHEMA)),
}
AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
MESSAGE = message_factory.GetMessageClass(protobuf.make(codec.Schema(1, "protobuf", PROTO))._first)


class Made(BaseModel):
    key: str
    n: int
    at: datetime = AT
    note: str | None = None


@outbox.event("tests.formats.avro", key="key")
class AvroMade(Made):
    pass


@outbox.event("tests.formats.proto", key="key")
class ProtoMade(Made):
    pass


@outbox.event("tests.formats.json", key="key")
class JsonMade(Made):
    pass


@outbox.event("tests.formats.plain", key="key")
class PlainMade(Made):
    pass


CLASSES = (AvroMade, ProtoMade, JsonMade, PlainMade)


def register(url: str) -> None:
    with client_of(url) as client:
        for name, (kind, text) in TYPES.items():
            client.register_schema(name, Schema(text, kind))


def client_of(url: str) -> Any:
    """Return Confluent's client, which is closed at the end of a block."""
    return SchemaRegistryClient({"url": url})


class World:
    """A database, a topic and the settings that connect them by a registry."""

    def __init__(self, engine: sa.Engine, broker: str, topic: str, registry: str) -> None:
        self.engine = engine
        self.topic = topic
        self.broker = broker
        self.registry = registry
        self.client = client_of(registry)

    def settings(self, **changed: Any) -> Settings:
        url = self.engine.url.render_as_string(hide_password=False)
        formats = {"*.avro": "avro", "*.proto": "protobuf", "*.json": "jsonschema"}
        route = {
            "transport": "kafka",
            "bootstrap_servers": self.broker,
            "topic": self.topic,
            "retry_max_seconds": 0.2,
            "lease_seconds": 4,
            "schemas": {"registry": self.registry, "formats": formats},
        }
        return Settings.model_validate(
            {"database_url": url, "source": "/tests", "routes": {"kafka": route | changed}}
        )

    def emit(self, *events: Made) -> None:
        with Session(self.engine) as session, session.begin():
            for event in events:
                session.execute(sa.select(1))
                outbox.emit(session, event)

    def drain(self, **changed: Any) -> Any:
        return Relay(self.settings(**changed)).run(until=Until.DRAINED).routes["kafka"]

    def records(self, count: int) -> list[Any]:
        config = {
            "bootstrap.servers": self.broker,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
        consumer = KafkaConsumer(config)
        consumer.subscribe([self.topic])
        found: list[Any] = []

        def has_all() -> bool:
            found.extend(consumer.consume(count - len(found), 0.5))
            return len(found) == count

        with closing(consumer):
            eventually(has_all)
        return found

    def letters(self) -> list[Any]:
        with self.engine.connect() as connection:
            return list(find(connection, Filter(), 100))

    def error(self) -> str | None:
        with self.engine.connect() as connection:
            return connection.scalar(sa.select(outbox_checkpoint.c.error))

    @contextmanager
    def working(self, consumer: outbox.Consumer) -> Iterator[None]:
        with working(open_worker(consumer, self.settings())):
            yield

    def consumer(self) -> outbox.Consumer:
        Base.metadata.create_all(self.engine)
        consumer = outbox.Consumer(f"c{uuid.uuid4().hex[:8]}", database=self.engine)

        def write(event: Any, context: Any) -> None:
            assert isinstance(event, Made)
            assert event.at == AT
            context.session.add(Effect(key=f"{event.key}/{event.note}", n=event.n))

        for cls in CLASSES:
            consumer.on(cls)(write)
        return consumer


@pytest.fixture
def world(
    sqlite_engine: sa.Engine, kafka_server: str, new_topic: TopicFactory, registry_url: str
) -> Iterator[World]:
    register(registry_url)
    world = World(sqlite_engine, kafka_server, new_topic(1), registry_url)
    with world.client:
        yield world


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_consumers_of_confluent_read_what_a_relay_writes(world: World, delivery: str) -> None:
    world.emit(*(cls(key="k", n=number) for number, cls in enumerate(CLASSES)))
    summary = world.drain(delivery=delivery)
    assert (summary.published, summary.dead, summary.error) == (4, 0, None)
    avro, proto, as_json, plain = world.records(4)
    context = SerializationContext(world.topic, MessageField.VALUE)
    client = world.client
    assert AvroDeserializer(client)(avro.value(), context) == {
        "key": "k",
        "n": 0,
        "at": AT,
        "note": None,
    }
    # Without a registry, because it asks for a form of the schema that this one does not have.
    message: Any = ProtobufDeserializer(MESSAGE, {})(proto.value(), context)
    assert MessageToDict(message) == {"key": "k", "n": "1", "at": "2026-01-02T03:04:05.000006Z"}
    strategy = {"subject.name.strategy": record_subject_name_strategy}
    read_json = JSONDeserializer(json.dumps(JSON_SCHEMA), None, client, strategy)
    assert read_json(as_json.value(), context)["n"] == 2
    assert json.loads(plain.value())["n"] == 3
    media = [dict(record.headers())["content-type"] for record in (avro, proto, as_json, plain)]
    assert media == [
        *(b"application/vnd.confluent.avro", b"application/vnd.confluent.protobuf"),
        *(b"application/vnd.confluent.json", b"application/json"),
    ]


def test_what_a_relay_writes_is_to_the_byte_what_confluents_serializers_write(
    world: World,
) -> None:
    world.emit(*(cls(key="k", n=7, note="é") for cls in CLASSES[:3]))
    world.drain()
    avro, proto, as_json = world.records(3)
    made = written(world, {"key": "k", "n": 7, "at": AT, "note": "é"})
    assert [avro.value(), proto.value()] == made[:2]
    assert as_json.value()[:5] == made[2][:5]
    assert json.loads(as_json.value()[5:]) == json.loads(made[2][5:])


def written(world: World, values: dict[str, Any]) -> list[bytes]:
    """Return what Confluent's serializers make of the same values, by the same schemas."""
    client = world.client
    context = SerializationContext(world.topic, MessageField.VALUE)
    common = {
        "auto.register.schemas": False,
        "subject.name.strategy": record_subject_name_strategy,
    }
    avro = AvroSerializer(client, TYPES["tests.formats.avro"][1], conf=common)
    as_json = JSONSerializer(TYPES["tests.formats.json"][1], client, conf=common)
    message: Any = MESSAGE(key=values["key"], n=values["n"], note=values["note"])
    message.at.FromDatetime(values["at"])
    # The schema that it would register is not the text that the registry has.
    head = head_of(client.get_version("tests.formats.proto", 1).schema_id)
    plain = {**values, "at": values["at"].isoformat().replace("+00:00", "Z")}
    found = [
        avro(values, context),
        head + b"\0" + message.SerializeToString(),
        as_json(plain, context),
    ]
    return [each or b"" for each in found]


def test_a_worker_handles_what_a_relay_writes_as_the_same_typed_events(world: World) -> None:
    world.emit(*(cls(key="k", n=number, note="é") for number, cls in enumerate(CLASSES)))
    world.drain()
    with world.working(world.consumer()):
        eventually(lambda: effects(world.engine) == [("k/é", number) for number in range(4)])
    assert world.letters() == []


def test_a_worker_handles_what_a_foreign_producer_writes(world: World) -> None:
    client = world.client
    context = SerializationContext(world.topic, MessageField.VALUE)
    own = {"auto.register.schemas": True, "subject.name.strategy": record_subject_name_strategy}
    foreign = ProtobufSerializer(MESSAGE, client, own)
    message: Any = MESSAGE(key="p", n=1)
    message.at.FromDatetime(AT)
    avro, _, as_json = written(world, {"key": "a", "n": 0, "at": AT, "note": None})
    values = [
        ("tests.formats.avro", avro, "application/avro"),
        ("tests.formats.proto", foreign(message, context), "application/x-protobuf"),
        ("tests.formats.json", as_json, "application/json"),
    ]
    producer = Producer({"bootstrap.servers": world.broker})
    for name, value, media in values:
        headers: Any = to_headers(envelope(None, type=name, content_type=media))
        producer.produce(world.topic, value, b"k", headers=headers)
    assert producer.flush(20) == 0
    with world.working(world.consumer()):
        eventually(lambda: len(effects(world.engine)) == 3)
    assert {key for key, _ in effects(world.engine)} == {"a/None", "p/None"}
    assert world.letters() == []


def test_unknown_media_types_pass_through_as_bytes(world: World) -> None:
    data = b"\0\0\0\0\1\xff"
    consumer = outbox.Consumer(f"c{uuid.uuid4().hex[:8]}", database=world.engine)
    seen: list[Any] = []
    consumer.on("tests.formats.icon")(lambda event, context: seen.append((event, context)))
    with world.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO outbox_event (id, type, content_type, data)"
                " VALUES ('i', 'tests.formats.icon', 'image/x-icon', :data)"
            ),
            {"data": data},
        )
    world.drain()
    assert world.records(1)[0].value() == data
    with world.working(consumer):
        eventually(lambda: seen)
    assert seen[0][0] == data


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_what_does_not_fit_is_a_dead_letter_and_parks_its_key_alone(
    world: World, delivery: str
) -> None:
    with world.engine.begin() as connection:
        for name, key, data in [
            ("tests.formats.avro", "a", '{"key":"a","n":"secret","at":"2026-01-02T03:04:05Z"}'),
            ("tests.formats.avro", "a", '{"key":"a","n":2,"at":"2026-01-02T03:04:05Z"}'),
            ("tests.formats.json", "b", '{"key":"b","n":3}'),
        ]:
            connection.execute(
                sa.text("INSERT INTO outbox_event (type, partition_key, data) VALUES (:t, :k, :d)"),
                {"t": name, "k": key, "d": data.encode()},
            )
    summary = world.drain(delivery=delivery)
    assert (summary.published, summary.dead, summary.parked) == (1, 1, 1)
    dead = next(letter for letter in world.letters() if letter.status == "dead")
    assert dead.reason == (
        "the event does not fit version 1 of the subject 'tests.formats.avro': n: is not a number"
        " of kind long"
    )
    assert dead.envelope.content_type == "application/json"


def test_a_missing_subject_holds_the_route_until_it_is_registered(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    name = f"tests.formats.t{uuid.uuid4().hex}.avro"
    world.emit(AvroMade(key="k", n=1))
    with Relay(world.settings(schemas=records_of(world, name))).running():
        eventually(lambda: f"has no subject {name!r}: register" in (world.error() or ""))
        client = world.client
        client.register_schema(name, Schema(json.dumps({**AVRO, "name": "other"}), "AVRO"))
        assert len(world.records(1)) == 1
    assert world.letters() == []


@pytest.mark.parametrize(
    ("rule", "why", "unreadable"),
    [
        ({"pattern": "^\\p{L}+$"}, "is no JSON Schema", 1),
        # Who reads does not look whether the data fits.
        ({"$ref": "#/$defs/none"}, "refers to '/$defs/none', which is nowhere", 0),
    ],
)
def test_a_schema_that_cannot_be_used_holds_its_own_events_alone(
    world: World, caplog: pytest.LogCaptureFixture, rule: dict[str, str], why: str, unreadable: int
) -> None:
    caplog.set_level(logging.ERROR)
    name = f"tests.formats.t{uuid.uuid4().hex}.json"
    text = json.dumps({"type": "object", "properties": {"key": rule}})
    number = world.client.register_schema(name, Schema(text, "JSON"))
    world.emit(JsonMade(key="a", n=1), PlainMade(key="b", n=2))
    schemas = {**records_of(world, name), "formats": {"*.json": "jsonschema"}, "format": "json"}
    schemas["records"] = {"tests.formats.json": name}
    with Relay(world.settings(schemas=schemas, delivery="at-least-once")).running():
        eventually(lambda: why in (world.error() or ""))
        assert repr(name) in (world.error() or "")
        assert json.loads(world.records(1)[0].value())["n"] == 2
    assert world.letters() == []
    producer = Producer({"bootstrap.servers": world.broker})
    event = envelope(None, type="tests.formats.json", content_type="application/json")
    headers: Any = to_headers(event)
    producer.produce(world.topic, head_of(number) + b'{"key":"a","n":3}', b"a", headers=headers)
    assert producer.flush(20) == 0
    with world.working(world.consumer()):
        eventually(lambda: len(effects(world.engine)) + len(world.letters()) == 2)
    reasons = [letter.reason for letter in world.letters()]
    assert [f"cannot be read: schema {number} {why}" in each for each in reasons] == [
        True
    ] * unreadable


def records_of(world: World, name: str) -> dict[str, Any]:
    return {
        "registry": world.registry,
        "format": "avro",
        "records": {"tests.formats.avro": name},
    }


def test_versions_are_those_of_the_registry(world: World) -> None:
    name = f"tests.formats.t{uuid.uuid4().hex}"
    client = world.client
    old = {**AVRO, "fields": [AVRO["fields"][0]]}
    ids = [client.register_schema(name, Schema(json.dumps(each), "AVRO")) for each in (old, AVRO)]
    with world.engine.begin() as connection:
        for version, data in enumerate([b'{"key":"a"}', AvroMade(key="b", n=1).model_dump_json()]):
            connection.execute(
                sa.text(
                    "INSERT INTO outbox_event (type, version, data)"
                    " VALUES ('tests.formats.avro', :version, :data)"
                ),
                {"version": version + 1, "data": data},
            )
    world.drain(schemas=records_of(world, name))
    heads = [int.from_bytes(record.value()[1:5]) for record in world.records(2)]
    assert heads == ids


def test_a_registry_that_is_away_is_an_outage(
    world: World, own_registry: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    register(own_registry.url)
    world.registry = own_registry.url
    own_registry.pause()
    world.emit(AvroMade(key="k", n=1))
    with Relay(world.settings()).running():
        eventually(lambda: "does not answer" in (world.error() or ""))
        own_registry.resume()
        assert len(world.records(1)) == 1
    own_registry.pause()
    caplog.clear()
    with world.working(world.consumer()):
        eventually(lambda: "does not answer" in str([vars(each) for each in caplog.records]))
        own_registry.resume()
        eventually(lambda: effects(world.engine) == [("k/None", 1)])
    assert world.letters() == []


def test_an_address_where_nobody_answers_is_an_outage(world: World) -> None:
    world.registry = f"http://127.0.0.1:{free_port()}"
    world.emit(AvroMade(key="k", n=1))
    with Relay(world.settings()).running():
        eventually(lambda: "Connection refused" in (world.error() or ""))
    assert world.letters() == []


def test_data_that_no_schema_reads_is_a_letter_and_is_read_once_there_is_one(
    world: World,
) -> None:
    producer = Producer({"bootstrap.servers": world.broker})
    event = envelope(None, type="tests.formats.avro", content_type="application/avro")
    headers: Any = to_headers(event)
    producer.produce(world.topic, b"\0\0\xff\xff\xff\2a", b"k", headers=headers)
    headers = to_headers(replace(event, id="other"))
    client = world.client
    head = head_of(client.get_version("tests.formats.avro", 1).schema_id)
    producer.produce(world.topic, head + b"\xff", b"other", headers=headers)
    assert producer.flush(20) == 0
    with world.working(world.consumer()):
        eventually(lambda: len(world.letters()) == 2)
        first, second = world.letters()
        assert "has no schema 16777215, which its data was written by" in first.reason
        assert "does not fit its Avro schema" in second.reason
        good = written(world, {"key": "k", "n": 1, "at": AT, "note": None})[0]
        with world.engine.begin() as connection:
            connection.execute(
                sa.update(outbox_dead_letter)
                .where(outbox_dead_letter.c.id == first.id)
                .values(data=good, status="requested")
            )
        eventually(lambda: effects(world.engine) == [("k/None", 1)])
