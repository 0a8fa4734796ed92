"""What stands before the data: the wire format of Confluent's serializers; pure.

    0x00 │ id of the schema, 4 bytes, big end first │ [Protobuf: which message of it] │ data

Source: Confluent's documentation of Schema Registry, "Wire format". The media types name this
format: to a reader of plain Avro the first five bytes would be part of the data.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from outbox.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC: Final = b"\0"
HEAD_BYTES: Final = 5
MEDIA_TYPES: Final = {
    "avro": "application/vnd.confluent.avro",
    "protobuf": "application/vnd.confluent.protobuf",
    "jsonschema": "application/vnd.confluent.json",
}
"""By format, the media type of what this library writes."""
_READ: Final = frozenset(
    {
        *MEDIA_TYPES.values(),
        *("application/avro", "application/x-avro", "application/vnd.apache.avro", "avro/binary"),
        *("application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf"),
        *("application/json", "application/schema-instance+json"),
    }
)
"""What other producers call it; JSON never begins with the magic byte."""

_HEAD: Final = struct.Struct(">bI")


def head_of(schema_id: int) -> bytes:
    """Return what stands before data of a schema."""
    return _HEAD.pack(0, schema_id)


def is_framed(content_type: str, data: bytes) -> bool:
    """Tell whether data of a media type is in this format; all else is nobody's business."""
    return (
        data.startswith(MAGIC)
        and len(data) >= HEAD_BYTES
        and content_type.partition(";")[0].strip().lower() in _READ
    )


def schema_id_of(data: bytes) -> int:
    """Return the id of the schema that framed data was written by."""
    number: int = _HEAD.unpack_from(data)[1]
    return number


def write_indexes(indexes: Sequence[int]) -> bytes:
    """Say which message of a Protobuf schema it is: the way there, from the outermost one."""
    if list(indexes) == [0]:
        return b"\0"
    return b"".join(_varint(number) for number in (len(indexes), *indexes))


def read_indexes(payload: bytes) -> tuple[list[int], bytes]:
    """Return the way to a message, and its data; raises `DecodeError`."""
    count, place = _read_varint(payload, 0)
    if count == 0:
        return [0], payload[place:]
    indexes = []
    # Each takes a byte at least, so that no count can make this long.
    for _ in range(min(count, len(payload))):
        number, place = _read_varint(payload, place)
        indexes.append(number)
    return indexes, payload[place:]


def _varint(number: int) -> bytes:
    # Signed numbers, of which these are all positive, alternate with the negative ones.
    number <<= 1
    found = bytearray()
    while number > _LOW:
        found.append(number & _LOW | _MORE)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_varint(payload: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while place < len(payload) and shift < _LONGEST:
        byte = payload[place]
        place += 1
        number |= (byte & _LOW) << shift
        if byte <= _LOW:
            return number >> 1, place
        shift += 7
    raise DecodeError("its data does not say which message of its schema it is")


_LOW: Final = 0x7F
_MORE: Final = 0x80
_LONGEST: Final = 35
