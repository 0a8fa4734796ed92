"""Our codec against the official SDK of CloudEvents, both ways and in both modes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from outbox.codec import to_headers
from outbox.envelope import Envelope
from outbox.reading import read_all
from outbox.structured import decode as decode_body
from outbox.structured import encode
from outbox.transport import Delivery, Message
from tests.cloudevents_sdk import (
    attributes_of,
    data_of,
    equals,
    events,
    matches,
    message_of,
    read_binary,
    read_json,
)
from tests.unit.test_codec import ENVELOPES, PLAIN

MEDIA = st.sampled_from(["application/json", "text/plain", "application/x+json;charset=utf-8"])
OURS = st.builds(
    replace,
    # No octet of a header may be a control character, and the SDK knows of years with four digits.
    ENVELOPES.filter(lambda each: each.time.year > 1000),
    content_type=MEDIA,
    data=st.sampled_from([b"", b"{}", b'{"a":[1.5,"\xc3\xa9",null]}', b'"text"', b"17", b"\xff\0"]),
)

# Events have many parts, and a busy machine makes them slowly.
patient = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def received(key: bytes | None, headers: Any, data: bytes) -> Envelope:
    (found,) = read_all([Delivery(Message("topic", key, headers, data), "place", 1)])
    assert found.error is None
    assert isinstance(found.content, Envelope)
    return found.content


@patient
@given(OURS)
def test_the_sdk_reads_our_binary_mode(envelope: Envelope) -> None:
    key = None if envelope.partition_key is None else envelope.partition_key.encode()
    event = read_binary(key, dict(to_headers(envelope)), envelope.data)
    try:
        data = data_of(envelope)
    except ValueError:  # what claims to be JSON and is not; the SDK hands it out as it is
        data = event.get_data()
    assert event.get_attributes() == attributes_of(envelope)
    assert event.get_data() == data


@patient
@given(OURS)
def test_the_sdk_reads_our_structured_mode(envelope: Envelope) -> None:
    event = read_json(encode(replace(envelope, headers={}), on_one_line=True))
    attributes = event.get_attributes()
    assert attributes | {"version": str(attributes["version"])} == attributes_of(envelope)
    data = event.get_data()
    # Bytes are bytes there; in binary mode the SDK tries to make text of them.
    is_inline = not isinstance(data, bytes)
    assert data == (data_of(envelope) if is_inline else envelope.data)


@patient
@given(ENVELOPES)
def test_headers_of_any_name_leave_an_object_that_the_sdk_reads(envelope: Envelope) -> None:
    assume(envelope.time.year > 1000 and envelope.headers)
    event = read_json(encode(envelope, on_one_line=False))
    assert isinstance(event.get_extension("outboxheaders"), str)


@patient
@given(events(), st.booleans())
def test_we_read_what_the_sdk_writes(event: CloudEvent, structured: bool) -> None:  # noqa: FBT001
    message = message_of(event, structured=structured)
    key = message.key.encode() if isinstance(message.key, str) else message.key
    assert matches(received(key, list(message.headers.items()), message.value), event)


@patient
@given(events(st.booleans() | st.integers(-(2**31), 2**31 - 1)))
def test_numbers_and_truth_values_of_the_sdk_have_their_canonical_text(event: CloudEvent) -> None:
    message = message_of(event, structured=True)
    key = message.key.encode() if isinstance(message.key, str) else message.key
    assert matches(received(key, list(message.headers.items()), message.value), event)


@patient
@given(events())
def test_we_read_a_json_object_of_the_sdk(event: CloudEvent) -> None:
    message = decode_body(JSONFormat().write(event), "topic")
    assert matches(received(message.key, message.headers, message.data), event)


@pytest.mark.parametrize("structured", [False, True])
def test_the_longest_and_the_shortest_event(structured: bool) -> None:  # noqa: FBT001
    least = CloudEvent({"id": "1", "source": "/s", "type": "t"}, None)
    message = message_of(least, structured=structured)
    assert matches(received(None, list(message.headers.items()), message.value), least)
    zone = timezone(timedelta(hours=5, minutes=45))
    full = replace(
        PLAIN,
        subject="Zürich/☃",
        partition_key="schlüssel",
        time=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=zone),
        sequence=2**63 - 1,
        dataschema="https://example.org/schema?a=b&c=%20d#e",
        tracestate="a=1,b=2",
    )
    ours = encode(full, on_one_line=True) if structured else b""
    event = (
        read_json(ours)
        if structured
        else read_binary("schlüssel".encode(), dict(to_headers(full)), full.data)
    )
    assert equals(event, full)
    assert event.get_time() == datetime(2026, 1, 1, 21, 19, 5, 6, tzinfo=UTC)
