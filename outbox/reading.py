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
    """Why it is no event."""

    @property
    def name(self) -> str:
        """Its id, or its name where it has none."""
        return self.identity[1]


received_of: Final[Callable[[tuple[Any, ...]], Received]] = partial(tuple.__new__, Received)
"""Makes one in C, which a named tuple's own constructor does not."""


def read_all(deliveries: Sequence[Delivery]) -> list[Received]:
    """Read a batch; what is no event carries its error."""
    messages = [delivery.message for delivery in deliveries]
    headers: list[dict[str, Any]] = [dict(message.headers) for message in messages]
    if not _are_texts(messages, headers):
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
    """Read a message as an event; raises `DecodeError`."""
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


def _are_texts(messages: Sequence[Message], headers: Sequence[dict[str, Any]]) -> bool:
    """Tell whether all keys, names and values are text without NUL, and no name comes twice."""
    keys = [message.key for message in messages if message.key is not None]
    try:
        # A line break is no part of another letter: all are UTF-8 where this is.
        texts = b"\n".join(chain(keys, *map(dict.values, headers))).decode()
    except (TypeError, UnicodeDecodeError):  # TypeError: a header without a value
        return False
    names = "".join(set().union(*headers))
    count = sum(len(message.headers) for message in messages)
    return "\0" not in texts and "\0" not in names and count == sum(map(len, headers))


def _glance(delivery: Delivery, headers: Mapping[str, bytes]) -> Received:
    """Read an event whose headers are texts; raises where only `decode` can tell whether it is one.

    What it takes `decode` takes as well, and reads the same.
    """
    message, place, _ = delivery
    source, event_type, version = _shared(*_take_shared(headers))
    own_id, key, sequence = headers["ce_id"], message.key, headers.get("ce_sequence")
    if key is None:
        key = headers.get("ce_partitionkey")
    if not 0 < len(own_id) <= MAX_NAME_BYTES or (key and len(key) > MAX_NAME_BYTES):
        raise ValueError(own_id, key)
    if sequence is not None and not (len(sequence) <= _DIGITS and sequence.isdigit()):
        raise ValueError(sequence)
    if datetime.fromisoformat(headers["ce_time"].decode()).tzinfo is not UTC:
        raise ValueError(headers["ce_time"])
    event_id = own_id.decode()
    draft = _new(_UnreadDraft)
    draft.message = message
    draft.id = event_id
    draft.source = source
    draft.type = event_type
    draft.data = message.data
    draft.version = version
    draft.partition_key = None if key is None else key.decode()
    draft.topic = message.topic
    draft.__class__ = Unread
    return received_of((draft, place, (source, event_id), None))


_new: Final[Any] = object.__new__
_DIGITS: Final = 9
"""A number of so many is within what every column holds."""
_take_shared: Final = itemgetter("ce_specversion", "ce_source", "ce_type", "ce_version")


@lru_cache(maxsize=1_000)
def _shared(
    specversion: bytes, source: bytes, event_type: bytes, version: bytes
) -> tuple[str, str, int]:
    """Read the attributes that most events of a producer share; raises as `_glance` does."""
    is_known = specversion == SPEC_VERSION.encode() and source and event_type
    if not (is_known and len(source) <= MAX_NAME_BYTES and len(version) <= _DIGITS):
        raise ValueError(specversion, source, event_type, version)
    number = int(version)
    if number < 1:
        raise ValueError(version)
    return source.decode(), event_type.decode(), number
