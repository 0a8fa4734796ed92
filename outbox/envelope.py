"""The envelope: one event with its CloudEvents 1.0 attributes and extensions."""

from __future__ import annotations

import os
import time as clock
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

SPEC_VERSION: Final = "1.0"
JSON_CONTENT_TYPE: Final = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One event as every transport carries it: a CloudEvents 1.0 event.

    Attributes without a default are required by CloudEvents, save `source`: it may be None in
    the outbox table, where the relay fills in its own `source` setting before it publishes.
    """

    id: str
    """Unique within `source`; a UUIDv7 unless the producer chose otherwise."""
    source: str | None
    """URI reference of the producer, for instance `/shop`."""
    type: str
    """What happened, for instance `shop.order.placed`."""
    time: datetime
    """When it happened; timezone-aware."""
    data: bytes
    """The serialised payload; the relay forwards it untouched."""
    version: int = 1
    """Version of the payload's structure; 1 or more."""
    content_type: str = JSON_CONTENT_TYPE
    """Media type of `data` (CloudEvents `datacontenttype`)."""
    subject: str | None = None
    partition_key: str | None = None
    """Events of one partition key stay in order (CloudEvents extension `partitionkey`)."""
    topic: str | None = None
    """The destination, where the producer chose one; otherwise the route's template decides."""
    dataschema: str | None = None
    correlation_id: str | None = None
    """Id of the first event of the chain that this one belongs to (`correlationid`)."""
    causation_id: str | None = None
    """Id of the event whose handler emitted this one (`causationid`)."""
    actor: str | None = None
    """Who caused it, for instance `user:42`."""
    traceparent: str | None = None
    """W3C trace context of the producer."""
    tracestate: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """The application's own headers; no name of them is an attribute above."""
    sequence: int | None = None
    """Its number in the outbox table; None until it has been read from there."""


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds, then random bits."""
    milliseconds = clock.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))
