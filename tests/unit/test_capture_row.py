from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.codec import EXTENSIONS, from_row
from outbox.envelope import Envelope
from relay.capture.row import to_envelopes
from relay.sql import parse, statements

TEXT = st.none() | st.text(max_size=5)
NAMES = st.sampled_from([*EXTENSIONS, "own", "other"])
NUMBER = st.integers(-(2**53), 2**53)
VALUES = st.text(max_size=5) | st.none() | NUMBER | st.lists(NUMBER, max_size=2)
ROWS = st.tuples(
    st.integers(1, 2**62),
    st.uuids().map(str),
    TEXT,
    st.text(min_size=1),
    st.integers(1, 9),
    TEXT,
    TEXT,
    TEXT,
    st.datetimes(timezones=st.just(UTC)),
    st.text(),
    st.binary(),
    st.dictionaries(NAMES, VALUES, max_size=4),
)


@given(st.lists(ROWS, max_size=3))
def test_the_quick_way_makes_the_same_envelopes_as_the_codec(rows: list[tuple[Any, ...]]) -> None:
    read = [
        (*row[:11], orjson.dumps(row[11]).decode() if row[11] else None, b"", None) for row in rows
    ]
    expected = [from_row(*row) for row in rows]
    assert to_envelopes(read) == expected
    assert [hash(e.id) for e in to_envelopes(read)] == [hash(e.id) for e in expected]
    assert repr(to_envelopes(read)) == repr(expected)


def test_an_envelope_made_the_quick_way_is_frozen() -> None:
    now = datetime.now(UTC)
    row = (1, "i", None, "t", 1, None, None, None, now, "text/plain", b"", None, b"", None)
    (envelope,) = to_envelopes([row])
    assert type(envelope) is Envelope
    with pytest.raises(AttributeError):
        envelope.id = "other"  # type: ignore[misc]  # that is the point


def test_a_file_of_statements_is_split_at_their_names() -> None:
    text = "-- name: one\n-- why\nSELECT 1;\n\n-- name: two\nSELECT\n  2\n"
    assert parse(text) == {"one": b"SELECT 1", "two": b"SELECT\n  2"}


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'one'"):
        parse("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")


def test_sql_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="SELECT 1"):
        parse("SELECT 1;\n-- name: one\nSELECT 2;\n")


def test_the_capture_has_its_statements() -> None:
    assert {"next_page", "backlog", "now", "server"} <= statements("capture").keys()
