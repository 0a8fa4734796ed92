"""An event as a JSON object, whoever wrote it; whatever else arrives is an error that says so."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.codec import from_headers, to_headers
from outbox.errors import DecodeError
from outbox.reading import decode, read_all
from outbox.structured import CONTENT_TYPE, encode, unfolded
from outbox.structured import decode as decode_body
from outbox.transport import Delivery, Message
from tests.unit.test_codec import ENVELOPES, PLAIN

if TYPE_CHECKING:
    from outbox.envelope import Envelope

MINIMAL: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
NAMES = st.sampled_from(["id", "time", "sequence", "version", "data", "datacontenttype", "own"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
)


def structured(body: bytes, *, key: bytes | None = None, media: str = CONTENT_TYPE) -> Message:
    return Message("topic", key, [("content-type", media.encode())], body)


def read(event: dict[str, Any], **how: Any) -> Envelope:
    return decode(structured(json.dumps({**MINIMAL, **event}).encode(), **how))


@given(ENVELOPES)
def test_a_json_object_brings_an_envelope_back(envelope: Envelope) -> None:
    body = encode(envelope, on_one_line=False)
    assert decode(structured(body)) == replace(envelope, topic="topic")


@given(ENVELOPES)
def test_both_modes_are_read_the_same(envelope: Envelope) -> None:
    key = None if envelope.partition_key is None else envelope.partition_key.encode()
    binary = Message("topic", key, to_headers(envelope), envelope.data)
    assert decode(structured(encode(envelope, on_one_line=False))) == decode(binary)


@given(st.dictionaries(NAMES | st.text(), VALUES), st.none() | st.binary(max_size=3))
def test_whatever_arrives_is_an_event_or_a_decode_error(
    event: dict[str, Any], key: bytes | None
) -> None:
    body = json.dumps({**MINIMAL, **event}).encode()
    try:
        envelope = decode(structured(body, key=key))
    except DecodeError:
        return
    assert decode(structured(encode(envelope, on_one_line=True))) == envelope


@pytest.mark.parametrize(
    "text",
    [
        '{"specversion":"1.0","id":"1","source":"/s","type":"t","data":DATA}',
        '{"data":DATA,"specversion":"1.0","id":"1","source":"/s","type":"t"}',
        '{"specversion":"1.0","id":"1","data":DATA,"source":"/s","type":"t"}',
        '{ "id":"1", "data" :DATA ,"x":"\\"data\\":","specversion":"1.0","source":"/","type":"t"}',
        '{"data":7,"specversion":"1.0","id":"1","source":"/s","type":"t","data":DATA}',
    ],
)
@pytest.mark.parametrize(
    "data", ["{}", '{"data":{"a":"}"},"b":[1.50, "é"]}', "1e999", "123456789012345678901", '"s"']
)
def test_data_is_what_stands_there_to_the_byte(text: str, data: str) -> None:
    assert decode(structured(text.replace("DATA", data).encode())).data == data.encode()


def test_data_of_another_media_type_is_text_or_base64() -> None:
    csv = {"datacontenttype": "text/csv", "data": "a,b\n"}
    assert read(csv).data == b"a,b\n"
    assert read({"datacontenttype": "text/x", "data": {"a": 1}}).data == b'{"a": 1}'
    assert read({"data_base64": base64.b64encode(b"\xff").decode()}).data == b"\xff"
    assert read({"data": "text"}).data == b'"text"'
    assert read({}).data == b""


def test_extensions_of_any_type_become_texts() -> None:
    envelope = read({"retries": 3, "urgent": True, "region": "eu", "gone": None, "actor": "a"})
    assert envelope.headers == {"ce_retries": "3", "ce_urgent": "true", "ce_region": "eu"}
    assert envelope.actor == "a"
    binary = [(f"ce_{name}", value.encode()) for name, value in MINIMAL.items()]
    same = [*binary, ("ce_retries", b"3"), ("ce_urgent", b"true"), ("ce_region", b"eu")]
    assert from_headers(None, same, b"").headers == envelope.headers


def test_an_extension_of_another_producer_is_one_in_json_too() -> None:
    event = json.loads(
        encode(replace(PLAIN, headers={"ce_region": "eu", "ce_x-y": "1"}), on_one_line=True)
    )
    assert (event["region"], event["outboxheaders"]) == ("eu", '{"ce_x-y":"1"}')


def test_the_record_key_is_the_partition_key_as_in_binary_mode() -> None:
    assert read({"partitionkey": "own"}).partition_key == "own"
    assert read({"partitionkey": "own"}, key=b"record").partition_key == "record"


def test_headers_beside_a_structured_event_stay_and_attributes_there_do_not_count() -> None:
    event = {**MINIMAL, "id": "in", "subject": "in", "time": "2026-01-02T03:04:05Z"}
    body = json.dumps(event).encode()
    headers: list[tuple[str, bytes | None]] = [
        *to_headers(replace(PLAIN, subject="out", content_type=f"{CONTENT_TYPE}; charset=UTF-8")),
        ("traceid", b"7"),
    ]
    (found,) = read_all([Delivery(Message("topic", None, headers, body), "p", 1)])
    envelope = decode(Message("topic", None, headers, body))
    assert (envelope.subject, envelope.headers) == ("in", {"traceid": "7"})
    assert (found.content, found.identity) == (envelope, ("/s", "in"))


def test_the_media_type_may_be_in_capitals() -> None:
    assert read({}, media="Application/CloudEvents+JSON").id == "1"
    body = json.dumps(MINIMAL).encode()
    found = decode(Message("topic", None, [("Content-Type", CONTENT_TYPE.encode())], body))
    assert (found.id, found.headers) == ("1", {})


@pytest.mark.parametrize(
    ("media", "body", "why"),
    [
        (CONTENT_TYPE, b"[]", "no JSON object"),
        (CONTENT_TYPE, b"\xff", "no event in JSON"),
        (CONTENT_TYPE, b'{"a":NaN}', "NaN is no JSON"),
        (CONTENT_TYPE, b"[" * 100_000, "no event in JSON"),
        (CONTENT_TYPE, b'{"id":"1"}', "no header ce_specversion"),
        (CONTENT_TYPE, b'{"data_base64":7}', "no event in JSON"),
        (CONTENT_TYPE, b'{"outboxheaders":"[]"}', "outboxheaders is no text of a JSON object"),
        (CONTENT_TYPE, b'{"x":{"y":1}}', "'x' is an object or a list"),
        ("application/cloudevents-batch+json", b"[]", "cloudevents-batch.json; read are one"),
        ("application/cloudevents+avro", b"", "application/cloudevents.avro; read are one event"),
    ],
)
def test_what_is_no_event_is_told(media: str, body: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decode(structured(body, media=media))


def test_another_format_in_a_message_of_binary_mode_is_its_data() -> None:
    media = "application/cloudevents+avro"
    message = Message("t", None, to_headers(replace(PLAIN, content_type=media)), b"\x02")
    assert unfolded(message) is message
    (found,) = read_all([Delivery(message, "p", 1)])
    assert found.content == replace(PLAIN, content_type=media, data=b"\x02", topic="t")


def test_old_objects_with_own_headers_as_members_are_read() -> None:
    body = json.dumps({**MINIMAL, "X-Tenant": "eu"}).encode()
    assert decode_body(body, "t").headers[-1] == ("X-Tenant", b"eu")
