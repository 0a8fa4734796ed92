"""AsyncAPI documents of many catalogues, by the specification's own schema."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
import orjson
import pytest
import sqlalchemy as sa
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typing_extensions import TypedDict

import outbox
from outbox import transports
from outbox.asyncapi.broker import outlet
from outbox.asyncapi.document import Info, asyncapi
from outbox.asyncapi.landscape import landscape
from outbox.asyncapi.payload import schema_object
from outbox.cli.output import json_text
from outbox.codec import to_headers
from outbox.event import catalogue
from outbox.settings import ConsumerSettings, Settings
from outbox.structured import encode
from tests.asyncapi_schema import payload, problems, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.event import EventType

URL = SecretStr("sqlite://")
MOMENT = datetime(2026, 1, 2, tzinfo=UTC)
INFO = Info("The shop", "1.2.3")
KAFKA = {"transport": "kafka", "bootstrap_servers": "broker-1:9092"}


class Line(BaseModel):
    sku: Annotated[str, Field(description="What the shelf says.")]
    count: int = 1


@outbox.event(
    "asyncapi.order.placed",
    key="order_id",
    owner="checkout",
    description="A customer ordered.",
    examples=[{"order_id": 1, "lines": [{"sku": "tea", "count": 2}], "pair": ["a", 1]}],
)
class Placed(BaseModel):
    order_id: int
    lines: list[Line]
    gift: Annotated[Line | None, Field(description="Free of charge.")] = None
    pair: tuple[str, int] = ("a", 1)


@outbox.event("asyncapi.order.placed", version=2, key="number")
class PlacedSecond(BaseModel):
    number: Annotated[int, Field(alias="orderNumber")]


@outbox.event("asyncapi.customer.moved", key="customer_id")
@dataclass
class Moved:
    customer_id: str
    street: Annotated[str | None, outbox.Personal]


@outbox.event("asyncapi.parcel")
@attrs.define
class Parcel:
    grams: int = attrs.field(validator=attrs.validators.gt(0))
    labels: list[str] = attrs.field(factory=list)


@outbox.event("flat")
class Flat(TypedDict, total=False):
    size: float


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    owner: Dog | None = None


@outbox.event("asyncapi.pet", examples=[{"pet": {"kind": "dog", "owner": {"kind": "dog"}}}])
class Pet(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Base(DeclarativeBase):
    """Of the tracked class."""


class Account(Base):
    __tablename__ = "asyncapi_account"
    id: Mapped[int] = mapped_column(primary_key=True)
    holder: Mapped[str] = mapped_column(sa.String(50))


Changed = outbox.track(Account, fields=["holder"], type="asyncapi.account", personal=["holder"])

CATALOGUES: dict[str, list[type]] = {
    "nothing": [],
    "nested definitions": [Placed],
    "two versions": [Placed, PlacedSecond],
    "personal": [Moved],
    "attrs": [Parcel],
    "a typed dict without a dot in its type": [Flat],
    "alternatives by a tag, and a class that contains itself": [Pet],
    "tracked": [Changed],
    "all": [Placed, PlacedSecond, Moved, Parcel, Flat, Pet, Changed],
}
ROUTES: dict[str, dict[str, Any]] = {
    "none": {},
    "kafka": {"kafka": KAFKA},
    "a type of its own": {"kafka": {**KAFKA, "types": ["asyncapi.order.*"]}},
    "all transports": {
        "kafka": KAFKA,
        "activemq": {"transport": "activemq", "brokers": "a:61613,b:61613", "groups": ["billing"]},
        "s3": {"transport": "s3", "bucket": "events", "prefix": "shop", "format": "jsonl"},
        "memory": {"transport": "memory"},
        "table": {"transport": "append", "path": "/tmp/hush"},
    },
    "templates": {
        "by key": {**KAFKA, "topic": "{type}.{version}.{partition_key}"},
        "by/subject é": {**KAFKA, "topic": "a.{subject}-{source}"},
        "same": {**KAFKA, "topic": "a.subject-source"},
    },
    "formats": {
        "kafka": {
            **KAFKA,
            "schemas": {"registry": "http://u:hush@registry:8081/api?x=1", "format": "avro"},
        },
        "plain": KAFKA,
    },
    "conditions": {"kafka": {**KAFKA, "where": {"source": "/eu/*", "version": "2"}}},
}


@pytest.fixture(autouse=True)
def append_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of another package, without topics."""
    monkeypatch.setitem(transports.MODULES, "append", "tests.append_transport")


def billing() -> outbox.Consumer:
    consumer = outbox.Consumer("billing", database="sqlite://")
    consumer.on(PlacedSecond)(handle)
    consumer.on("asyncapi.customer.moved")(handle)
    consumer.on("other.service.event")(handle)
    return consumer


def handle(_event: Any, _context: outbox.Context) -> None:
    """Do nothing."""


def types(*classes: type) -> list[EventType]:
    return [catalogue.of(each) for each in classes]


def made(
    classes: Sequence[type],
    routes: dict[str, Any],
    consumers: Sequence[outbox.Consumer] = (),
    **own: ConsumerSettings,
) -> Any:
    settings = Settings(database_url=URL, source="/shop", routes=routes, consumers=own)
    outlets = [outlet(name, each) for name, each in settings.routes.items()]
    found = landscape(settings.source, types(*classes), outlets, consumers, settings.consumers)
    schemas = {name: each.schemas for name, each in settings.routes.items() if each.schemas}
    return asyncapi(found, INFO, schemas)


@pytest.mark.parametrize("classes", CATALOGUES.values(), ids=CATALOGUES)
def test_a_document_of_each_catalogue_is_valid(classes: list[type]) -> None:
    assert problems(made(classes, ROUTES["kafka"], [billing()])) == []


@pytest.mark.parametrize("routes", ROUTES.values(), ids=ROUTES)
def test_a_document_of_all_kinds_of_routes_is_valid(routes: dict[str, Any]) -> None:
    assert problems(made([Placed, PlacedSecond, Moved], routes, [billing()])) == []


def test_a_document_without_consumers_is_valid() -> None:
    assert problems(made([Placed, Flat], ROUTES["kafka"])) == []
    assert problems(made([Placed, Flat], {})) == []


def test_what_is_checked_is_found() -> None:
    document = made([Placed], ROUTES["kafka"], [billing()])
    document["components"]["messages"]["asyncapi.order.placed.v1"]["payload"]["$ref"] += "x"
    document["operations"]["send.kafka.asyncapi.order"]["action"] = "shout"
    assert len(problems(document)) == 2


def test_the_same_declarations_give_the_same_document() -> None:
    one = made([Placed, Moved], ROUTES["all transports"], [billing()])
    other = made([Moved, Placed], ROUTES["all transports"], [billing()])
    assert json_text(one) == json_text(other)


def test_a_topic_of_a_broker_is_a_channel_with_a_message_for_each_version() -> None:
    document = made([Placed, PlacedSecond, Moved], ROUTES["kafka"], [billing()])
    assert set(document["channels"]) == {
        "kafka.asyncapi.customer",
        "kafka.asyncapi.order",
        "kafka.other.service",
    }
    channel = document["channels"]["kafka.asyncapi.order"]
    assert channel["address"] == "asyncapi.order"
    assert list(channel["messages"]) == ["asyncapi.order.placed.v1", "asyncapi.order.placed.v2"]
    assert channel["servers"] == [{"$ref": "#/servers/kafka"}]


def test_routes_to_one_broker_share_its_channels() -> None:
    document = made([Placed], {"one": KAFKA, "two": KAFKA})
    assert list(document["servers"]) == ["one"]
    assert list(document["channels"]) == ["one.asyncapi.order"]
    assert document["operations"]["send.one.asyncapi.order"]["x-routes"] == ["one", "two"]


def test_a_consumer_receives_the_versions_that_it_handles() -> None:
    document = made([Placed, PlacedSecond], ROUTES["kafka"], [billing()])
    operation = document["operations"]["receive.kafka.asyncapi.order.billing"]
    assert operation["action"] == "receive"
    assert [each["$ref"].rpartition("/")[2] for each in operation["messages"]] == [
        "asyncapi.order.placed.v2"
    ]
    assert operation["bindings"]["kafka"]["groupId"]["const"] == "billing"


def test_a_consumer_receives_from_its_own_route_and_topics() -> None:
    own = ConsumerSettings(route="activemq", topics=["asyncapi.order", "misc"])
    document = made([PlacedSecond], ROUTES["all transports"], [billing()], billing=own)
    received = {
        each["channel"]["$ref"]: each["description"]
        for each in document["operations"].values()
        if each["action"] == "receive"
    }
    assert set(received) == {"#/channels/activemq.asyncapi.order", "#/channels/activemq.misc"}
    queue = "/queue/Consumer.billing.VirtualTopic.asyncapi.order"
    assert queue in received["#/channels/activemq.asyncapi.order"]


def test_a_type_that_no_route_carries_is_a_message_without_a_channel() -> None:
    document = made([Placed, Flat], ROUTES["a type of its own"])
    assert "flat.v1" in document["components"]["messages"]
    assert list(document["channels"]) == ["kafka.asyncapi.order"]


def test_two_messages_that_would_be_called_alike_have_names_of_their_own() -> None:
    consumer = outbox.Consumer("billing", database="sqlite://")
    consumer.on("asyncapi.order.placed.v1")(handle)
    found = made([Placed], ROUTES["kafka"], [consumer])
    assert problems(found) == []
    names = found["components"]["messages"]
    assert {"asyncapi.order.placed.v1", "asyncapi.order.placed.v1-2"} <= names.keys()
    assert {each["name"] for each in names.values()} >= {
        "asyncapi.order.placed",
        "asyncapi.order.placed.v1",
    }


def test_a_version_that_the_route_refuses_is_not_sent() -> None:
    document = made([Placed, PlacedSecond], ROUTES["conditions"])
    operation = document["operations"]["send.kafka.asyncapi.order"]
    assert [each["$ref"].rpartition("/")[2] for each in operation["messages"]] == [
        "asyncapi.order.placed.v2"
    ]
    assert "source is like /eu/*" in operation["description"]


def test_a_message_says_what_travels() -> None:
    document = made([Placed], ROUTES["kafka"])
    message = document["components"]["messages"]["asyncapi.order.placed.v1"]
    assert message["contentType"] == "application/json"
    assert message["description"] == "A customer ordered."
    assert message["x-owner"] == "checkout"
    assert message["x-key"] == "order_id"
    assert message["bindings"]["kafka"]["key"]["type"] == "string"
    assert message["headers"]["properties"]["ce_type"] == {"const": "asyncapi.order.placed"}
    assert message["examples"][0]["payload"]["lines"] == [{"sku": "tea", "count": 2}]


def test_the_headers_are_those_of_a_published_event() -> None:
    document = made([Placed], ROUTES["kafka"])
    envelope = outbox.Envelope(
        id="1",
        source="/shop",
        type="asyncapi.order.placed",
        time=MOMENT,
        data=b"{}",
        subject="s",
        sequence=7,
        actor="user:1",
        correlation_id="c",
        causation_id="d",
        traceparent="t",
        tracestate="u",
        dataschema="e",
    )
    headers = {name: value.decode() for name, value in to_headers(envelope)}
    validator = payload(document, "cloudevents.headers")
    assert [error.message for error in validator.iter_errors(headers)] == []
    described = document["components"]["schemas"]["cloudevents.headers"]["properties"]
    assert set(headers) == set(described) - {"ce_partitionkey"}
    for name in ("ce_id", "ce_version", "content-type"):
        assert not validator.is_valid({key: headers[key] for key in headers if key != name})


def test_an_event_in_one_object_is_described_as_it_is_stored() -> None:
    document = made([Placed], ROUTES["all transports"])
    example = catalogue.of(Placed).examples[0]
    name = "asyncapi.order.placed.v1.cloudevents"
    message = document["components"]["messages"][name]
    document["components"]["schemas"]["whole"] = message["payload"]
    envelope = outbox.Envelope(
        id="1",
        source="/shop",
        type="asyncapi.order.placed",
        time=MOMENT,
        data=json_text(example).encode(),
        partition_key="1",
    )
    event = orjson.loads(encode(envelope, on_one_line=True))
    assert payload(document, "whole").is_valid(event)
    assert not payload(document, "whole").is_valid({**event, "data": {}})
    assert not payload(document, "whole").is_valid({**event, "version": 2})


@pytest.mark.parametrize(
    ("cls", "broken"),
    [
        (Placed, {"order_id": 1, "lines": [{"sku": 7}]}),
        (Placed, {"order_id": 1, "lines": [], "pair": [1, "a"]}),
        (Placed, {"order_id": 1, "lines": [], "gift": {"count": 1}}),
        (Pet, {"pet": {"kind": "dog", "owner": {"kind": "cat"}}}),
    ],
)
def test_a_payload_means_what_its_class_means(cls: type, broken: Any) -> None:
    event_type = catalogue.of(cls)
    document = made([cls], {})
    validator = payload(document, f"{event_type.name}.v1")
    for example in event_type.examples:
        assert validator.is_valid(example)
    assert not validator.is_valid(broken)


def test_a_converted_message_names_the_registry_without_its_login() -> None:
    document = made([Placed], ROUTES["formats"])
    message = document["components"]["messages"]["asyncapi.order.placed.v1.avro"]
    assert message["contentType"] == "application/vnd.confluent.avro"
    assert message["bindings"]["kafka"]["schemaLookupStrategy"] == "RecordNameStrategy"
    server = document["servers"]["kafka"]
    assert server["bindings"]["kafka"]["schemaRegistryUrl"] == "http://registry:8081/api"
    assert "hush" not in json_text(document)


def test_no_secret_of_the_settings_is_told() -> None:
    document = made(
        [Placed],
        {
            "kafka": {
                **KAFKA,
                "bootstrap_servers": "SASL_SSL://one:1, two:2",
                "client": {"security_protocol": "SASL_SSL", "sasl_password": "hush"},
            },
            "activemq": {
                "transport": "activemq",
                "brokers": "[::1]:61613, three:61613",
                "groups": ["a"],
                "username": "hush",
                "password": "hush",
                "tls": {},
            },
            "s3": {
                "transport": "s3",
                "bucket": "events",
                "endpoint_url": "https://hush:hush@minio:9000",
                "access_key_id": "hush",
                "secret_access_key": "hush",
            },
            "table": {"transport": "append", "path": "/tmp/hush"},
        },
    )
    assert "hush" not in json_text(document)
    servers = {name: (each["host"], each["protocol"]) for name, each in document["servers"].items()}
    assert servers == {
        "kafka-1": ("one:1", "kafka-secure"),
        "kafka-2": ("two:2", "kafka-secure"),
        "activemq-1": ("[::1]:61613", "stomps"),
        "activemq-2": ("three:61613", "stomps"),
        "s3": ("minio:9000", "s3"),
        "table": ("append", "append"),
    }
    assert document["servers"]["s3"]["pathname"] == "/events"


def test_what_an_address_depends_on_is_a_parameter() -> None:
    document = made([Placed], ROUTES["templates"])
    channel = next(
        each for each in document["channels"].values() if "{partition_key}" in each["address"]
    )
    assert channel["address"] == "asyncapi.order.placed.1.{partition_key}"
    assert channel["parameters"]["partition_key"]["location"] == "$message.payload#/order_id"
    other = next(each for each in document["channels"].values() if "{source}" in each["address"])
    assert other["parameters"]["source"]["default"] == "/shop"
    assert len(document["channels"]) == 3


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"$ref": "#/$defs/A"}, {"$ref": "#/x/definitions/A"}),
        (
            {"$ref": "#/$defs/A", "description": "d"},
            {"description": "d", "allOf": [{"$ref": "#/x/definitions/A"}]},
        ),
        (
            {"$ref": "#", "allOf": [{"type": "object"}]},
            {"allOf": [{"$ref": "#/x"}, {"type": "object"}]},
        ),
        ({"$ref": "https://elsewhere/a#/b"}, {"$ref": "https://elsewhere/a#/b"}),
        (
            {"prefixItems": [True], "items": False},
            {"items": [True], "additionalItems": False},
        ),
        ({"items": {"$ref": "#"}}, {"items": {"$ref": "#/x"}}),
        (
            {"x-constraints": {"gt": "0", "read": {"$ref": "#/$defs/A"}}},
            {"x-constraints": {"gt": "0", "read": {"$ref": "#/x/definitions/A"}}},
        ),
        (
            {"dependentRequired": {"a": ["b"]}, "dependentSchemas": {"c": {"$ref": "#"}}},
            {"dependencies": {"a": ["b"], "c": {"$ref": "#/x"}}},
        ),
        (
            {"default": {"$ref": "#"}, "const": {"$id": 1}, "examples": [{"prefixItems": []}]},
            {"default": {"$ref": "#"}, "const": {"$id": 1}, "examples": [{"prefixItems": []}]},
        ),
        (
            {"properties": {"$ref": {"type": "string"}, "discriminator": True}},
            {"properties": {"$ref": {"type": "string"}, "discriminator": True}},
        ),
        ({"$id": "a", "$schema": "b", "discriminator": {"propertyName": "c"}}, {}),
    ],
)
def test_a_schema_is_written_as_draft_07_has_it(schema: Any, expected: Any) -> None:
    assert schema_object(schema, "#/x") == expected


def test_a_reference_is_resolved_by_its_pointer() -> None:
    assert resolve({"a/b": [{"c": 1}]}, "#/a~1b/0/c") == 1
    assert resolve({"a": 1}, "#/a/b") is None
