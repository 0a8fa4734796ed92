"""Which objects a batch becomes, decided without I/O."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from outbox.codec import REPLAY
from outbox.errors import RecordRefusedError
from outbox.structured import encode
from outbox.transports.s3.compress import SUFFIXES, compress
from outbox.transports.s3.entry import Entry, Listed
from outbox.transports.s3.keys import DEFAULT, KeyTemplate
from outbox.transports.topic import TopicTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope
    from outbox.transports.s3.options import Options

_TYPES: Final = {"json": "application/cloudevents+json", "jsonl": "application/x-ndjson"}
_PACKED_TYPES: Final = {"gzip": "application/gzip", "zstd": "application/zstd"}
_EXTENSIONS: Final = frozenset({"json", "jsonl", "ndjson"})
_DIGEST_BYTES: Final = 12


@dataclass(slots=True)
class Draft:
    """One object to be stored: its key, and its events with their places in the batch."""

    key: str
    lines: list[bytes] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    size: int = 0
    """Bytes before compression."""
    stored_size: int = 0
    """Bytes as stored, once that is known."""

    def add(self, index: int, line: bytes) -> None:
        """Add an event behind the others."""
        self.indexes.append(index)
        self.lines.append(line)
        self.size += len(line) + 1


@dataclass(frozen=True, slots=True)
class Layout:
    """What a batch becomes."""

    objects: Sequence[Draft]
    topics: Sequence[str | None]
    """Of each event of the batch; None for those that are dead, or held back by one."""
    dead: dict[int, RecordRefusedError]
    """Events that can never be stored, by their places."""


class Architect:
    """Lays batches out by a route's settings."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._topic = TopicTemplate(options.topic)
        suffix = f".{options.format}" if options.key is None else ""
        self._key = KeyTemplate((options.key or DEFAULT) + suffix)
        self._suffix = SUFFIXES[options.compression]
        self._is_lines = options.format == "jsonl"
        self.content_type = _PACKED_TYPES.get(options.compression, _TYPES[options.format])

    def lay_out(self, batch: Sequence[Envelope]) -> Layout:
        """Return the objects of a batch; events of one object are in the order of the batch."""
        objects: list[Draft] = []
        topics: list[str | None] = []
        dead: dict[int, RecordRefusedError] = {}
        dead_keys: set[str] = set()
        open_: dict[tuple[str, str], Draft] = {}
        for index, envelope in enumerate(batch):
            if envelope.partition_key in dead_keys:
                # It is held back, so no object may have it yet.
                topics.append(None)
                continue
            try:
                topic = self._topic.topic(envelope)
                key = self._key.key(envelope, topic)
                line = self._encoded(envelope)
            except RecordRefusedError as error:
                dead[index] = error
                topics.append(None)
                if envelope.partition_key is not None:
                    dead_keys.add(envelope.partition_key)
                continue
            topics.append(topic)
            draft = None
            if self._is_lines:
                place = (topic, self._key.folder(envelope, topic))
                draft = open_.get(place)
                if draft is None or not self._has_room(draft, line):
                    draft = open_[place] = Draft(key)
                    objects.append(draft)
            else:
                draft = Draft(key + self._suffix)
                objects.append(draft)
            draft.add(index, line)
        if self._is_lines:
            for draft in objects:
                draft.key = _named_by_content(draft.key, draft.lines) + self._suffix
        return Layout(objects, topics, dead)

    def body(self, draft: Draft) -> bytes:
        """Return what is stored."""
        text = b"\n".join([*draft.lines, b""]) if self._is_lines else draft.lines[0]
        return compress(text, self._options.compression)

    def _encoded(self, envelope: Envelope) -> bytes:
        limit = self._options.max_object_bytes
        line = encode(_as_emitted(envelope), on_one_line=self._is_lines)
        if len(line) > limit:
            raise RecordRefusedError(
                f"the event takes {len(line)} bytes as JSON; max_object_bytes is {limit}"
            )
        return line

    def _has_room(self, draft: Draft, line: bytes) -> bool:
        return (
            len(draft.indexes) < self._options.batch_events
            and draft.size + len(line) < self._options.batch_bytes
        )


def _as_emitted(envelope: Envelope) -> Envelope:
    """Return an event without the header of a replay, which the entry has.

    Its object may be there already, and an earlier entry that lists it is read by those who are
    behind: to them it is no repetition.
    """
    if REPLAY not in envelope.headers:
        return envelope
    kept = {name: value for name, value in envelope.headers.items() if name != REPLAY}
    return replace(envelope, headers=kept)


def _named_by_content(key: str, lines: Sequence[bytes]) -> str:
    """Return a key that only an object with these very lines has.

    Published again, an event may meet other neighbours. What an entry lists must not be overwritten
    by them.
    """
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for line in lines:
        digest.update(line)
        digest.update(b"\n")
    stem, dot, extension = key.rpartition(".")
    if extension in _EXTENSIONS:
        return f"{stem}-{digest.hexdigest()}{dot}{extension}"
    return f"{key}-{digest.hexdigest()}"


def listing_of(batch: Sequence[Envelope], layout: Layout, left_out: frozenset[int]) -> Entry:
    """Return an entry with the events of a batch in its order, some left out, and their objects."""
    places = {
        index: (number, line)
        for number, draft in enumerate(layout.objects)
        for line, index in enumerate(draft.indexes)
    }
    topics: dict[str, int] = {}
    objects: dict[int, int] = {}
    events: list[Listed] = []
    replayed: dict[str, list[int]] = {}
    for index, (envelope, topic) in enumerate(zip(batch, layout.topics, strict=True)):
        if topic is None or index in left_out:
            continue
        number, line = places[index]
        topic_number = topics.setdefault(topic, len(topics))
        object_number = objects.setdefault(number, len(objects))
        replayed_at = envelope.headers.get(REPLAY)
        if replayed_at is not None:
            replayed.setdefault(replayed_at, []).append(len(events))
        events.append(Listed(topic_number, object_number, line, hash_of(envelope)))
    used = [layout.objects[number] for number in objects]
    return Entry(
        nonce="",
        topics=list(topics),
        objects=[(draft.key, draft.stored_size) for draft in used],
        events=events,
        replayed=replayed,
    )


def hash_of(envelope: Envelope) -> int:
    """Return what decides an event's partition: the CRC-32 of its key, or of its id without one."""
    key = envelope.partition_key
    return zlib.crc32((envelope.id if key is None else key).encode())
