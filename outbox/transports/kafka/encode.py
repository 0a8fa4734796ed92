"""What Kafka is given of an event: its topic, key, headers and data, made of the event's row.

Most of it is the same for all events of one type and producer, so that is made once; the rest of
the work stands in one loop, where each microsecond counts as many times as there are events.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from outbox.codec import EXTENSIONS, PREFIX, fixed_headers
from outbox.errors import RecordRefusedError, TransientError
from outbox.rows import texts, to_envelope
from outbox.transports.kafka.size import is_too_large
from outbox.transports.kafka.topics import Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from outbox.rows import Row
    from outbox.transports.kafka.topics import Topics
    from outbox.transports.page import Page
    from outbox.transports.topic import TopicTemplate

Headers = list[tuple[str, bytes]]
Record = tuple[str, bytes, bytes | None, Headers]
"""Topic, data, key, headers: what a producer is called with."""

_ID: Final = PREFIX + "id"
_TIME: Final = PREFIX + "time"
_SEQUENCE: Final = PREFIX + "sequence"
_SUBJECT: Final = PREFIX + "subject"
_SLACK: Final = 4_000
"""Bytes that all of a record stays below but for its data, its subject, and what its kind and its
`headers` column make."""
_OWN_SHARE: Final = 3
"""Bytes of a record that the `headers` column of an event makes, at most, for each of its own:
`"a":"",` makes a header of a letter, its prefix and ten bytes of framing."""
_NAMES: Final = {name: PREFIX + name for name in EXTENSIONS}
_KINDS: Final = 10_000
"""Kinds of events that are remembered, at most."""


class Kind(NamedTuple):
    """What all events of one type and producer have in common."""

    topic: str
    headers: tuple[tuple[str, bytes], ...]
    sure_size: float
    """So many bytes of data surely fit."""
    needs_key: bool
    limit: float
    """Bytes of a record that its topic takes."""


class Encoder:
    """Makes records of rows, and settles the rows of which none may be made."""

    def __init__(self, template: TopicTemplate, topics: Topics, *, compresses: bool) -> None:
        self.stopped: tuple[int, TransientError | None] | None = None
        """Where the last batch broke off, and why: the destination does not answer, or a topic
        was found that the producer's batches may be too large for (None)."""
        self._template = template
        self._topics = topics
        self._compresses = compresses
        self._kinds: dict[tuple[object, ...], Kind] = {}
        self._good_until = -math.inf

    def records(
        self, page: Page, indexes: Sequence[int], learn: Callable[[str], bool]
    ) -> Iterator[Record]:
        """Make the records of these events one by one, in order, as they are asked for.

        An event that must not be sent is settled in the page and left out. `learn` finds out
        about a topic, and tells whether the producer's batches fit into it.
        """
        self._begin()
        rows, kinds, failures = page.rows, self._kinds, page.first_failures
        always_asks = self._template.depends_on_event
        # The kind of the event before: mostly the next one is of the same, and to compare it is
        # quicker than to look it up.
        known: tuple[object, ...] | None = None
        for index in indexes:
            if failures and page.holds_back(index):
                continue
            row = rows[index]
            seq, id_, source, type_, version, subject, key, topic, moment, media, data, own = row
            wanted = (type_, source, version, media, topic)
            if wanted != known or always_asks:
                found = (not always_asks and kinds.get(wanted)) or self._asked(page, index, learn)
                if found is None:
                    if self.stopped is not None:
                        return
                    continue
                known, kind = wanted, found
                name, common, sure_size, needs_key, _ = kind
            headers = [
                *common,
                (_ID, id_),
                (_TIME, moment[1:-1] + b"Z"),  # time_of, without the call
                (_SEQUENCE, b"%019d" % seq),
            ]
            size = len(data)
            if subject:
                headers.append((_SUBJECT, subject))
                size += len(subject)
            if own is not None:
                headers += own_headers(own)
                size += _OWN_SHARE * len(own)
            if size > sure_size or (needs_key and key is None):
                refusal = _refusal(kind, key, data, headers)
                if refusal is not None:
                    page.fail(index, refusal)
                    continue
            yield name, data, key, headers

    def topic_of(self, row: Row) -> str:
        """Return the topic of an event that a record was made of."""
        return self._template.topic(to_envelope(row))

    def forget(self) -> None:
        """Ask anew about every kind of event."""
        self._good_until = -math.inf

    def _begin(self) -> None:
        self.stopped = None
        if time.monotonic() > self._good_until:
            self._kinds.clear()
            self._good_until = math.inf

    def _asked(self, page: Page, index: int, learn: Callable[[str], bool]) -> Kind | None:
        """Find out about an event's kind; None where it was settled, or the batch has to stop."""
        row = page.rows[index]
        try:
            name = self.topic_of(row)
            if not learn(name):
                self.stopped = (index, None)
                return None
        except RecordRefusedError as refused:
            page.fail(index, refused)
            return None
        except TransientError as error:
            self.stopped = (index, error)
            return None
        topic = self._topics[name]
        if not isinstance(topic, Topic):
            page.fail(index, topic)
            return None
        self._good_until = min(self._good_until, self._topics.known_until(name))
        return self._remember(row, name, topic)

    def _remember(self, row: Row, name: str, topic: Topic) -> Kind:
        _, _, source, type_, version, _, _, chosen, _, media, _, _ = row
        headers = fixed_headers(PREFIX, source.decode(), type_.decode(), version, media.decode())
        # How small compression makes a record is known at the broker alone.
        limit = math.inf if topic.max_bytes is None or self._compresses else topic.max_bytes
        common = sum(len(text) * 4 + len(value) for text, value in headers)
        kind = Kind(name, headers, limit - common - _SLACK, topic.needs_key, limit)
        if len(self._kinds) >= _KINDS:
            self._kinds.clear()
        self._kinds[type_, source, version, media, chosen] = kind
        return kind


def own_headers(stored: bytes) -> Headers:
    """Return what the `headers` column of an event adds: extensions, and the application's own."""
    try:
        own = orjson.loads(stored)
        return [(_NAMES.get(name, name), value.encode()) for name, value in own.items()]
    except (AttributeError, orjson.JSONDecodeError):
        own = texts(
            stored
        )  # a producer has written them by plain SQL, and not all of them are text
        return [(_NAMES.get(name, name), value.encode()) for name, value in own.items()]


def _refusal(
    kind: Kind, key: bytes | None, data: bytes, headers: Headers
) -> RecordRefusedError | None:
    """Say why a record must not be sent, if so."""
    if key is None and kind.needs_key:
        return RecordRefusedError(
            f"the topic {kind.topic!r} is compacted, and the event has no partition key"
        )
    if is_too_large(kind.limit, key, data, headers):
        return RecordRefusedError(
            f"the event, {len(data)} bytes of data and its headers, is larger than"
            f" max.message.bytes = {kind.limit} of the topic {kind.topic!r}"
        )
    return None
