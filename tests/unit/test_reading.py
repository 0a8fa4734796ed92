"""What is read at a glance is what is read in full, whatever is delivered."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.codec import to_headers
from outbox.envelope import Envelope
from outbox.reading import Received, Unread, read, read_all
from outbox.transport import Delivery, Message
from tests.unit.test_codec import ENVELOPES, HOSTILE_VALUES, NAMES

TIME = b"2026-01-02T03:04:05.000006Z"
REQUIRED: dict[str, bytes | None] = {
    "ce_specversion": b"1.0",
    "ce_id": b"1",
    "ce_source": b"/s",
    "ce_type": b"t",
    "ce_version": b"1",
    "ce_time": TIME,
}
PLAIN = Envelope(
    id="1",
    source="/s",
    type="t",
    time=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    data=b"{}",
    partition_key="k",
    topic="topic",
    actor="user:1",
    headers={"own": "x"},
)


def delivery(key: bytes | None, headers: Any, data: bytes = b"{}") -> Delivery:
    return Delivery(Message("topic", key, headers, data), "topic[0]@1", 1)


def delivered(envelope: Envelope) -> Delivery:
    key = None if envelope.partition_key is None else envelope.partition_key.encode()
    return delivery(key, to_headers(envelope), envelope.data)


def shown(received: Received) -> tuple[object, ...]:
    """Return all that is known of a delivery in a form that compares."""
    content, place, identity, error = received
    whole = content.whole() if isinstance(content, Unread) else content
    return whole, place, identity, None if error is None else str(error)


def unread(envelope: Envelope = PLAIN) -> Unread:
    (received,) = read_all([delivered(envelope)])
    assert isinstance(received.content, Unread)
    return received.content


@given(
    st.lists(
        st.tuples(
            st.none() | st.binary(max_size=3) | st.text(max_size=3).map(str.encode),
            st.dictionaries(NAMES, HOSTILE_VALUES, max_size=3),
            st.lists(st.tuples(NAMES, HOSTILE_VALUES), max_size=1),
        ),
        max_size=3,
    )
)
def test_whatever_is_delivered_is_read_as_it_is_in_full(
    batch: list[tuple[bytes | None, dict[str, bytes | None], list[tuple[str, bytes | None]]]],
) -> None:
    deliveries = [
        delivery(key, [*{**REQUIRED, **changes}.items(), *more]) for key, changes, more in batch
    ]
    for found, each in zip(read_all(deliveries), deliveries, strict=True):
        assert shown(found) == shown(read(each))


@given(st.lists(ENVELOPES, max_size=3))
def test_events_are_read_as_they_are_in_full(envelopes: list[Envelope]) -> None:
    deliveries = [delivered(each) for each in envelopes]
    assert [*map(shown, read_all(deliveries))] == [shown(read(each)) for each in deliveries]


@pytest.mark.parametrize(
    "changes",
    [
        {"ce_specversion": b"0.3"},
        {"ce_id": b""},
        {"ce_id": b"x" * 1_001},
        {"ce_source": b""},
        {"ce_source": b"x" * 1_001},
        {"ce_type": b""},
        {"ce_version": b"0"},
        {"ce_version": b"-1"},
        {"ce_version": b"2147483648"},
        {"ce_version": b"x"},
        {"ce_time": b"2026-01-02T03:04:05"},
        {"ce_time": b"soon"},
        {"ce_partitionkey": b"x" * 1_001},
        {"ce_subject": b"\xff"},
        {"own": b"a\0b"},
        {"own\0": b"a"},
        {"own": None, "ce_id": b""},
    ],
)
def test_what_is_no_event_is_found_out_at_once_and_its_neighbours_are_read(
    changes: dict[str, bytes | None],
) -> None:
    junk = delivery(None, [*{**REQUIRED, **changes}.items()])
    before, found, after = read_all([delivered(PLAIN), junk, delivered(PLAIN)])
    assert found.error is not None
    assert found.content is junk.message
    assert (before.content, after.content) == (PLAIN, PLAIN)


def test_halves_of_a_letter_in_two_headers_are_no_letter() -> None:
    first, second = "é".encode()[:1], "é".encode()[1:]
    halves = delivery(None, [*REQUIRED.items(), ("a", first), ("b", second)])
    assert read_all([halves])[0].error is not None


def test_the_last_of_two_headers_counts_and_the_first_has_to_be_text() -> None:
    twice = delivery(None, [("ce_id", b"0"), *REQUIRED.items()])
    assert read_all([twice])[0].identity == ("/s", "1")
    broken = delivery(None, [("ce_id", b"\xff"), *REQUIRED.items()])
    assert read_all([broken])[0].error is not None


def test_an_envelope_that_nobody_looks_at_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = unread()
    with monkeypatch.context() as patch:
        patch.setattr("outbox.codec.from_headers", None)
        found = (envelope.id, envelope.source, envelope.type, envelope.version, envelope.data)
        assert found == ("1", "/s", "t", 1, b"{}")
        assert (envelope.partition_key, envelope.topic) == ("k", "topic")
    assert (envelope.actor, envelope.headers, envelope.time) == ("user:1", {"own": "x"}, PLAIN.time)


def test_an_envelope_that_is_read_late_is_one_like_any_other() -> None:
    envelope = unread()
    assert envelope == PLAIN
    assert envelope == unread()
    assert unread() != replace(PLAIN, id="2")
    assert unread() != object()
    assert repr(unread()) == repr(PLAIN)
    assert replace(unread(), id="2") == replace(PLAIN, id="2")
    for copied in (
        copy.copy(unread()),
        copy.deepcopy(unread()),
        pickle.loads(pickle.dumps(unread())),  # noqa: S301  # made here
    ):
        assert copied == PLAIN
    with pytest.raises(AttributeError):
        envelope.id = "2"  # type: ignore[misc]  # it is frozen
    with pytest.raises(AttributeError, match="nothing"):
        _ = envelope.nothing
