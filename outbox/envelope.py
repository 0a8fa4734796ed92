"""The envelope: one event with its CloudEvents 1.0 attributes and extensions."""

from __future__ import annotations

import os
import threading
import time as clock
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

SPEC_VERSION: Final = "1.0"
JSON_CONTENT_TYPE: Final = "application/json"
MAX_VERSION: Final = 2**31 - 1
"""The highest version of a type that its column holds."""
MAX_NAME_BYTES: Final = 1_000
"""The longest id, source and partition key in UTF-8: databases keep them in indexes, and a longer
one could not be claimed by a consumer, or set aside as a dead letter."""


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


class Draft:
    """An envelope that is still to be filled, where envelopes are made by the thousand.

    A frozen dataclass sets its fields by a call each, which takes longer than all the rest of
    reading a message. A draft has the same slots, is filled by plain assignments, every one of
    them, and then declared to be an envelope.
    """

    __slots__ = tuple(field.name for field in fields(Envelope))

    if TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    def finish(self) -> Envelope:
        """Return this object as the envelope that it now is."""
        self.__class__ = Envelope  # type: ignore[assignment]  # the same slots: no copy is needed
        return self  # type: ignore[return-value]  # it has just become one


class _Ids:
    """Makes UUIDv7s that increase within this process, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def forget(self) -> None:
        """Start anew in a forked process, where another thread may have held the lock."""
        self.__init__()  # type: ignore[misc]  # the same two attributes again

    def new(self) -> str:
        """Return the next one: milliseconds and 74 bits, random or counted on from the last."""
        random = int.from_bytes(os.urandom(14), "big")
        value = (clock.time_ns() // 1_000_000) << _RANDOM_BITS | random >> 112 - _RANDOM_BITS
        with self._lock:
            # In one millisecond, or when the clock was set back, by a random step: ids stay
            # hard to guess, and 2**74 of them do not run out.
            if value <= self._last:
                value = self._last + 1 + (random & 0xFFFF_FFFF)
            self._last = value
        high, low = value >> _LOW_BITS, value & _LOW
        # The version stands between the time and the 12 high bits, the variant above the low ones.
        number = (high >> 12 << 16 | 0x7000 | high & 0xFFF) << 64 | 0b10 << _LOW_BITS | low
        digits = number.to_bytes(16).hex()
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_LOW_BITS: Final = 62
_LOW: Final = (1 << _LOW_BITS) - 1
_RANDOM_BITS: Final = 12 + _LOW_BITS
_ids: Final = _Ids()
os.register_at_fork(after_in_child=_ids.forget)


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562, section 5.7).

    Those of one process increase, by the section's method of a monotonic random number. Safe in
    any thread.
    """
    return _ids.new()
