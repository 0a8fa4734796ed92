"""An event as one JSON object, and back: the structured mode of CloudEvents, data untouched.

Sources: the JSON format of CloudEvents 1.0.2, and for where it is used the Kafka protocol binding.

Data that is JSON stands in the object as the very bytes that were emitted, as the last member, so
that it can be cut out again; all other data is in `data_base64`. An application's own headers are
no attributes, and may have names that none can have: they stand together in `outboxheaders`, an
extension that is the text of a JSON object.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, Final

import orjson

from outbox.codec import (
    ATTRIBUTES,
    EXTENSIONS,
    PREFIX,
    is_json,
    sequence_text,
    stored_headers,
    time_text,
)
from outbox.envelope import JSON_CONTENT_TYPE, SPEC_VERSION
from outbox.errors import DecodeError
from outbox.transport import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.envelope import Envelope

CONTENT_TYPE: Final = "application/cloudevents+json"
_ANY_CONTENT_TYPE: Final = "application/cloudevents"
"""What the media type of every event format begins with."""
OWN: Final = "outboxheaders"
"""The extension that an application's own headers stand in."""

_DATA: Final = b',"data":'
"""It stands nowhere before: inside of a string its quotes would be escaped."""
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")
_NAME: Final = re.compile(r"[a-z0-9]+")
_NOT_HEADERS: Final = frozenset({"data", "data_base64", "datacontenttype", "partitionkey", OWN})
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_value_at: Final = json.JSONDecoder().raw_decode


def encode(envelope: Envelope, *, on_one_line: bool) -> bytes:
    """Write an event as one JSON object.

    On one line, line breaks of its data become spaces; where data is JSON, they have no meaning.
    """
    extensions, own = _divided(stored_headers(envelope))
    # The event's own attributes win over an extension of the same name.
    event: dict[str, Any] = {
        **extensions,
        "specversion": SPEC_VERSION,
        "id": envelope.id,
        "source": envelope.source or "",
        "type": envelope.type,
        "time": time_text(envelope.time),
        "datacontenttype": envelope.content_type,
        "version": envelope.version,
    }
    if envelope.subject:
        event["subject"] = envelope.subject
    if envelope.partition_key is not None:
        event["partitionkey"] = envelope.partition_key
    if envelope.sequence is not None:
        event["sequence"] = sequence_text(envelope.sequence)
    if own:
        event[OWN] = orjson.dumps(own).decode()
    data = envelope.data
    if not (is_json(envelope.content_type) and _parses(data)):
        event["data_base64"] = base64.b64encode(data).decode()
        return orjson.dumps(event)
    if on_one_line:
        data = data.translate(_LINE_BREAKS)
    return b"%b%b%b}" % (orjson.dumps(event)[:-1], _DATA, data)


def decode(body: bytes, topic: str) -> Message:
    """Read an event's JSON object, whoever wrote it, as a message in binary mode.

    Extensions that this library does not know become headers `ce_…`, as they would have been in
    binary mode. Raises `ValueError` where it is no event.
    """
    event = _object(body)
    key = event.get("partitionkey")
    headers: list[tuple[str, bytes | None]] = [
        (PREFIX + name if _NAME.fullmatch(name) else name, _text(name, value))
        for name, value in event.items()
        if value is not None and name not in _NOT_HEADERS
    ]
    media = event.get("datacontenttype")
    if media is not None:
        headers.append(("content-type", _text("datacontenttype", media)))
    own = event.get(OWN)
    if own is not None:
        headers += _own(own)
    data = _data(event, body)
    return Message(topic, None if key is None else _text("partitionkey", key), headers, data)


def is_structured(content_type: str) -> bool:
    """Tell by its media type whether a message is an event in the structured mode."""
    return content_type[: len(_ANY_CONTENT_TYPE)].lower() == _ANY_CONTENT_TYPE


def unfolded(message: Message) -> Message:
    """Return a message in binary mode, whichever mode it is in.

    In structured mode all attributes are in its data: headers `ce_…` may repeat them and do not
    count, all other headers stay. Its key is the partition key, as in binary mode. Raises
    `DecodeError` where its data is no event.
    """
    names = [name for name, _ in message.headers]
    is_binary = f"{PREFIX}id" in names
    content_type = next((value for name, value in message.headers if name == "content-type"), None)
    if content_type is None and not is_binary:
        # The binding has it in small letters, and some producers have not.
        found = [value for name, value in message.headers if name.lower() == "content-type"]
        content_type = next(iter(found), None)
    if not content_type:
        return message
    media = content_type.decode(errors="replace")
    if not is_structured(media):
        return message
    media_type = media.partition(";")[0].strip().lower()
    if media_type != CONTENT_TYPE:
        # It may still be an event in binary mode, which happens to be about another one.
        if is_binary:
            return message
        raise DecodeError(f"the message is {media_type}; read are one event, and JSON, alone")
    try:
        event = decode(message.data, message.topic)
    except (ValueError, RecursionError) as exc:
        raise DecodeError(f"the message is no event in JSON: {exc}") from exc
    others = [
        header
        for header in message.headers
        if header[0].lower() != "content-type" and not header[0].startswith(PREFIX)
    ]
    key = event.key if message.key is None else message.key
    return event._replace(key=key, headers=[*others, *event.headers])


def _divided(headers: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Divide the `headers` column: what are attributes, and the application's own."""
    extensions: dict[str, str] = {}
    own: dict[str, str] = {}
    for name, value in headers.items():
        known = EXTENSIONS.get(name) and name
        other = name.removeprefix(PREFIX) if name.startswith(PREFIX) else ""
        attribute = known or (other if _NAME.fullmatch(other) and other not in ATTRIBUTES else None)
        if attribute is None:
            own[name] = value
        else:
            extensions[attribute] = value
    return extensions, own


def _parses(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def _object(body: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        # Of numbers it takes only those that it can hold, and data may have any.
        event = json.loads(body, parse_constant=_refuse)
    if not isinstance(event, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004  # what a reader of bytes raises
    return event


def _refuse(constant: str) -> None:
    msg = f"{constant} is no JSON"
    raise ValueError(msg)


def _data(event: dict[str, Any], body: bytes) -> bytes:
    if event.get("data_base64") is not None:
        return base64.b64decode(_text("data_base64", event["data_base64"]), validate=True)
    if "data" not in event:
        return b""
    data = event["data"]
    if isinstance(data, str) and not is_json(event.get("datacontenttype") or JSON_CONTENT_TYPE):
        return data.encode()
    start = body.find(_DATA)
    if start >= 0 and next(reversed(event)) == "data":
        # As this library writes it; no attribute can be an object, so it is this very member.
        return body[start + len(_DATA) : body.rindex(b"}")]
    return _member(body.decode(), "data").encode()


def _member(text: str, wanted: str) -> str:
    """Return the text of a member's value; where the name is repeated, of the last one."""
    found = ""
    for name, start, end in _members(text):
        if name == wanted:
            found = text[start:end]
    return found


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the members of a JSON object that parses: name, and where its value is."""
    place = _skip(text, _skip(text, 0) + 1)
    while text[place] != "}":
        name, end = _value_at(text, place)
        start = _skip(text, _skip(text, end) + 1)
        _, end = _value_at(text, start)
        yield name, start, end
        place = _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)


def _skip(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()


def _own(stored: object) -> list[tuple[str, bytes | None]]:
    headers = orjson.loads(stored) if isinstance(stored, str) else None
    if not isinstance(headers, dict):
        msg = f"its {OWN} is no text of a JSON object"
        raise ValueError(msg)  # noqa: TRY004  # what a reader of bytes raises
    return [(name, _text(name, value)) for name, value in headers.items()]


def _text(name: str, value: object) -> bytes:
    """Return an attribute as text: numbers and truth values in their canonical form."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict | list):
        msg = f"its {name[:100]!r} is an object or a list, which no attribute can be"
        raise ValueError(msg)  # noqa: TRY004  # what a reader of bytes raises
    return orjson.dumps(value)
