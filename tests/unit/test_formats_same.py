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
    (PRICE, st.decimals(-10000, 10000, places=2).map(str)),
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
