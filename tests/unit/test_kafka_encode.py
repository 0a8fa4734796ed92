"""Records of rows: what they hold, and which of them may not be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from outbox.codec import to_headers
from outbox.errors import RecordRefusedError
from outbox.rows import Rows, to_envelope
from outbox.transport import Dead
from outbox.transports.kafka.encode import Encoder, Record
from outbox.transports.kafka.size import _exact
from outbox.transports.kafka.topics import Topic
from outbox.transports.page import Page
from outbox.transports.topic import TopicTemplate

if TYPE_CHECKING:
    from outbox.rows import Row

NUMBERS = st.integers(-(2**40), 2**40)
NAMES = st.sampled_from(["actor", "correlationid", "traceparent", "x", "Grüße", ""])
VALUES = st.one_of(st.text(max_size=40), NUMBERS, st.booleans(), st.none(), st.lists(NUMBERS))
HEADERS = st.dictionaries(NAMES, VALUES, max_size=5)


class Known(dict[str, Topic | RecordRefusedError]):
    """Topics that are known for good."""

    def known_until(self, _name: str) -> float:
        return float("inf")


def row(
    data: bytes = b"{}",
    *,
    subject: bytes | None = None,
    key: bytes | None = b"k",
    headers: bytes | None = None,
    topic: bytes | None = None,
    type_: bytes = b"shop.order.placed",
) -> Row:
    return (
        *(7, b"0199aabb-0000-7000-8000-000000000001", b"/shop", type_, 1),
        *(subject, key, topic, b'"2026-01-31T12:00:00.123456"', b"application/json", data, headers),
    )


def encoded(one: Row, topic: Topic) -> tuple[list[Record], Page]:
    encoder = Encoder(TopicTemplate("t"), Known(t=topic), compresses=False)  # type: ignore[arg-type]
    page = Page(Rows([one]))
    return list(encoder.records(page, [0], lambda _: True)), page


@given(HEADERS, st.none() | st.text(min_size=1))
def test_a_record_has_the_headers_that_an_envelope_has(
    headers: dict[str, object], subject: str | None
) -> None:
    one = row(
        subject=None if subject is None else subject.encode(),
        headers=orjson.dumps(headers) if headers else None,
    )
    ((topic, data, key, found),), _ = encoded(one, Topic(None, needs_key=False))
    assert (topic, data, key) == ("t", b"{}", b"k")
    assert sorted(found) == sorted(to_headers(to_envelope(one)))


@example(size=0, headers={}, many=0, subject=None, key="k" * 1_000)
@given(
    size=st.integers(0, 9_000),
    headers=HEADERS,
    many=st.integers(0, 3_000),
    subject=st.none() | st.integers(1, 9_000),
    key=st.none() | st.text(max_size=250),
)
def test_exactly_what_is_over_the_limit_of_its_topic_is_refused(
    size: int, headers: dict[str, object], many: int, subject: int | None, key: str | None
) -> None:
    """Also where the record is so small, or has so many short headers, that it is not measured."""
    headers |= {f"{number:x}": "" for number in range(many)}
    one = row(
        b"x" * size,
        subject=None if subject is None else b"s" * subject,
        key=None if key is None else key.encode(),
        headers=orjson.dumps(headers) if headers else None,
    )
    ((_, data, _, found),), _ = encoded(one, Topic(None, needs_key=False))
    exact = _exact(one[6], data, found)
    for limit in (exact - 1, exact, exact + 5_000):
        made, page = encoded(one, Topic(limit, needs_key=False))
        assert (len(made), page.failed_count) == ((1, 0) if exact <= limit else (0, 1))


def test_only_a_compacted_topic_refuses_what_has_no_key() -> None:
    assert encoded(row(key=None), Topic(None, needs_key=False))[0]
    made, page = encoded(row(key=None), Topic(None, needs_key=True))
    assert made == []
    (outcome,) = page.outcomes()
    assert isinstance(outcome, Dead)
    assert "compacted" in str(outcome.error)


def test_events_of_several_kinds_each_get_what_is_their_kinds() -> None:
    refusal = RecordRefusedError("no such topic")
    topics = Known(t=Topic(None, needs_key=False), u=Topic(None, needs_key=True), v=refusal)
    encoder = Encoder(TopicTemplate("t"), topics, compresses=False)  # type: ignore[arg-type]
    chosen = [None, None, b"u", b"v", b"u", None, b"v", b"v", b"u"]
    rows = [
        row(b"%d" % place, topic=topic, key=None if place == 8 else b"%d" % place)
        for place, topic in enumerate(chosen)
    ]
    rows.append(row(b"9", key=b"9", type_=b"shop.order.paid"))
    page = Page(Rows(rows))
    made = list(encoder.records(page, range(10), lambda _: True))
    sent = [(topic, data, dict(headers)["ce_type"]) for topic, data, _, headers in made]
    placed, paid = b"shop.order.placed", b"shop.order.paid"
    assert sent == [
        *[("t", b"0", placed), ("t", b"1", placed), ("u", b"2", placed), ("u", b"4", placed)],
        *[("t", b"5", placed), ("t", b"9", paid)],
    ]
    page.published(len(made))
    dead = [index for index, each in enumerate(page.outcomes()) if isinstance(each, Dead)]
    assert dead == [3, 6, 7, 8]
