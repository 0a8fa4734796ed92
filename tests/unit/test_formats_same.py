"""What a relay writes by a schema a worker reads back as the same values, or it is refused."""

from __future__ import annotations

import base64
import json
import math
import struct
from datetime import UTC, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from outbox.errors import DecodeError
from outbox.formats.codec import Codec, MisfitError, Schema, UnusableSchemaError, make

MICROS = {"type": "long", "logicalType": "timestamp-micros"}
LOCAL = {"type": "long", "logicalType": "local-timestamp-micros"}
DAY = {"type": "int", "logicalType": "date"}
HOUR = {"type": "long", "logicalType": "time-micros"}
PRICE = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}
TEXT_ID = {"type": "string", "logicalType": "uuid"}
MAP = {"type": "map", "values": "long"}


def of(kind: Any, **field: Any) -> Codec:
    """Return the codec of a record with one field of a kind."""
    fields = [{"name": "a", "type": kind, **field}]
    return make(
        Schema(1, "avro", json.dumps({"type": "record", "name": "r", "fields": fields})), ""
    )


def again(codec: Codec, value: Any) -> Any:
    return orjson.loads(codec.decode(codec.encode(orjson.dumps(value))))


def means(text: str) -> list[Any]:
    """Return what a text may stand for, beside itself."""
    found: list[Any] = [text.translate(str.maketrans("-_", "+/"))]
    for read in (datetime.fromisoformat, time.fromisoformat, Decimal):
        try:
            found.append(read(text))
        except (ValueError, InvalidOperation):
            continue
    return found


def is_same(sent: Any, got: Any) -> bool:
    match sent, got:
        case bool(), _:
            return got is sent
        case str(), str():
            return sent == got or any(one == two for one in means(sent) for two in means(got))
        case dict(), dict():
            return sent.keys() == got.keys() and all(is_same(sent[at], got[at]) for at in sent)
        case list(), list():
            return len(sent) == len(got) and all(map(is_same, sent, got))
        case ((int() | float()), str()):
            # Of a moment or a decimal.
            return len(means(got)) > 1
        case _:
            return bool(sent == got)


def fixed(name: str, size: int) -> dict[str, Any]:
    return {"type": "fixed", "name": name, "size": size}


def base64s(size: int | None = None) -> st.SearchStrategy[str]:
    data = st.binary(min_size=size or 0, max_size=size or 9)
    encode = st.sampled_from([base64.b64encode, base64.urlsafe_b64encode])
    return st.builds(lambda how, value: how(value).decode(), encode, data)


zones = st.timezones() | st.just(UTC)
LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    ("boolean", st.booleans()),
    ("int", st.integers(-(2**31), 2**31 - 1)),
    ("long", st.integers(-(2**63), 2**63 - 1)),
    ("double", st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)),
    ("float", st.floats(width=32, allow_nan=False, allow_infinity=False)),
    ("string", st.text(max_size=9) | base64s() | st.dates().map(str)),
    ("bytes", base64s()),
    (fixed("two", 2), base64s(2)),
    (MICROS, st.datetimes(timezones=zones).map(datetime.isoformat)),
    (LOCAL, st.datetimes().map(datetime.isoformat)),
    (DAY, st.dates().map(str)),
    (HOUR, st.times().map(str)),
    (PRICE, st.decimals(-9999, 9999, places=2).map(str)),
    (TEXT_ID, st.uuids().map(str)),
    ({**fixed("id", 16), "logicalType": "uuid"}, st.uuids().map(str)),
    ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, st.sampled_from("AB")),
]
TEXTS = LEAVES[5][1]
DEPTH = 3
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=4)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)


@st.composite
def kinds(draw: st.DrawFn, depth: int = 0) -> tuple[Any, st.SearchStrategy[Any]]:
    """Draw a kind of Avro and what its values are."""
    shapes = ["leaf", "leaf", "null", "text", "array", "map", "record"]
    shape = draw(st.sampled_from(shapes))
    if shape == "leaf" or depth == DEPTH:
        leaf: tuple[Any, st.SearchStrategy[Any]] = draw(st.sampled_from(LEAVES))
        return leaf
    kind, values = draw(kinds(depth + 1))
    is_taken = isinstance(kind, list) or kind in ("string", TEXT_ID)
    match shape:
        case "array":
            return {"type": "array", "items": kind}, st.lists(values, max_size=3)
        case "map":
            return {"type": "map", "values": kind}, st.dictionaries(st.text(max_size=2), values)
        case "null" if not isinstance(kind, list):
            return ["null", kind], st.none() | values
        case "text" if not is_taken:
            return [kind, "null", "string"], values | st.none() | TEXTS
    fields = [{"name": "a", "type": kind}]
    record = {"type": "record", "name": f"r{draw(st.uuids()).hex}", "fields": fields}
    return record, st.fixed_dictionaries({"a": values})


def back_or_refused(kind: Any, value: Any) -> Any:
    """Return what comes back; the same where the event is refused by its field."""
    try:
        return again(of(kind), value)
    except MisfitError as misfit:
        assert str(misfit).startswith("a")  # noqa: PT017  # it need not be refused
        return value


@given(st.data())
@settings(max_examples=60)
def test_avro_gives_back_what_fits(data: st.DataObject) -> None:
    kind, values = data.draw(kinds())
    value = {"a": data.draw(values)}
    found = again(of(kind), value)
    assert is_same(value, found), found


@given(st.data())
@settings(max_examples=60)
def test_avro_gives_back_what_it_was_given_or_refuses_it(data: st.DataObject) -> None:
    kind, _ = data.draw(kinds().filter(lambda drawn: '"float"' not in json.dumps(drawn[0])))
    value = {"a": data.draw(ANYTHING)}
    found = back_or_refused(kind, value)
    assert is_same(value, found), found


@given(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_goes_to_the_branch_that_holds_it(number: float) -> None:
    assert back_or_refused(["float", "long", "double"], {"a": number}) == {"a": number}


class Photo(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    a: bytes


@given(st.binary(max_size=9))
def test_bytes_of_pydantic_come_back(data: bytes) -> None:
    codec = of("bytes")
    sent = Photo(a=data)
    assert (
        Photo.model_validate_json(codec.decode(codec.encode(sent.model_dump_json().encode())))
        == sent
    )


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (["null", {"type": "array", "items": ["null", MAP]}], [{"x": 1}, None, {}]),
        (["float", "long"], 2**53 + 1),
        (["bytes", "string"], "well-off"),
        ([PRICE, "string"], "5"),
        ({**fixed("id", 16), "logicalType": "uuid"}, "12345678-1234-5678-1234-567812345678"),
        ({"type": "string", "logicalType": "date"}, "2026-01-02"),
    ],
)
def test_values_that_fit_come_back_as_they_are(kind: Any, value: Any) -> None:
    assert again(of(kind), {"a": value}) == {"a": value}


@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        (TEXT_ID, "secret", "is not a UUID"),
        (TEXT_ID, "{12345678-1234-5678-1234-567812345678}", "is not a UUID"),
        ("float", 1e300, "is not a number of kind float"),
        ("float", 2**24 + 1, "is not a number that float holds exactly"),
        ("double", 2**53 + 1, "is not a number that double holds exactly"),
        (LOCAL, "2026-01-02T03:04:05+02:00", "without a time zone"),
        (HOUR, "03:04:05Z", "is not a time-micros"),
        (HOUR, -1, "is not a time-micros"),
        (MICROS, 2**62, "is not a timestamp-micros"),
        (PRICE, "19.999", "is not a decimal of at most 6 digits, 2 of them behind the point"),
        (PRICE, "10000.00", "is not a decimal of at most 6 digits"),
        (PRICE, "NaN", "is not a decimal of at most"),
        ("bytes", "YR==", "is not base64"),
        ("bytes", "YQ", "is not base64"),
    ],
)
def test_values_that_would_be_lost_are_refused_by_their_field(
    kind: Any, value: Any, why: str
) -> None:
    with pytest.raises(MisfitError, match=f"^a: .*{why}") as raised:
        of(kind).encode(orjson.dumps({"a": value}))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "default", "value"),
    [
        ("bytes", "\u00ff", "/w=="),
        (fixed("one", 1), "\u00ff", "/w=="),
        (PRICE, "\u0001", "0.01"),
        (["bytes", "null"], "\u00ff", "/w=="),
        ({"type": "array", "items": "bytes"}, ["\u00ff"], ["/w=="]),
        ({"type": "map", "values": "bytes"}, {"k": "\u00ff"}, {"k": "/w=="}),
        (
            {
                "type": "record",
                "name": "inner",
                "fields": [
                    {"name": "b", "type": "bytes"},
                    {"name": "n", "type": "int", "default": 3},
                ],
            },
            {"b": "\u00ff"},
            {"b": "/w==", "n": 3},
        ),
        (["null", "long"], None, None),
    ],
)
def test_what_is_left_out_has_the_default_of_its_schema(
    kind: Any, default: Any, value: Any
) -> None:
    assert again(of(kind, default=default), {}) == {"a": value}


def test_moments_in_milliseconds_drop_what_is_finer() -> None:
    codec = of({"type": "long", "logicalType": "timestamp-millis"})
    assert again(codec, {"a": "2026-01-02T03:04:05.123456Z"}) == {
        "a": "2026-01-02T03:04:05.123000Z"
    }


def test_a_number_that_json_has_none_for_is_told() -> None:
    with pytest.raises(DecodeError, match="NaN or infinity"):
        of("double").decode(struct.pack("<d", math.nan))
    assert again(of(["null", "double"]), {"a": None}) == {"a": None}


def test_a_decimal_without_its_precision_is_no_schema() -> None:
    with pytest.raises(UnusableSchemaError, match="precision"):
        of({"type": "bytes", "logicalType": "decimal"})


PROTO = """
syntax = "proto3";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
message All {
  int32 small = 1;
  uint64 big = 2;
  double real = 3;
  float short = 4;
  bool yes = 5;
  string text = 6;
  bytes photo = 7;
  State state = 8;
  google.protobuf.Timestamp at = 9;
  optional int64 perhaps = 10;
  google.protobuf.Int64Value count = 11;
  google.protobuf.BytesValue more = 12;
  repeated int64 numbers = 13;
  map<string, bytes> photos = 14;
  All inner = 15;
  oneof means { string card = 16; int64 cash = 17; }
  google.protobuf.Value any = 18;
  repeated All inners = 19;
}
enum State { NEW = 0; PAID = 1; }
"""
CODEC = make(Schema(1, "protobuf", PROTO), "")
EMPTY: dict[str, Any] = orjson.loads(CODEC.decode(CODEC.encode(b"{}")))
ALL = {
    "small": LEAVES[1][1],
    "big": st.integers(0, 2**64 - 1),
    "real": LEAVES[3][1],
    "short": st.integers(-9999, 9999).map(lambda eighths: eighths / 8),
    "yes": st.booleans(),
    "text": st.text(max_size=9),
    "photo": base64s(),
    "state": st.sampled_from(["NEW", "PAID"]),
    "at": st.none() | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    "perhaps": st.none() | LEAVES[2][1],
    "count": st.none() | LEAVES[2][1],
    "more": st.none() | base64s(),
    "numbers": st.lists(LEAVES[2][1], max_size=3),
    "photos": st.dictionaries(st.text(max_size=3), base64s(), max_size=3),
    "any": st.none() | st.booleans() | st.text(max_size=4) | st.lists(LEAVES[3][1], max_size=2),
}
MEANS = st.sampled_from([{}, {"card": "c"}, {"cash": 0}])
WHOLE = st.recursive(
    st.builds(dict.__or__, st.fixed_dictionaries({**ALL, "inner": st.none()}), MEANS).map(
        lambda drawn: {**drawn, "inners": []}
    ),
    lambda inner: st.builds(
        lambda outer, one, some: {**outer, "inner": one, "inners": some},
        st.fixed_dictionaries(ALL),
        st.none() | inner,
        st.lists(inner, max_size=2),
    ),
    max_leaves=3,
)


@given(WHOLE)
@settings(max_examples=60)
def test_protobuf_gives_back_what_fits(value: dict[str, Any]) -> None:
    found = again(CODEC, value)
    assert is_same(value, found), found


@given(st.dictionaries(st.sampled_from([*EMPTY, "card"]), ANYTHING, max_size=3))
@settings(max_examples=300)
def test_protobuf_gives_back_what_it_was_given_or_refuses_it(value: dict[str, Any]) -> None:
    value.pop("short", None)
    try:
        found = again(CODEC, value)
    except MisfitError as misfit:
        assert str(misfit).startswith(tuple(value))  # noqa: PT017  # it need not be refused
        return
    card = {} if value.get("card") is None else {"card": value["card"]}
    sent = {name: each for name, each in value.items() if name != "card"}
    for name in ("inner", "inners"):
        # What is left out inside of them has its zero value.
        if sent.get(name) is not None:
            del found[name]
    expected = {name: each for name, each in {**EMPTY, **sent, **card}.items() if name in found}
    assert is_same(expected, found), found


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"small": None}, "small: is null, and its schema does not call it optional"),
        ({"numbers": None}, "numbers: is null"),
        ({"photos": None}, "photos: is null"),
        ({"inner": {"inners": [{"small": None}]}}, "inner.inners.0.small: is null"),
        ({"photo": "!!"}, "photo: is not base64"),
        ({"photo": "caf\xe9word"}, "photo: is not base64"),
        ({"photos": {"k": "YQ"}}, "photos.k: is not base64"),
        ({"more": "!!"}, "more: is not base64"),
        ({"big": "7"}, "big: is not a whole number"),
        ({"count": "7"}, "count: is not a whole number"),
        ({"real": "1.5"}, "real: is not a number"),
        ({"real": 2**53 + 1}, "real: is not a number that double holds exactly"),
        ({"any": [2**53 + 1]}, "any.0: is not a number that double holds exactly"),
        ({"state": 1}, "state: is not one of NEW, PAID"),
        ({"inner": {"secret": 1}}, "inner.secret: its schema has no such field"),
    ],
)
def test_what_protobuf_would_change_is_refused_by_its_field(value: Any, why: str) -> None:
    with pytest.raises(MisfitError, match=f"^{why}"):
        CODEC.encode(orjson.dumps(value))


def test_a_name_in_another_spelling_is_no_field() -> None:
    codec = make(Schema(1, "protobuf", 'syntax = "proto3"; message M { int64 order_id = 1; }'), "")
    with pytest.raises(MisfitError, match=r"^orderId: its schema has no such field"):
        codec.encode(b'{"orderId":1}')


def test_a_field_that_protobuf_requires_is_told() -> None:
    text = 'syntax = "proto2"; message M { required int64 a = 1; }'
    with pytest.raises(MisfitError, match=r"data: .* required fields: a"):
        make(Schema(1, "protobuf", text), "").encode(b"{}")


def test_numbers_and_nulls_of_protobuf_are_those_of_the_application() -> None:
    value = {"count": 2**62, "big": 2**64 - 1, "perhaps": 2**62, "numbers": [1], "any": None}
    assert again(CODEC, value) == {**EMPTY, **value}
    absent = ("at", "perhaps", "count", "more", "inner", "any")
    assert [name for name, found in EMPTY.items() if found is None] == list(absent)
    assert again(CODEC, {"card": "c", "cash": None}) == {**EMPTY, "card": "c"}
