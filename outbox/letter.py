"""A dead letter as a value and as a row: an event, or a message that is none, set aside."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

from outbox import codec
from outbox.envelope import MAX_NAME_BYTES, Envelope
from outbox.transport import Message

if TYPE_CHECKING:
    from datetime import datetime

    import sqlalchemy as sa

Stage = Literal["relay", "consumer"]
Status = Literal["dead", "parked", "requested", "replayed", "discarded"]


@dataclass(frozen=True, slots=True)
class Failure:
    """What `record` makes a letter of: an envelope, or a message that is no event."""

    content: Envelope | Message
    reason: str
    status: Literal["dead", "parked"] = "dead"
    attempt_count: int = 1
    """Attempts made since it was last recorded; 0 for a parked one."""
    place: str | None = None
    """Where a consumer found it; required for a message, which has no other identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One event, or undecodable message, set aside."""

    id: int
    stage: Stage
    owner: str
    status: Status
    reason: str
    attempt_count: int
    first_failed_at: datetime
    last_failed_at: datetime
    resolved_at: datetime | None
    note: str | None
    place: str | None
    content: Envelope | Message

    @property
    def envelope(self) -> Envelope | None:
        """The event; None where the message could not be decoded."""
        return self.content if isinstance(self.content, Envelope) else None

    @property
    def partition_key(self) -> str | None:
        """The key whose later events wait behind this letter; None where none do."""
        return self.content.partition_key if isinstance(self.content, Envelope) else None


def to_row(stage: str, owner: str, failure: Failure) -> dict[str, Any]:
    """Return the columns of a new letter.

    Raises `ValueError` for a message without a place.
    """
    common = {
        "stage": stage,
        "owner": owner,
        "status": failure.status,
        "reason": failure.reason,
        "attempt_count": failure.attempt_count,
        "place": failure.place,
        "data": failure.content.data,
        "topic": failure.content.topic,
    }
    if isinstance(failure.content, Envelope):
        return common | _event_columns(failure.content)
    return common | _message_columns(failure.content, failure.place)


def _event_columns(envelope: Envelope) -> dict[str, Any]:
    return {
        "event_id": envelope.id,
        "source": envelope.source or "",
        "type": envelope.type,
        "version": envelope.version,
        "subject": envelope.subject,
        "partition_key": envelope.partition_key,
        "time": envelope.time,
        "content_type": envelope.content_type,
        "headers": codec.stored_headers(envelope),
        "sequence": envelope.sequence,
    }


def _message_columns(message: Message, place: str | None) -> dict[str, Any]:
    if place is None:
        msg = "a message that is no event is known by its place; give one"
        raise ValueError(msg)
    empty = ("version", "subject", "time", "content_type", "sequence")
    return {
        **dict.fromkeys(empty),
        "event_id": message_id(message, place),
        "source": "",
        "type": None,
        "partition_key": None if message.key is None else _shortened(_readable(message.key)),
        "headers": {
            name.replace("\0", "\\x00"): _readable(value or b"") for name, value in message.headers
        },
    }


def message_id(message: Message, place: str) -> str:
    """Return what a message that is no event is known by: where it stood, and its digest.

    The place is not enough: a topic that was deleted and made again has others there.
    """
    content = (message.key, list(message.headers), message.data)
    return f"{place}#{blake2b(repr(content).encode(), digest_size=8).hexdigest()}"


def _readable(raw: bytes) -> str:
    """Show bytes as text; PostgreSQL's text takes no zero byte."""
    return raw.decode(errors="backslashreplace").replace("\0", "\\x00")


def _shortened(key: str) -> str:
    """Cut a key that no index takes; no event has one so long."""
    return key.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def from_row(row: sa.Row[Any]) -> Letter:
    """Return the letter of a row of `outbox_dead_letter`."""
    return Letter(
        id=row.id,
        stage=row.stage,
        owner=row.owner,
        status=row.status,
        reason=row.reason,
        attempt_count=row.attempt_count,
        first_failed_at=row.first_failed_at,
        last_failed_at=row.last_failed_at,
        resolved_at=row.resolved_at,
        note=row.note,
        place=row.place,
        content=_message(row) if row.type is None else _envelope(row),
    )


def _envelope(row: sa.Row[Any]) -> Envelope:
    return codec.from_row(
        row.sequence,
        row.event_id,
        row.source or None,
        row.type,
        row.version,
        row.subject,
        row.partition_key,
        row.topic,
        row.time,
        row.content_type,
        row.data,
        row.headers,
    )


def _message(row: sa.Row[Any]) -> Message:
    return Message(
        topic=row.topic or "",
        key=None if row.partition_key is None else row.partition_key.encode(),
        headers=[(name, value.encode()) for name, value in row.headers.items()],
        data=bytes(row.data),
    )
