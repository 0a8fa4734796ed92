"""What ActiveMQ is given of an event, and what is read of a message.

Attributes are headers `ce_…`, as in the binary modes of other protocols. To clients of JMS headers
are properties, whose names have to be identifiers of Java: names of an application's own headers
are escaped so. They begin with `h_`, because many a name means something to the broker.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Final

from outbox.codec import EXTENSIONS, PREFIX, fixed_headers
from outbox.errors import RecordRefusedError
from outbox.rows import texts, time_of
from outbox.transport import Message
from outbox.transports.activemq.frames import escape

if TYPE_CHECKING:
    from outbox.rows import Row
    from outbox.transports.activemq.frames import Frame

KEY: Final = PREFIX + "partitionkey"
OWN: Final = "h_"
"""What the name of an application's own header begins with."""
GROUPS: Final = 1_000
"""Message groups that keys are divided into. The broker remembers to whom a group belongs for the
last 1,024 of a queue only: with a group for each key, a key could have two workers at a time."""
MAX_LINE_BYTES: Final = 10_240
"""The longest header that the broker reads."""

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_]")
_ESCAPED: Final = re.compile(r"(?:\$[0-9A-F]{2})+")
_OF_THE_BROKER: Final = frozenset(
    {
        *("destination", "original-destination", "message-id", "subscription", "ack", "receipt"),
        *("transaction", "content-length", "expires", "persistent", "priority", "timestamp"),
        *("redelivered", "reply-to", "correlation-id", "type", "transformation", "browser"),
        *("transformation-error", "JMSXGroupID", "JMSXGroupSeq", "JMSXUserID", "JMSXDeliveryCount"),
    }
)
"""Headers of a message that are no part of the event."""


class Encoder:
    """Makes frames of rows."""

    def __init__(self, limit: int) -> None:
        """Take the largest body, in bytes."""
        self._limit = limit
        self._heads: dict[tuple[object, ...], bytes] = {}

    def frame(self, row: Row, destination: str, transaction: bytes) -> bytes:
        """Return what sends an event; raises `RecordRefusedError` where the broker cannot."""
        seq, id_, source, type_, version, subject, key, _, moment, media, data, own = row
        kind = (destination, source, type_, version, media)
        lines = [self._heads.get(kind) or self._head(kind)]
        lines += (
            b"transaction:" + transaction,
            b"ce_id:" + escape(id_),
            b"ce_time:" + escape(time_of(moment)),
            b"ce_sequence:%019d" % seq,
            b"content-length:%d" % len(data),
        )
        if subject:
            lines.append(b"ce_subject:" + escape(subject))
        if key is not None:
            lines.append(b"JMSXGroupID:%d" % (zlib.crc32(key) % GROUPS))
            lines.append(b"ce_partitionkey:" + escape(key))
        if own is not None:
            lines += [
                _name(name).encode() + b":" + escape(value.encode())
                for name, value in texts(own).items()
            ]
        if not seq:
            lines.remove(b"ce_sequence:%019d" % 0)
        head = b"\n".join(lines)
        _check(head, lines, len(data), self._limit)
        return b"%b\n\n%b\0" % (head, data)

    def _head(self, kind: tuple[object, ...]) -> bytes:
        destination, source, type_, version, media = kind
        fixed = fixed_headers(PREFIX, _text(source), _text(type_), _number(version), _text(media))
        lines = [b"SEND", b"destination:" + escape(str(destination).encode()), b"persistent:true"]
        lines += [escape(name.encode()) + b":" + escape(value) for name, value in fixed]
        if len(self._heads) >= GROUPS:
            self._heads.clear()
        head = self._heads[kind] = b"\n".join(lines)
        return head


def to_message(frame: Frame, topic: str) -> Message:
    """Return what a MESSAGE frame carries."""
    key = frame.headers.get(KEY)
    headers = [
        (_own_name(name), value.encode())
        for name, value in frame.headers.items()
        if name not in _OF_THE_BROKER and name != KEY
    ]
    return Message(topic, None if key is None else key.encode(), headers, frame.body)


def _check(head: bytes, lines: list[bytes], size: int, limit: int) -> None:
    if size + len(head) > limit:
        raise RecordRefusedError(
            f"the event, {size} bytes of data and its headers, is larger than max_message_bytes ="
            f" {limit}"
        )
    if len(head) > MAX_LINE_BYTES:
        for line in b"\n".join(lines).split(b"\n"):
            if len(line) > MAX_LINE_BYTES:
                name = line.partition(b":")[0].decode()
                raise RecordRefusedError(
                    f"the header {name} is longer than the {MAX_LINE_BYTES} bytes that ActiveMQ"
                    " reads"
                )
    if b"\0" in head:
        raise RecordRefusedError("a header contains a NUL character")


def _name(name: str) -> str:
    """Return the header of one that the `headers` column has."""
    if name in EXTENSIONS:
        return PREFIX + name
    if name.startswith(PREFIX) and _PLAIN.fullmatch(name) and name != KEY:
        # An extension of CloudEvents that this library does not know.
        return name
    return OWN + _UNSAFE.sub(lambda found: _dollars(found[0]), name)


def _own_name(header: str) -> str:
    if not header.startswith(OWN):
        return header
    return _ESCAPED.sub(lambda found: _characters(found[0]), header[len(OWN) :])


def _dollars(text: str) -> str:
    return "".join(f"${byte:02X}" for byte in text.encode())


def _characters(escaped: str) -> str:
    return bytes.fromhex(escaped.replace("$", "")).decode(errors="replace")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 1
