"""One record of the audit trail: what it says of an event, its canonical form, its hash.

The canonical form is that of RFC 8785 (JSON Canonicalization Scheme): no space, members sorted by
name, strings escaped no more than they have to be. Every member is a string, an integer or null,
and the positions stay below 2**53, so a plain JSON encoder whose members come in order writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import orjson

from outbox import rows
from outbox.codec import time_text
from outbox.rows import (
    CONTENT_TYPE,
    DATA,
    HEADERS,
    ID,
    KEY,
    SEQ,
    SOURCE,
    SUBJECT,
    TIME,
    TYPE,
    VERSION,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from outbox.rows import Row

HASH_BYTES: Final = 32
GENESIS: Final = bytes(HASH_BYTES)
"""What the first record has for the hash of the one before it."""


class Record(NamedTuple):
    """One event as the audit trail has it, in the order of the columns of `outbox_audit`."""

    position: int
    """1, 2, 3, … without a hole."""
    event_id: str
    source: str
    type: str
    version: int
    subject: str | None
    partition_key: str | None
    actor: str | None
    correlation_id: str | None
    causation_id: str | None
    time: str
    """When it happened: RFC 3339 in UTC, as `outbox.codec.time_text` writes it."""
    sequence: int
    """Its number in `outbox_event`; 0 where it never stood there."""
    data_digest: bytes
    previous_hash: bytes
    hash: bytes

    @property
    def identity(self) -> tuple[str, str, int]:
        """Tell rows of `outbox_event` apart, which may have one id twice."""
        return self.event_id, self.source, self.sequence


@dataclass(frozen=True, slots=True)
class Strange:
    """What stands where no record was ever written so, as whoever tampers with a row leaves it.

    In JSON it is an object, which no member of a record is: so no hash of a record fits it, and
    an export shows it as it stood there.
    """

    strange: str
    """As `repr` shows it."""

    def __str__(self) -> str:
        return self.strange


KINDS: Final = (int, *[str] * 3, int, *[str] * 6, int, *[bytes] * 3)
"""The types of a record's values."""


def digest(content_type: str, data: bytes) -> bytes:
    """Return the digest of a payload: SHA-256 of its media type, a NUL and its bytes."""
    return sha256(b"%b\x00%b" % (content_type.encode(errors="replace"), data)).digest()


def members(record: Record) -> dict[str, Any]:
    """Return what is hashed: CloudEvents names where there are some, sorted, digests in hex."""
    return {
        "actor": record[7],
        "causationid": record[9],
        "correlationid": record[8],
        "datadigest": record[12].hex(),
        "id": record[1],
        "partitionkey": record[6],
        "position": record[0],
        "previoushash": record[13].hex(),
        # Text, as CloudEvents has it: a number of JSON is exact up to 2**53 only.
        "sequence": str(record[11]),
        "source": record[2],
        "subject": record[5],
        "time": record[10],
        "type": record[3],
        "version": record[4],
    }


def canonical(record: Record) -> bytes:
    """Return the canonical JSON of a record: all of it but its own hash."""
    return orjson.dumps(members(record))


def hash_of(record: Record) -> bytes:
    """Return the hash that a record should have."""
    return sha256(orjson.dumps(members(record))).digest()


def is_intact(record: Record) -> bool:
    """Tell whether a record has the hash that it should have."""
    return hash_of(record) == record.hash


def to_json(record: Record) -> dict[str, Any]:
    """Return a record with its hash, as exports and proofs have it."""
    return {**members(record), "hash": record.hash.hex()}


MEMBERS: Final = (
    "actor",
    "causationid",
    "correlationid",
    "datadigest",
    "id",
    "partitionkey",
    "position",
    "previoushash",
    "sequence",
    "source",
    "subject",
    "time",
    "type",
    "version",
    "hash",
)
"""The names of what `to_json` returns."""


def from_json(found: object) -> Record:
    """Read what `to_json` wrote; raises `ValueError` that names what is missing or wrong."""
    record = of_members(found)
    # What no hash covers is nothing that a record says.
    written = to_json(record)
    for name, value in cast("dict[str, Any]", found).items():
        if name not in written or value != written[name]:
            msg = f"its member {name!r} is none, or is not written as a record has it"
            raise ValueError(msg)
    return record


def of_members(found: object) -> Record:
    """Make a record of the members that it needs, and look at no others; raises `ValueError`."""
    if not isinstance(found, dict):
        msg = "a record is an object"
        raise ValueError(msg)  # noqa: TRY004  # of a file, not of a caller
    try:
        return Record(
            position=typed(found, "position", int),
            event_id=typed(found, "id", str),
            source=typed(found, "source", str),
            type=typed(found, "type", str),
            version=typed(found, "version", int),
            subject=_optional(found, "subject"),
            partition_key=_optional(found, "partitionkey"),
            actor=_optional(found, "actor"),
            correlation_id=_optional(found, "correlationid"),
            causation_id=_optional(found, "causationid"),
            time=typed(found, "time", str),
            sequence=_number(found, "sequence"),
            data_digest=_hash(found, "datadigest"),
            previous_hash=_hash(found, "previoushash"),
            hash=_hash(found, "hash"),
        )
    except KeyError as exc:
        msg = f"it has no member {exc.args[0]!r}"
        raise ValueError(msg) from None


def of_row(row: Row, position: int, previous_hash: bytes) -> Record:
    """Make the record of an event that stands as a row."""
    headers = rows.texts(row[HEADERS]) if row[HEADERS] is not None else _NONE
    subject, key, content_type = row[SUBJECT], row[KEY], row[CONTENT_TYPE]
    record = Record(
        position,
        _text(row[ID]),
        _text(row[SOURCE]),
        _text(row[TYPE]),
        row[VERSION],
        None if subject is None else _text(subject),
        None if key is None else _text(key),
        headers.get("actor"),
        headers.get("correlationid"),
        headers.get("causationid"),
        time_text(datetime.fromisoformat(rows.time_of(row[TIME]).decode())),
        row[SEQ],
        sha256(b"%b\x00%b" % (content_type, row[DATA])).digest(),
        previous_hash,
        GENESIS,
    )
    return made((*record[:-1], hash_of(record)))


made: Final[Callable[[Iterable[Any]], Record]] = partial(tuple.__new__, Record)
"""Makes a record in C, which a named tuple's own constructor does not."""
_NONE: Final[dict[str, str]] = {}


def _text(value: bytes) -> str:
    # SQLite keeps text that is none; the event is to be in the trail all the same.
    return str(value, "utf-8", "replace")


def typed(found: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """Return a member that is of a kind, `str` or `int`; raises `ValueError` otherwise."""
    value = found[name]
    if type(value) is not kind:
        msg = f"its member {name!r} is no {'text' if kind is str else 'whole number'}"
        raise ValueError(msg)
    return value


def _number(found: Mapping[str, Any], name: str) -> int:
    try:
        return int(typed(found, name, str))
    except ValueError:
        msg = f"its member {name!r} is no text of a whole number"
        raise ValueError(msg) from None


def _optional(found: Mapping[str, Any], name: str) -> Any:
    return None if found[name] is None else typed(found, name, str)


def _hash(found: Mapping[str, Any], name: str) -> Any:
    text = typed(found, name, str)
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != HASH_BYTES:
        msg = f"its member {name!r} is no SHA-256 in hexadecimal"
        raise ValueError(msg)
    return value
