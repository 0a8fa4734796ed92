"""Envelope ⇄ what travels: rows, the CloudEvents binary mode, and JSON for people and files.

Sources: CloudEvents 1.0.2 core specification; its Kafka protocol binding 1.0.2 (binary mode: each
attribute in a header `ce_…`, the media type in `content-type`); its JSON format 1.0.2.
"""

from __future__ import annotations

import base64
import re
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from functools import lru_cache
from itertools import chain, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import orjson

from outbox.envelope import (
    JSON_CONTENT_TYPE,
    MAX_NAME_BYTES,
    MAX_VERSION,
    SPEC_VERSION,
    Draft,
    Envelope,
)
from outbox.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PREFIX: Final = "ce_"
"""What an attribute's header begins with."""

REPLAY: Final = "outbox-replay"
"""Header of every event that a replay sends again; its value is when the replay began."""

EXTENSIONS: Final = {
    "dataschema": "dataschema",
    "correlationid": "correlation_id",
    "causationid": "causation_id",
    "actor": "actor",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
}
"""Attributes that the table keeps in its `headers` column: CloudEvents name → field."""

ATTRIBUTES: Final = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"}
    | {"data_base64", "content-type", "version", "partitionkey", "sequence"}
    | EXTENSIONS.keys()
)
"""Names that an application's own header may not have."""


_SEQUENCE_DIGITS: Final = 19
"""Of the largest number that the table holds."""
_JSON: Final = re.compile(r"[^/;]+/(?:[^/;]+\+)?json\s*(?:;|$)", re.IGNORECASE)


def is_json(content_type: str) -> bool:
    """Tell whether data of a media type is JSON, by its subtype."""
    return _JSON.match(content_type) is not None


def sequence_text(sequence: int) -> str:
    """Write the extension `sequence`: so that the order of the texts is that of the numbers."""
    return f"{sequence:019d}"


def stored_headers(envelope: Envelope) -> dict[str, str]:
    """Return the `headers` column of an envelope: its extensions and the application's own."""
    values = _extensions(envelope)
    if values.count(None) == len(values):
        return dict(envelope.headers)
    extensions = zip(EXTENSIONS, values, strict=True)
    return {
        **envelope.headers,
        **{name: value for name, value in extensions if value is not None},
    }


_extensions: Final = attrgetter(*EXTENSIONS.values())


def from_row(
    seq: int | None,
    id: str,  # noqa: A002  # the column's name
    source: str | None,
    type: str,  # noqa: A002  # the column's name
    version: int,
    subject: str | None,
    partition_key: str | None,
    topic: str | None,
    time: datetime,
    content_type: str,
    data: bytes,
    headers: Mapping[str, Any],
) -> Envelope:
    """Make the envelope of one `outbox_event` row; columns in the order of `ROW_COLUMNS`.

    A producer that writes plain SQL may store anything JSON as a header: what is not text
    becomes its JSON.
    """
    extensions: dict[str, str] = {}
    own: dict[str, str] = {}
    if headers:
        values = {
            name: value if isinstance(value, str) else orjson.dumps(value).decode()
            for name, value in headers.items()
            if value is not None
        }
        for name, field in EXTENSIONS.items():
            if name in values:
                extensions[field] = values.pop(name)
        own = values
    return Envelope(
        id=str(id),
        source=source,
        type=type,
        time=time,
        data=bytes(data),
        version=version,
        content_type=content_type,
        subject=subject,
        partition_key=partition_key,
        topic=topic,
        headers=own,
        sequence=seq,
        **extensions,
    )


ROW_COLUMNS: Final = (
    "seq",
    "id",
    "source",
    "type",
    "version",
    "subject",
    "partition_key",
    "topic",
    "time",
    "content_type",
    "data",
    "headers",
)


def size_of(envelope: Envelope) -> int:
    """Return how many bytes of data, key and headers its record has, without its framing."""
    headers = sum(len(name.encode()) + len(value) for name, value in to_headers(envelope))
    return len(envelope.data) + len((envelope.partition_key or "").encode()) + headers


def may_exceed(envelope: Envelope, limit: int) -> bool:
    """Tell at once that `size_of` is within a limit, or that it has to be asked."""
    texts = (*_texts(envelope), *envelope.headers, *envelope.headers.values())
    letters = sum(map(len, filter(None, texts)))
    return len(envelope.data) + _BYTES_OF_A_LETTER * letters + _BYTES_OF_THE_REST > limit


_texts: Final = attrgetter(
    "id", "source", "type", "content_type", "subject", "partition_key", *EXTENSIONS.values()
)
_BYTES_OF_A_LETTER: Final = 4
"""At most."""
_BYTES_OF_THE_REST: Final = 500
"""More than the attributes' names, the time and the numbers take."""


def to_headers(envelope: Envelope, prefix: str = "ce_") -> list[tuple[str, bytes]]:
    """Return the headers of the binary mode: attributes first, then the application's own.

    The partition key is the record's key, so it is not repeated here.
    """
    headers = [
        *fixed_headers(
            prefix, envelope.source or "", envelope.type, envelope.version, envelope.content_type
        ),
        (prefix + "id", envelope.id.encode()),
        (prefix + "time", time_text(envelope.time).encode()),
    ]
    if envelope.sequence is not None:
        headers.append((prefix + "sequence", b"%019d" % envelope.sequence))
    if envelope.subject:
        headers.append((prefix + "subject", envelope.subject.encode()))
    if envelope.correlation_id is not None:
        headers.append((prefix + "correlationid", envelope.correlation_id.encode()))
    if envelope.causation_id is not None:
        headers.append((prefix + "causationid", envelope.causation_id.encode()))
    if envelope.actor is not None:
        headers.append((prefix + "actor", envelope.actor.encode()))
    if envelope.traceparent is not None:
        headers.append((prefix + "traceparent", envelope.traceparent.encode()))
    if envelope.tracestate is not None:
        headers.append((prefix + "tracestate", envelope.tracestate.encode()))
    if envelope.dataschema is not None:
        headers.append((prefix + "dataschema", envelope.dataschema.encode()))
    if envelope.headers:
        headers += [(name, value.encode()) for name, value in envelope.headers.items()]
    return headers


@lru_cache(maxsize=1_000)
def fixed_headers(
    prefix: str, source: str, event_type: str, version: int, content_type: str
) -> tuple[tuple[str, bytes], ...]:
    """Return the headers that all events of one type and producer share."""
    return (
        (prefix + "specversion", SPEC_VERSION.encode()),
        (prefix + "source", source.encode()),
        (prefix + "type", event_type.encode()),
        (prefix + "version", b"%d" % version),
        ("content-type", content_type.encode()),
    )


def from_headers(
    key: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    data: bytes | None,
    *,
    topic: str | None = None,
    prefix: str = PREFIX,
) -> Envelope:
    """Read a message in binary mode; raises `DecodeError` where it is no such CloudEvent.

    Without a `ce_time` the event happened now, and without a media type its data is JSON.
    Extensions that this library does not know stay among the headers, under their full name; so
    does a `sequence` that is no number of an outbox. A key that is no text is written as one.
    """
    names = _names(prefix)
    try:
        texts = {name: (value or b"").decode() for name, value in headers}
        if "\0" in "".join(chain(texts, texts.values())):
            raise ValueError("it contains a NUL character")  # noqa: TRY301  # as the others
        found = list(map(texts.pop, names, repeat(None)))
        specversion, event_id, source, event_type, time, version, subject, sequence, *rest = found
        own_key, dataschema, correlation_id, causation_id, actor, traceparent, tracestate = rest
        if not (specversion and event_id and source and event_type):
            raise _incomplete(names, found)
        if specversion != SPEC_VERSION:
            raise DecodeError(f"CloudEvents version {specversion!r} is not {SPEC_VERSION}")
        partition_key = own_key if key is None else _text_of(key)
        _check_lengths(event_id, source, partition_key or "")
        draft = Draft()
        draft.id = event_id
        draft.source = source
        draft.type = event_type
        draft.time = datetime.now(UTC) if time is None else time_of(time)
        draft.data = data or b""
        draft.version = 1 if version is None else _number(version, 1, MAX_VERSION)
        draft.content_type = texts.pop("content-type", None) or _content_type(texts, prefix)
        draft.subject = subject or None
        draft.partition_key = partition_key
        draft.topic = topic
        draft.dataschema = dataschema
        draft.correlation_id = correlation_id
        draft.causation_id = causation_id
        draft.actor = actor
        draft.traceparent = traceparent
        draft.tracestate = tracestate
        draft.headers = texts
        draft.sequence = None if sequence is None else _sequence(sequence)
        if draft.sequence is None and sequence is not None:
            texts[prefix + "sequence"] = sequence
    except (ValueError, OverflowError) as exc:
        msg = f"the message has a header or key that cannot be read: {exc}"
        raise DecodeError(msg) from exc
    return draft.finish()


_REQUIRED: Final = ("specversion", "id", "source", "type")


@lru_cache(maxsize=16)
def _names(prefix: str) -> tuple[str, ...]:
    """Return the headers that are attributes, in the order in which `from_headers` takes them."""
    others = ("time", "version", "subject", "sequence", "partitionkey", *EXTENSIONS)
    return tuple(prefix + name for name in (*_REQUIRED, *others))


def _incomplete(names: Sequence[str], found: Sequence[str | None]) -> DecodeError:
    """Say which of the required attributes is missing or empty; those are the first ones."""
    required = list(zip(names, found, strict=True))[: len(_REQUIRED)]
    for name, text in required:
        if text is None:
            return DecodeError(f"the message has no header {name}, so it is no CloudEvent")
    empty = next(name for name, text in required if not text)
    return DecodeError(f"the message's header {empty} is empty")


# What the columns hold where an envelope is stored again.
_MAX_SEQUENCE: Final = 2**63 - 1


def _text_of(key: bytes) -> str:
    """Return a record's key as text; another producer may have made it of any bytes."""
    return key.decode(errors="backslashreplace").replace("\0", "\\x00")


def _content_type(texts: dict[str, str], prefix: str) -> str:
    """Find the media type where other producers put it."""
    wanted = {"content-type", prefix + "datacontenttype"}
    found = [texts.pop(name) for name in list(texts) if name.lower() in wanted]
    return next(filter(None, found), JSON_CONTENT_TYPE)


def _sequence(text: str) -> int | None:
    """Read a number of an outbox; None for what other producers may order their events by."""
    if not (text.isascii() and text.isdigit() and len(text) <= _SEQUENCE_DIGITS):
        return None
    number = int(text)
    return number if number <= _MAX_SEQUENCE else None


def _check_lengths(event_id: str, source: str, partition_key: str) -> None:
    # A letter takes four bytes at most.
    if 4 * (len(event_id) + len(source) + len(partition_key)) <= MAX_NAME_BYTES:
        return
    for name, text in (("id", event_id), ("source", source), ("key", partition_key)):
        if len(text.encode()) > MAX_NAME_BYTES:
            raise ValueError(f"its {name} is longer than {MAX_NAME_BYTES} bytes")


def _number(text: str, least: int, most: int) -> int:
    number = int(text)
    if not least <= number <= most:
        raise ValueError(f"{number} is not between {least} and {most}")
    return number


def to_json(envelope: Envelope) -> dict[str, Any]:
    """Return the event for people and scripts: the JSON format of CloudEvents, but for two things.

    The sequence is as one would type it, and the application's own headers stand among the
    attributes; `outbox.structured` writes what other programs read.
    """
    event: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
        "time": time_text(envelope.time),
        "datacontenttype": envelope.content_type,
        "version": envelope.version,
        "subject": envelope.subject,
        "partitionkey": envelope.partition_key,
        "sequence": None if envelope.sequence is None else str(envelope.sequence),
        **stored_headers(envelope),
    }
    event = {name: value for name, value in event.items() if value is not None}
    try:
        event["data"] = orjson.loads(envelope.data)
    except orjson.JSONDecodeError:
        event["data_base64"] = base64.b64encode(envelope.data).decode()
    return event


_LEAP_SECOND: Final = re.compile(r"(T\d\d:\d\d):60")


def time_text(moment: datetime) -> str:
    """Write a moment as RFC 3339 in UTC, ending in `Z`."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat()[: -len("+00:00")] + "Z"


def time_of(text: str) -> datetime:
    """Read an RFC 3339 moment; raises `ValueError` where it has no time zone.

    What is finer than a microsecond is cut off, and a leap second is the one before it.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        # Its letters may be small, and of leap seconds Python knows nothing.
        moment = datetime.fromisoformat(_LEAP_SECOND.sub(r"\1:59", text.upper()))
    if moment.tzinfo is None:
        msg = f"the time {text!r} has no time zone"
        raise ValueError(msg)
    if not MINYEAR < moment.year < MAXYEAR:
        moment.astimezone(UTC)  # raises where UTC has no such year
    return moment
