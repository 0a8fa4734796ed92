from __future__ import annotations

from datetime import UTC
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.codec import EXTENSIONS, PREFIX, from_row, to_headers
from outbox.envelope import Envelope
from outbox.rows import HEADERS, Rows
from outbox.testing import envelope
from outbox.transports.kafka.encode import own_headers
from relay.sql import parse, statements

TEXT = st.none() | st.text(max_size=5)
NAMES = st.sampled_from([*EXTENSIONS, "own", "other"])
NUMBER = st.integers(-(2**53), 2**53)
VALUES = st.text(max_size=5) | st.none() | NUMBER | st.lists(NUMBER, max_size=2)
COLUMNS = st.tuples(
    st.integers(1, 2**62),
    st.uuids().map(str),
    st.text(),
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


def as_row(columns: tuple[Any, ...]) -> Any:
    seq, id_, source, type_, version, subject, key, topic, moment, media, data, headers = columns
    texts = [None if text is None else text.encode() for text in (subject, key, topic)]
    written = orjson.dumps(moment.replace(tzinfo=None))
    own = orjson.dumps(headers) if headers else None
    fixed = (seq, id_.encode(), source.encode(), type_.encode(), version)
    return (*fixed, *texts, written, media.encode(), data, own)


@given(st.lists(COLUMNS, max_size=3))
def test_the_quick_way_makes_the_same_envelopes_as_the_codec(found: list[tuple[Any, ...]]) -> None:
    rows = Rows([as_row(columns) for columns in found])
    expected = [from_row(*columns) for columns in found]
    assert list(rows) == expected
    assert list(Rows.of(expected)) == expected
    assert [hash(e.id) for e in rows] == [hash(e.id) for e in expected]


@given(st.lists(COLUMNS, max_size=3))
def test_the_headers_of_a_row_are_those_of_its_envelope(found: list[tuple[Any, ...]]) -> None:
    rows = Rows([as_row(columns) for columns in found])
    for row, event in zip(rows.rows, rows, strict=True):
        names = {PREFIX + name for name in EXTENSIONS} | set(event.headers)
        expected = [header for header in to_headers(event) if header[0] in names]
        assert sorted(own_headers(row[HEADERS] or b"{}")) == sorted(expected)


def test_an_envelope_made_the_quick_way_is_frozen() -> None:
    made = Rows.of([envelope("t")])[0]
    assert type(made) is Envelope
    with pytest.raises(AttributeError):
        made.id = "other"  # type: ignore[misc]  # that is the point


def test_rows_are_a_sequence_of_events() -> None:
    events = [envelope("t", key, str(place).encode()) for place, key in enumerate("abc")]
    rows = Rows.of(events)
    assert Rows.of(rows) is rows
    assert [len(rows), rows[1], list(rows[1:]), rows[-1]] == [3, events[1], events[1:], events[2]]
    assert list(rows.pick([0, 2])) == [events[0], events[2]]
    assert rows.pick([0, 1, 2]) is rows
    assert (rows.keys(), rows.types()) == ([b"a", b"b", b"c"], [b"suite.case.ran"] * 3)
    assert (rows.any_key_in({b"c", b"d"}), rows.any_key_in({b"d"})) == (True, False)
    assert rows.data_size() == 3


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
