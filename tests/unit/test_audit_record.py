"""A record's canonical form is that of RFC 8785, whatever its texts are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from outbox.audit.record import (
    GENESIS,
    MEMBERS,
    Record,
    canonical,
    digest,
    from_json,
    hash_of,
    is_intact,
    members,
    of_row,
    to_json,
)
from outbox.rows import Rows, to_row
from outbox.testing import envelope
from tests.auditing import records

Text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
Optional = st.none() | Text
Hash = st.binary(min_size=32, max_size=32)
Records = st.builds(
    Record,
    position=st.integers(1, 2**53 - 1),
    event_id=Text,
    source=Text,
    type=Text,
    version=st.integers(1, 2**31 - 1),
    subject=Optional,
    partition_key=Optional,
    actor=Optional,
    correlation_id=Optional,
    causation_id=Optional,
    time=Text,
    sequence=st.integers(0, 2**63 - 1),
    data_digest=Hash,
    previous_hash=Hash,
    hash=Hash,
)
EVIL = "".join(map(chr, [*range(0xA0), 0x2028, 0xFFFD, 0xFFFF, 0x1F600])) + '"\\/'


@given(Records)
@example(records(1)[0]._replace(subject=EVIL, actor="\ud7ff\ue000", event_id="\x7f"))
def test_the_canonical_form_is_that_of_rfc_8785(record: Record) -> None:
    assert canonical(record) == rfc8785.dumps(members(record))


@given(Records)
def test_a_record_survives_its_json(record: Record) -> None:
    assert from_json(to_json(record)) == record
    assert tuple(to_json(record)) == MEMBERS


@given(Records, st.data())
def test_no_two_records_have_one_hash(record: Record, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([each for each in Record._fields if each != "hash"]))
    other = getattr(data.draw(Records), name)
    is_same = getattr(record, name) == other
    assert (hash_of(record._replace(**{name: other})) == hash_of(record)) == is_same


def test_a_record_says_what_the_event_was() -> None:
    event = envelope(
        "t",
        "o-1",
        b'{"a": 1}',
        version=2,
        subject="order/1",
        actor="user:42",
        correlation_id="c",
        causation_id="d",
        time=datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC),
        headers={"tenant": "eu"},
        sequence=7,
    )
    (row,) = Rows.of([event]).rows
    record = of_row(row, 1, GENESIS)
    assert members(record) == {
        "actor": "user:42",
        "causationid": "d",
        "correlationid": "c",
        "datadigest": sha256(b'application/json\0{"a": 1}').hexdigest(),
        "id": event.id,
        "partitionkey": "o-1",
        "position": 1,
        "previoushash": "00" * 32,
        "sequence": "7",
        "source": "/suite",
        "subject": "order/1",
        "time": "2026-05-01T12:00:00Z",
        "type": "suite.case.ran",
        "version": 2,
    }
    assert is_intact(record)
    assert record.hash == sha256(canonical(record)).digest()


def test_the_digest_tells_types_of_content_apart() -> None:
    assert digest("text/plain", b"1") != digest("application/json", b"1")
    assert digest("a", b"bc") != digest("ab", b"c")


def test_text_that_is_none_is_recorded_all_the_same() -> None:
    row = list(to_row(envelope("t")))
    row[5] = b"caf\xe9"
    record = of_row(tuple(row), 1, GENESIS)  # type: ignore[arg-type]  # as SQLite may have it
    assert record.subject == "caf\ufffd"


def test_a_null_is_another_record_than_an_empty_text() -> None:
    first = envelope("t", sequence=1)
    with_empty = replace(first, subject="")
    one, other = (of_row(row, 1, GENESIS) for row in Rows.of([first, with_empty]).rows)
    assert one.hash != other.hash


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"id": 1}, "'id' is no text"),
        ({"position": "1"}, "'position' is no whole number"),
        ({"position": True}, "'position' is no whole number"),
        ({"hash": "00"}, "'hash' is no SHA-256"),
        ({"hash": "zz" * 32}, "'hash' is no SHA-256 in hexadecimal"),
        ({"subject": 1}, "'subject' is no text"),
        ({"sequence": "one"}, "'sequence' is no text of a whole number"),
    ],
)
def test_what_is_no_record_says_why(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json({**to_json(records(1)[0]), **changed})


def test_a_record_without_a_member_says_which() -> None:
    found = to_json(records(1)[0])
    del found["time"]
    with pytest.raises(ValueError, match="no member 'time'"):
        from_json(found)
    with pytest.raises(ValueError, match="a record is an object"):
        from_json([found])


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"note": "approved"}, "note"),
        ({"sequence": "+1"}, "sequence"),
        ({"sequence": " 1"}, "sequence"),
        ({"hash": "AB" * 32}, "hash"),
    ],
)
def test_what_no_hash_covers_is_no_record(changed: dict[str, str], name: str) -> None:
    found = {**to_json(records(1)[0]), **changed}
    with pytest.raises(ValueError, match=f"its member '{name}' is none, or is not written"):
        from_json(found)
