"""Envelope ⇄ headers, rows and JSON; whatever else arrives is a DecodeError."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.codec import (
    ATTRIBUTES,
    from_headers,
    from_row,
    may_exceed,
    size_of,
    stored_headers,
    time_of,
    time_text,
    to_headers,
    to_json,
)
from outbox.envelope import Envelope
from outbox.errors import DecodeError
from outbox.testing import envelope as make_envelope

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
OPTIONAL = st.none() | TEXT
OWN_NAMES = TEXT.filter(
    lambda name: name.lower() not in ATTRIBUTES and not name.lower().startswith("ce_")
)
ZONES = st.timedeltas(timedelta(hours=-14), timedelta(hours=14)).map(
    lambda offset: timezone(timedelta(minutes=offset // timedelta(minutes=1)))
)
TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=ZONES)  # noqa: DTZ001  # Hypothesis adds the zone
ENVELOPES = st.builds(
    Envelope,
    id=TEXT,
    source=TEXT,
    type=TEXT,
    time=TIMES,
    data=st.binary(),
    version=st.integers(1, 2**31 - 1),
    content_type=TEXT,
    subject=OPTIONAL,
    partition_key=OPTIONAL,
    dataschema=OPTIONAL,
    correlation_id=OPTIONAL,
    causation_id=OPTIONAL,
    actor=OPTIONAL,
    traceparent=OPTIONAL,
    tracestate=OPTIONAL,
    topic=OPTIONAL,
    headers=st.dictionaries(OWN_NAMES, st.just("") | TEXT),
    sequence=st.none() | st.integers(0, 2**63 - 1),
)
PLAIN = Envelope(
    id="1", source="/s", type="t", time=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), data=b"{}"
)


def key_of(envelope: Envelope) -> bytes | None:
    return None if envelope.partition_key is None else envelope.partition_key.encode()


@given(ENVELOPES)
def test_headers_bring_an_envelope_back(envelope: Envelope) -> None:
    headers = to_headers(envelope)
    back = from_headers(key_of(envelope), headers, envelope.data, topic=envelope.topic)
    assert back == envelope
    size = sum(len(name.encode()) + len(value) for name, value in headers)
    assert size_of(envelope) == size + len(envelope.data) + len(key_of(envelope) or b"")


@given(ENVELOPES)
def test_no_envelope_that_is_too_large_is_taken_for_a_small_one(envelope: Envelope) -> None:
    assert may_exceed(envelope, size_of(envelope) - 1)


def test_small_envelopes_are_not_measured() -> None:
    envelope = make_envelope(None, data=b"d" * 1_000, subject="s" * 100, headers={"h": "v" * 100})
    assert not may_exceed(envelope, 3_000)


@given(ENVELOPES)
def test_a_row_brings_an_envelope_back(envelope: Envelope) -> None:
    row = (
        *(envelope.sequence, envelope.id, envelope.source, envelope.type, envelope.version),
        *(envelope.subject, envelope.partition_key, envelope.topic, envelope.time),
        *(envelope.content_type, envelope.data, stored_headers(envelope)),
    )
    assert from_row(*row) == envelope


NAMES = st.sampled_from(
    [f"ce_{name}" for name in sorted(ATTRIBUTES)] + ["content-type", "own", "ce_", "ce_other"]
)
HOSTILE_VALUES = (
    st.none()
    | st.binary(max_size=20)
    | st.sampled_from([b"1.0", b"1", b"-1", b"0", b"9" * 5000, b"2026-01-02T03:04:05Z", b"\0"])
    | st.sampled_from([b"0001-01-01T00:00:00+14:00", b"2026-01-02", b"NaN", "٣".encode()])
)


REQUIRED: list[tuple[str, bytes | None]] = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1"),
    ("ce_source", b"/s"),
    ("ce_type", b"t"),
]


@given(
    st.none() | st.binary(),
    st.lists(st.tuples(NAMES, HOSTILE_VALUES)).map(lambda extra: [*REQUIRED, *extra])
    | st.lists(st.tuples(st.text(), HOSTILE_VALUES)),
    st.none() | st.binary(),
)
def test_whatever_arrives_is_an_envelope_or_a_decode_error(
    key: bytes | None, headers: list[tuple[str, bytes | None]], data: bytes | None
) -> None:
    try:
        envelope = from_headers(key, headers, data)
    except DecodeError:
        return
    assert from_headers(key_of(envelope), to_headers(envelope), envelope.data) == envelope
    time_text(envelope.time)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ce_specversion": b"0.3"}, "'0.3' is not 1.0"),
        ({"ce_id": b""}, "ce_id is empty"),
        ({"ce_source": b""}, "ce_source is empty"),
        ({"ce_type": b""}, "ce_type is empty"),
        ({"ce_id": None}, "ce_id is empty"),
        ({"ce_version": b"0"}, "0 is not between 1"),
        ({"ce_version": b"x"}, "cannot be read"),
        ({"ce_version": b"2147483648"}, "not between 1 and 2147483647"),
        ({"ce_time": b"2026-01-02T03:04:05"}, "no time zone"),
        ({"ce_time": b"soon"}, "cannot be read"),
        ({"ce_time": b"0001-01-01T00:00:00+14:00"}, "cannot be read"),
        ({"ce_subject": b"\xff"}, "cannot be read"),
        ({"own": b"a\0b"}, "NUL"),
        ({"own\0": b"a"}, "NUL"),
        ({"ce_id": b"x" * 1_001}, "its id is longer than 1000 bytes"),
        ({"ce_source": "é".encode() * 501}, "its source is longer than 1000 bytes"),
        ({"ce_partitionkey": b"x" * 1_001}, "its key is longer than 1000 bytes"),
    ],
)
def test_a_header_that_is_not_valid_is_named(
    changes: dict[str, bytes | None], message: str
) -> None:
    headers: dict[str, bytes | None] = {**dict(to_headers(PLAIN)), **changes}
    with pytest.raises(DecodeError, match=message):
        from_headers(None, list(headers.items()), b"{}")


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type"])
def test_a_missing_attribute_is_named(name: str) -> None:
    headers = [header for header in to_headers(PLAIN) if header[0] != f"ce_{name}"]
    with pytest.raises(DecodeError, match=f"no header ce_{name}, so it is no CloudEvent"):
        from_headers(None, headers, b"{}")


@pytest.mark.parametrize(("key", "text"), [(b"\xff1", "\\xff1"), (b"\0\0\7", "\\x00\\x00\7")])
def test_a_key_that_is_no_text_is_written_as_one(key: bytes, text: str) -> None:
    assert from_headers(key, to_headers(PLAIN), b"{}").partition_key == text


@pytest.mark.parametrize("value", ["-1", "a-17", "", "9223372036854775808", "\N{SUPERSCRIPT TWO}"])
def test_a_sequence_of_another_kind_stays_as_it_is(value: str) -> None:
    envelope = from_headers(None, [*REQUIRED, ("ce_sequence", value.encode())], b"{}")
    assert (envelope.sequence, envelope.headers) == (None, {"ce_sequence": value})


@pytest.mark.parametrize("name", ["content-type", "Content-Type", "ce_datacontenttype"])
def test_the_media_type_is_found_where_other_producers_put_it(name: str) -> None:
    envelope = from_headers(None, [*REQUIRED, (name, b"text/csv")], b"{}")
    assert (envelope.content_type, envelope.headers) == ("text/csv", {})


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-02T03:04:05.123456789Z", datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
        ("2026-01-02t03:04:05.5z", datetime(2026, 1, 2, 3, 4, 5, 500000, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2026-01-02T03:04:05-02:30", datetime(2026, 1, 2, 5, 34, 5, tzinfo=UTC)),
    ],
)
def test_every_moment_of_the_specification_is_read(text: str, moment: datetime) -> None:
    assert time_of(text) == moment


def test_what_a_foreign_producer_leaves_out_or_adds_does_no_harm() -> None:
    required = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s")]
    headers = [*required, ("ce_type", b"t"), ("ce_partitionkey", b"k"), ("ce_region", b"eu")]
    envelope = from_headers(None, headers, None)
    assert (envelope.version, envelope.data, envelope.partition_key) == (1, b"", "k")
    assert datetime.now(UTC) - envelope.time < timedelta(minutes=1)
    assert envelope.headers == {"ce_region": "eu"}
    assert from_headers(b"record", headers, None).partition_key == "record"


def test_another_prefix_serves_other_bindings() -> None:
    headers = to_headers(PLAIN, prefix="ce-")
    assert ("ce-id", b"1") in headers
    assert from_headers(None, headers, PLAIN.data, prefix="ce-") == PLAIN


def test_a_row_of_plain_sql_may_have_any_json_among_its_headers() -> None:
    headers: dict[str, Any] = {"a": 1, "b": [1, "x"], "c": None, "actor": {"id": 1}, "d": "x"}
    moment = datetime.now(UTC)
    envelope = from_row(1, "i", None, "t", 1, None, None, None, moment, "x/y", b"text", headers)
    assert envelope.headers == {"a": "1", "b": '[1,"x"]', "d": "x"}
    assert (envelope.actor, envelope.data, envelope.source) == ('{"id":1}', b"text", None)


def test_the_json_format_has_data_inline_or_in_base64() -> None:
    assert to_json(replace(PLAIN, actor="a", partition_key="k", sequence=7)) == {
        "specversion": "1.0",
        "id": "1",
        "source": "/s",
        "type": "t",
        "time": "2026-01-02T03:04:05.000006Z",
        "datacontenttype": "application/json",
        "version": 1,
        "partitionkey": "k",
        "sequence": "7",
        "actor": "a",
        "data": {},
    }
    assert (
        to_json(replace(PLAIN, data=b"\xff"))["data_base64"] == base64.b64encode(b"\xff").decode()
    )


def test_times_are_utc_and_need_a_zone() -> None:
    assert time_text(datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))) == (
        "2026-01-02T01:00:00Z"
    )
    with pytest.raises(ValueError, match="no time zone"):
        time_of("2026-01-02T03:04:05")
