"""An event as JSON in an object, and back: the structured mode of CloudEvents, data untouched.

Data that is JSON stands in the object as the very bytes that were emitted, as the last member, so
that it can be cut out again; all other data is in `data_base64`.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, Final

import orjson

from outbox.codec import ATTRIBUTES, PREFIX, stored_headers, time_text
from outbox.envelope import SPEC_VERSION
from outbox.transport import Message

if TYPE_CHECKING:
    from outbox.envelope import Envelope

_DATA: Final = b',"data":'
"""It stands nowhere before: inside of a string its quotes would be escaped."""
_JSON: Final = re.compile(r"[^/;]+/(?:[^/;]+\+)?json\s*(?:;|$)", re.IGNORECASE)
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")
_NOT_HEADERS: Final = frozenset({"data", "data_base64", "datacontenttype", "partitionkey"})


def encode(envelope: Envelope, *, on_one_line: bool) -> bytes:
    """Write an event as one JSON object.

    On one line, line breaks of its data become spaces; where data is JSON, they have no meaning.
    """
    # The event's own attributes win over a header of the same name.
    event: dict[str, Any] = {
        **stored_headers(envelope),
        "specversion": SPEC_VERSION,
        "id": envelope.id,
        "source": envelope.source or "",
        "type": envelope.type,
        "time": time_text(envelope.time),
        "datacontenttype": envelope.content_type,
        "version": envelope.version,
    }
    if envelope.subject is not None:
        event["subject"] = envelope.subject
    if envelope.partition_key is not None:
        event["partitionkey"] = envelope.partition_key
    if envelope.sequence is not None:
        event["sequence"] = str(envelope.sequence)
    data = envelope.data
    if not _is_json(envelope.content_type, data):
        event["data_base64"] = base64.b64encode(data).decode()
        return orjson.dumps(event)
    if on_one_line:
        data = data.translate(_LINE_BREAKS)
    return b"%b%b%b}" % (orjson.dumps(event)[:-1], _DATA, data)


def decode(body: bytes, topic: str) -> Message:
    """Read an event's JSON object as a message in binary mode.

    Raises `ValueError` where it is none.
    """
    event = orjson.loads(body)
    if not isinstance(event, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004  # what a reader of bytes raises
    if "data_base64" in event:
        data = base64.b64decode(event["data_base64"], validate=True)
    elif "data" in event:
        data = body[body.index(_DATA) + len(_DATA) : body.rindex(b"}")]
    else:
        data = b""
    key = event.get("partitionkey")
    headers = [
        (PREFIX + name if name in ATTRIBUTES else name, _text(value))
        for name, value in event.items()
        if name not in _NOT_HEADERS
    ]
    if "datacontenttype" in event:
        headers.append(("content-type", _text(event["datacontenttype"])))
    return Message(topic, None if key is None else _text(key), headers, data)


def _is_json(content_type: str, data: bytes) -> bool:
    if not _JSON.match(content_type):
        return False
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def _text(value: object) -> bytes:
    return value.encode() if isinstance(value, str) else orjson.dumps(value)
