"""Avro, Protobuf and JSON Schema by their texts: what fits, what does not, and the wire."""

from __future__ import annotations

import base64
import io
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from unittest.mock import ANY

import fastavro
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox import formats
from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    DecodeError,
    HeldBackError,
    RecordRefusedError,
)
from outbox.formats import wire
from outbox.formats.codec import Codec, MisfitError, Schema, make
from outbox.formats.convert import Converter
from outbox.formats.protobuf import _files
from outbox.formats.publishing import fenced
from outbox.formats.registry import Ready, Registry
from outbox.formats.settings import SchemaSettings
from outbox.rows import Rows, to_row
from outbox.settings import RouteSettings
from outbox.testing import envelope
from outbox.transport import PUBLISHED, Dead, Retry
from outbox.transports import transport_of

AVRO: dict[str, Any] = {
    "type": "record",
    "namespace": "shop.order",
    "name": "placed",
    "fields": [
        {"name": "order_id", "type": "string"},
        {"name": "total", "type": "long"},
        {"name": "small", "type": "int", "default": 7},
        {"name": "share", "type": ["null", "double"], "default": None},
        {"name": "is_gift", "type": "boolean", "default": False},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
        {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
        {
            "name": "price",
            "type": [
                "null",
                {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2},
            ],
        },
        {"name": "photo", "type": ["null", "bytes"]},
        {"name": "tags", "type": {"type": "map", "values": "string"}},
        {
            "name": "state",
            "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID"]},
        },
        {
            "name": "lines",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "Line",
                    "fields": [
                        {"name": "sku", "type": "string"},
                        {"name": "parts", "type": {"type": "array", "items": "Line"}},
                    ],
                },
            },
        },
    ],
}
ORDER: dict[str, Any] = {
    "order_id": "o-1",
    "total": 1999,
    "small": 1,
    "share": 0.5,
    "is_gift": True,
    "at": "2026-01-02T03:04:05.000006Z",
    "day": "2026-01-02",
    "price": "19.99",
    "photo": base64.b64encode(b"\x89\xff").decode(),
    "tags": {"a": "b"},
    "state": "PAID",
    "lines": [{"sku": "s", "parts": [{"sku": "t", "parts": []}]}],
}
PROTO = """
syntax = "proto3";
package shop.order;
import "google/protobuf/timestamp.proto";
message Placed {
  string order_id = 1;
  int64 total = 2;
  google.protobuf.Timestamp at = 3;
  bytes photo = 4;
  repeated Line lines = 5;
  map<string, int64> counts = 6;
  enum State { NEW = 0; PAID = 1; }
  State state = 7;
  message Line { string sku = 1; uint64 count = 2; }
}
message Cancelled { string order_id = 1; }
"""
JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"order_id": {"type": "string"}, "total": {"type": "integer", "minimum": 0}},
    "required": ["order_id"],
    "additionalProperties": False,
}


def avro(schema: Any = AVRO, **references: Schema) -> Codec:
    return make(Schema(1, "avro", json.dumps(schema), references), "here")


def protobuf(text: str = PROTO, references: dict[str, Schema] | None = None) -> Codec:
    return make(Schema(1, "protobuf", text, references or {}), "here")


def json_schema(schema: Any = JSON_SCHEMA, **references: Schema) -> Codec:
    return make(Schema(1, "jsonschema", json.dumps(schema), references), "here")


def again(codec: Codec, value: Any) -> Any:
    return orjson.loads(codec.decode(codec.encode(orjson.dumps(value))))


def test_avro_holds_every_kind_of_value() -> None:
    assert again(avro(), ORDER) == ORDER


def test_avro_is_what_others_write_of_the_same_values() -> None:
    stream = io.BytesIO()
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": ["null", "long"]}]}
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), {"a": 7})
    assert avro(schema).encode(b'{"a":7}') == stream.getvalue()


def test_what_is_left_out_has_its_default() -> None:
    short = {name: ORDER[name] for name in ORDER if name not in {"small", "share", "is_gift"}}
    assert again(avro(), short) == {**ORDER, "small": 7, "share": None, "is_gift": False}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"order_id": 7}, "order_id: is not a string"),
        ({"order_id": None}, "order_id: is not a string"),
        ({"total": "secret"}, "total: is not a number of kind long"),
        ({"total": 2**63}, "total: is not a number of kind long"),
        ({"total": 1.5}, "total: is not a number of kind long"),
        ({"total": True}, "total: is not a number of kind long"),
        ({"small": 2**31}, "small: is not a number of kind int"),
        ({"share": "secret"}, "share: is not a number"),
        ({"is_gift": 1}, "is_gift: is not a boolean"),
        ({"at": "secret"}, "at: is not a timestamp-micros"),
        ({"at": "2026-01-02T03:04:05"}, "at: is not a timestamp-micros, with its time zone"),
        ({"day": "2026-13-01"}, "day: is not a date"),
        ({"price": "secret"}, "price: is not a decimal"),
        ({"price": "19.999"}, "price: is not a decimal of at most 12 digits, 2 of them"),
        ({"photo": "secret!"}, "photo: is not base64"),
        ({"tags": {"a": 7}}, "tags.a: is not a string"),
        ({"tags": []}, "tags: is not an object"),
        ({"state": "secret"}, "state: is not one of NEW, PAID"),
        ({"lines": {}}, "lines: is not an array"),
        ({"lines": [{"sku": "s", "parts": [7]}]}, r"lines.0.parts.0: is not an object"),
        ({"lines": [{"parts": []}]}, r"lines.0.sku: is missing"),
        ({"more": "secret"}, "data: its schema has no field more"),
    ],
)
def test_what_does_not_fit_avro_is_told_without_its_value(
    changed: dict[str, Any], why: str
) -> None:
    with pytest.raises(MisfitError, match=why) as raised:
        avro().encode(orjson.dumps({**ORDER, **changed}))
    assert "secret" not in str(raised.value).removeprefix("secret")


def test_a_union_of_records_takes_the_first_that_fits() -> None:
    def record(name: str, field: str) -> dict[str, Any]:
        return {"type": "record", "name": name, "fields": [{"name": field, "type": "string"}]}

    codec = avro([record("A", "a"), record("B", "b"), "string"])
    assert again(codec, {"b": "x"}) == {"b": "x"}
    assert again(codec, "x") == "x"
    with pytest.raises(MisfitError, match="data: is not A or B or string"):
        codec.encode(b"7")


def test_avro_may_name_other_schemas() -> None:
    other = {"type": "record", "name": "x.Other", "fields": [{"name": "a", "type": "int"}]}
    this = {"type": "record", "name": "x.This", "fields": [{"name": "o", "type": "x.Other"}]}
    codec = avro(this, **{"x.Other": Schema(2, "avro", json.dumps(other))})
    assert again(codec, {"o": {"a": 1}}) == {"o": {"a": 1}}


@given(st.binary(max_size=40))
def test_whatever_arrives_as_avro_is_json_or_a_decode_error(payload: bytes) -> None:
    try:
        found = CODECS[0].decode(payload)
    except DecodeError:
        return
    orjson.loads(found)


def test_protobuf_holds_every_kind_of_value() -> None:
    order = {
        "order_id": "o-1",
        "total": 2**62,
        "at": "2026-01-02T03:04:05.000006Z",
        "photo": base64.b64encode(b"\x89\xff").decode(),
        "lines": [{"sku": "s", "count": 2**63}],
        "counts": {"a": 7},
        "state": "PAID",
    }
    assert again(protobuf(), order) == order


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"total":"secret"}', "total: is not a whole number"),
        (b'{"total":9223372036854775808}', "total: does not fit its type"),
        (b'{"secret":1}', "secret: its schema has no such field"),
        (b'"secret"', "data: is not an object"),
        (b"secret", "no JSON"),
        (b'{"state":"secret"}', "state: is not one of NEW, PAID"),
        (b'{"lines":[{"sku":7}]}', "lines: does not fit its type"),
        (b'{"at":"secret"}', "at: does not fit its type"),
    ],
)
def test_what_does_not_fit_protobuf_is_told(data: bytes, why: str) -> None:
    with pytest.raises(MisfitError, match=why):
        protobuf().encode(data)


def test_another_message_of_a_protobuf_schema_is_read() -> None:
    codec = protobuf()
    placed = codec.encode(b'{"order_id":"o"}')[1:]
    assert orjson.loads(codec.decode(wire.write_indexes([1]) + placed)) == {"order_id": "o"}
    line = b"\x0a\x01s"  # the entries of a map are messages too, and stand first
    assert orjson.loads(codec.decode(wire.write_indexes([0, 1]) + line)) == {"sku": "s", "count": 0}
    with pytest.raises(DecodeError, match=r"no message \[2\]"):
        codec.decode(wire.write_indexes([2]) + placed)


@given(st.binary(max_size=40))
def test_whatever_arrives_as_protobuf_is_json_or_a_decode_error(payload: bytes) -> None:
    try:
        found = CODECS[1].decode(payload)
    except DecodeError:
        return
    orjson.loads(found)


def test_protobuf_may_import_other_schemas() -> None:
    other = Schema(2, "protobuf", 'syntax = "proto3"; message Other { int64 a = 1; }')
    this = 'syntax = "proto3"; import "x/other.proto"; message This { Other o = 1; }'
    assert again(protobuf(this, {"x/other.proto": other}), {"o": {"a": 1}}) == {"o": {"a": 1}}
    with pytest.raises(ConfigurationError, match="outside of its folder"):
        protobuf(this, {"../other.proto": other})


def test_a_compiled_protobuf_schema_is_read_too() -> None:
    text = """syntax = "proto3"; import "google/protobuf/timestamp.proto"; import "other.proto";
        message This { Other o = 1; google.protobuf.Timestamp at = 2; }"""
    other = Schema(2, "protobuf", 'syntax = "proto3"; message Other { int64 a = 1; }')
    files = _files(Schema(1, "protobuf", text, {"other.proto": other}), "this.proto")
    this, that = (base64.b64encode(files[at].SerializeToString()).decode() for at in (-1, -2))
    value = {"o": {"a": 1}, "at": "2026-01-02T03:04:05Z"}
    assert again(protobuf(this, {"other.proto": Schema(2, "protobuf", that)}), value) == value


def test_json_stays_as_it_is() -> None:
    data = b' {"order_id":"o", "total":1}\n'
    assert json_schema().encode(data) == data
    assert json_schema().decode(data) == data
    with pytest.raises(DecodeError, match="no JSON"):
        json_schema().decode(b"{")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{}", "data: 'order_id' is a required property"),
        (b'{"order_id":"o","total":-1}', "total: breaks the rule minimum = 0"),
        (b'{"order_id":["secret"]}', "order_id: breaks the rule type = string"),
        (b'{"order_id":"o","more":"secret"}', "'more' was unexpected"),
        (b"secret", "no JSON"),
    ],
)
def test_what_breaks_a_rule_of_json_schema_is_told_without_its_value(data: bytes, why: str) -> None:
    with pytest.raises(MisfitError, match=why) as raised:
        json_schema().encode(data)
    assert "secret" not in str(raised.value)


def test_json_schema_may_refer_to_others() -> None:
    other = Schema(2, "jsonschema", '{"type":"integer"}')
    this = {"properties": {"a": {"$ref": "urn:other"}}}
    codec = json_schema(this, **{"urn:other": other})
    assert codec.encode(b'{"a":1}') == b'{"a":1}'
    with pytest.raises(MisfitError, match="a: breaks the rule type"):
        codec.encode(b'{"a":"x"}')
    with pytest.raises(ConfigurationError, match="refers to 'urn:other', which is nowhere"):
        json_schema(this).encode(b'{"a":1}')


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("avro", "{"),
        ("avro", '{"type":"secret"}'),
        ("jsonschema", '{"type":7}'),
        ("jsonschema", "{"),
        ("protobuf", "message"),
        ("protobuf", 'syntax = "proto3";'),
    ],
)
def test_a_text_that_is_no_schema_is_told(name: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match="schema 1 "):
        make(Schema(1, name, text), "here")


@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=5), st.binary(max_size=5))
def test_the_way_to_a_message_is_read_as_it_is_written(indexes: list[int], data: bytes) -> None:
    assert wire.read_indexes(wire.write_indexes(indexes) + data) == (indexes, data)


def test_the_head_is_that_of_confluent() -> None:
    assert wire.head_of(258) == b"\0\0\0\1\2"
    assert wire.schema_id_of(b"\0\xff\xff\xff\xffx") == 2**32 - 1


@pytest.mark.parametrize(
    ("media", "data", "is_framed"),
    [
        ("application/vnd.confluent.avro", b"\0\0\0\0\1x", True),
        ("Application/Avro; charset=x", b"\0\0\0\0\1x", True),
        ("application/json", b"\0\0\0\0\1{}", True),
        ("application/json", b"{}", False),
        ("application/avro", b"\2x", False),
        ("application/avro", b"\0\0\0", False),
        ("image/x-icon", b"\0\0\1\0\1\0", False),
    ],
)
def test_only_what_may_be_framed_is_unpacked(
    media: str,
    data: bytes,
    is_framed: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    assert wire.is_framed(media, data) == is_framed


def settings(**changed: Any) -> SchemaSettings:
    return SchemaSettings.model_validate({"registry": "http://localhost:8081", **changed})


def test_the_first_glob_that_matches_says_the_format() -> None:
    chosen = settings(format="avro", formats={"shop.order.*": "protobuf", "shop.*": "json"})
    found = [chosen.format_of(name) for name in ("shop.order.placed", "shop.x", "else")]
    assert found == ["protobuf", "json", "avro"]


@pytest.mark.parametrize(
    ("how", "subject"),
    [
        ({}, "shop.order.placed"),
        ({"subject": "topic"}, "orders-value"),
        ({"subject": "topic-record"}, "orders-shop.order.placed"),
        ({"records": {"shop.order.placed": "com.acme.Placed"}}, "com.acme.Placed"),
    ],
)
def test_subjects_are_named_as_confluent_names_them(how: dict[str, Any], subject: str) -> None:
    assert settings(**how).subject_of("shop.order.placed", "orders") == subject


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"registry": "here"}, "registry"),
        ({"format": "xml"}, "format"),
        ({"username": "a"}, "need each other"),
        ({"key_file": "a"}, "need each other"),
        ({"more": 1}, "more"),
    ],
)
def test_settings_that_cannot_work_are_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        settings(**changed)


def test_no_password_is_shown() -> None:
    schemas = {"registry": "http://r", "username": "u", "password": "hidden"}
    route = RouteSettings.model_validate({"transport": "memory", "schemas": schemas})
    assert "hidden" not in f"{route!r} {route.schemas}"


def test_a_transport_without_topics_has_subjects_of_records_alone() -> None:
    route = RouteSettings.model_validate({"transport": "kafka", "bootstrap_servers": "localhost"})
    _, options = transport_of("x", route)
    formats.check("x", settings(format="avro", subject="topic"), options)
    with pytest.raises(ConfigurationError, match=r"routes\.x\.schemas\.subject: the transport"):
        formats.check("x", settings(format="avro", subject="topic"), settings())


def test_a_missing_package_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "outbox.formats.avro")
    monkeypatch.setitem(sys.modules, "fastavro", None)
    with pytest.raises(ConfigurationError, match=r"fastavro .* pip install 'outbox-relay\[avro\]'"):
        formats.check("x", settings(format="avro"), settings())


DEAD, AWAY = RecordRefusedError("dead"), BrokerUnavailableError("away")


@pytest.mark.parametrize(
    ("keys", "errors", "outcomes", "expected"),
    [
        ("aab", {0: DEAD}, {2: PUBLISHED}, ["dead", "held", "published"]),
        ("aab", {0: AWAY}, {2: PUBLISHED}, ["away", "held", "published"]),
        ("aa", {1: DEAD}, {0: PUBLISHED}, ["published", "dead"]),
        ("aa", {1: DEAD}, {0: Retry(AWAY)}, ["away", "held"]),
        ("aa", {0: DEAD, 1: DEAD}, {}, ["dead", "held"]),
        ("--", {0: DEAD}, {1: PUBLISHED}, ["dead", "published"]),
    ],
)
def test_behind_a_failure_all_of_its_key_waits(
    keys: str, errors: Any, outcomes: Any, expected: list[str]
) -> None:
    events = Rows([to_row(envelope("t", None if key == "-" else key)) for key in keys])
    found = []
    for outcome in fenced(events, errors, outcomes):
        match outcome:
            case Dead(error):
                found.append(str(error))
            case Retry(error):
                found.append("held" if isinstance(error, HeldBackError) else str(error))
            case _:
                found.append("published")
    assert found == expected


def test_what_took_too_long_to_convert_is_published_next() -> None:
    chosen = settings()
    with closing(Registry("here", chosen, 1.0)) as registry:
        events = Rows([to_row(envelope("t")) for _ in range(200)])
        assert Converter(chosen, registry, None, 60.0).convert(events) == (ANY, {})
        _, errors = Converter(chosen, registry, None, -1.0).convert(events)
    assert [type(errors[index]) for index in range(200)] == [HeldBackError] * 200


def test_what_is_known_does_not_wait_for_what_is_asked() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        ThreadPoolExecutor(1) as pool,
        closing(
            Registry("here", settings(registry=f"http://127.0.0.1:{silent.getsockname()[1]}"), 30.0)
        ) as registry,
    ):
        known = registry._by_id[7] = Ready(Schema(7, "avro", ""), avro())
        asked = pool.submit(registry.version, "a", 1)
        connection, _ = silent.accept()
        with connection:
            assert registry.by_id(7) is known
            assert not asked.done()
        with pytest.raises(BrokerUnavailableError, match="does not answer"):
            asked.result()


CODECS = [avro(), protobuf()]
