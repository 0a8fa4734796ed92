"""Reads what a subscriber delivered: an event at a glance, and all of it where someone looks.

To handle an event a worker needs its id, type, version and data. What else is in its headers is
found to be in order at once, but read when a handler asks for it: most never do.
"""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from outbox import codec
from outbox.envelope import MAX_NAME_BYTES, SPEC_VERSION, Envelope
from outbox.errors import DecodeError
from outbox.letter import message_id
from outbox.structured import is_structured, unfolded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from outbox.inbox import EventId
    from outbox.transport import Delivery, Message


class Received(NamedTuple):
    """One delivery, read."""

    content: Envelope | Message
    """A message where it is no event."""
    place: str
    identity: EventId
    """What the inbox knows it by: a name of its own where it is no event."""
    error: DecodeError | None = None
    """Why it is no event, or one whose data nobody can read."""

    @property
    def name(self) -> str:
        """Its id, or its name where it has none."""
        return self.identity[1]


received_of: Final[Callable[[tuple[Any, ...]], Received]] = partial(tuple.__new__, Received)
"""Makes one in C, which a named tuple's own constructor does not."""


def read_all(deliveries: Sequence[Delivery]) -> list[Received]:
    """Read a batch; what is no event carries its error."""
    headers: list[dict[str, Any]] = [dict(delivery.message.headers) for delivery in deliveries]
    if not _are_texts(deliveries, headers):
        return [read(delivery) for delivery in deliveries]
    found = []
    for delivery, own in zip(deliveries, headers, strict=True):
        try:
            found.append(_glance(delivery, own))
        except (KeyError, ValueError):  # it is no event, or one that is read in full
            found.append(read(delivery))
    return found


def read(delivery: Delivery) -> Received:
    """Read a delivery in full; what is no event carries its error."""
    place = delivery.place
    try:
        envelope = decode(delivery.message)
    except DecodeError as exc:
        name = message_id(delivery.message, place)
        return Received(delivery.message, place, ("", name), exc)
    return Received(envelope, place, identity(envelope))


def decode(message: Message) -> Envelope:
    """Read a message as an event, in binary or structured mode; raises `DecodeError`."""
    message = unfolded(message)
    return codec.from_headers(message.key, message.headers, message.data, topic=message.topic)


def identity(envelope: Envelope) -> EventId:
    """Return what an event is known by in the inbox."""
    return envelope.source or "", envelope.id


class Unread(Envelope):
    """An envelope whose message was found to be an event; most of it is read when asked for."""

    __slots__ = ("message",)

    message: Message

    def __getattr__(self, name: str) -> Any:
        """Read what is missing; only called where something is."""
        if name not in _FIELDS:
            raise AttributeError(name)
        whole = decode(self.message)
        for each in _FIELDS:
            object.__setattr__(self, each, getattr(whole, each))
        return getattr(self, name)

    def whole(self) -> Envelope:
        """Return it as an envelope like any other."""
        return Envelope(**{name: getattr(self, name) for name in _FIELDS})

    def __eq__(self, other: object) -> bool:
        return self.whole() == (other.whole() if isinstance(other, Unread) else other)

    __hash__ = Envelope.__hash__

    def __repr__(self) -> str:
        return repr(self.whole())

    def __reduce__(self) -> tuple[Any, ...]:
        return replace, (self.whole(),)  # its copies are whole


_FIELDS: Final = tuple(each.name for each in fields(Envelope))


class _UnreadDraft(Unread):
    """One that is still to be filled; see `outbox.envelope.Draft`."""

    __slots__ = ()

    # Both, because Python has one slot for them.
    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__


def _are_texts(deliveries: Sequence[Delivery], headers: Sequence[dict[str, Any]]) -> bool:
    """Tell whether all keys, names and values are text without NUL, and no name comes twice."""
    keys = [message.key for message, _, _ in deliveries if message.key is not None]
    try:
        # A line break is no part of another letter: all are UTF-8 where this is.
        texts = b"\n".join(chain(keys, *map(dict.values, headers))).decode()
    except (TypeError, UnicodeDecodeError):  # TypeError: a header without a value
        return False
    if "\0" in texts or "\0" in "".join(set().union(*headers)):
        return False
    return sum([len(message.headers) for message, _, _ in deliveries]) == sum(map(len, headers))


def _glance(delivery: Delivery, headers: Mapping[str, bytes]) -> Received:
    """Read an event whose headers are texts; raises where only `decode` can tell whether it is one.

    What it takes `decode` takes as well, and reads the same.
    """
    message, place, _ = delivery
    topic, key, _, data = message
    specversion, source, event_type, version, own_id, time = _take(headers)
    draft = _new(_UnreadDraft)
    media = headers.get("content-type", b"")
    draft.source, draft.type, draft.version = _shared(
        specversion, source, event_type, version, media
    )
    if _moment(time.decode()).tzinfo is not UTC:
        raise ValueError(time)
    if key is None:
        key = headers.get("ce_partitionkey")
    if key is not None and len(key) > MAX_NAME_BYTES:
        raise ValueError(key)
    if not 0 < len(own_id) <= MAX_NAME_BYTES:
        raise ValueError(own_id)
    draft.id = event_id = own_id.decode()
    draft.message = message
    draft.data = data
    draft.partition_key = None if key is None else key.decode()
    draft.topic = topic
    draft.__class__ = Unread
    return received_of((draft, place, (draft.source, event_id), None))


_new: Final[Any] = object.__new__
_moment: Final = datetime.fromisoformat
_take: Final = itemgetter(
    "ce_specversion", "ce_source", "ce_type", "ce_version", "ce_id", "ce_time"
)
_VERSION_DIGITS = 9
"""A number of so many is within what its column holds."""


@lru_cache(maxsize=1_000)
def _shared(
    specversion: bytes, source: bytes, event_type: bytes, version: bytes, media: bytes
) -> tuple[str, str, int]:
    """Read the attributes that most events of a producer share; raises as `_glance` does."""
    is_known = specversion == SPEC_VERSION.encode() and source and event_type
    if not (is_known and len(source) <= MAX_NAME_BYTES and len(version) <= _VERSION_DIGITS):
        raise ValueError(specversion, source, event_type, version)
    if is_structured(media.decode()):
        raise ValueError(media)
    number = int(version)
    if number < 1:
        raise ValueError(version)
    return source.decode(), event_type.decode(), number
