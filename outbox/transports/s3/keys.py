"""The keys of objects: a template over an event's attributes, and the two folders that are ours."""

from __future__ import annotations

from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

from pydantic import AfterValidator

from outbox.errors import ConfigurationError, RecordRefusedError

if TYPE_CHECKING:
    from outbox.envelope import Envelope

LOG: Final = "_log/"
GROUPS: Final = "_groups/"

DEFAULT: Final = "{type}/{time:%Y/%m/%d}/{sequence:020d}-{id}"
"""Followed by `.json` or `.jsonl`."""
TEXTS: Final = ("type", "type_prefix", "topic", "source", "subject", "partition_key", "id")
NUMBERS: Final = ("version", "sequence")
FIELDS: Final = (*TEXTS, *NUMBERS, "time")
"""What a template may name."""

_UNIQUE: Final = frozenset({"id", "sequence"})
_MAX_BYTES: Final = 1024 - 40
"""What S3 takes, less what the names of batches and compressed objects have besides."""
_SAFE: Final = "/:@+=,"
"""Besides letters, digits and `_.-~`; all else of a value is percent-encoded."""


class KeyTemplate:
    """An object's key with `{attribute}` places; numbers and the time may have a format.

    Raises `ConfigurationError` where the text is no template, names an attribute there is not,
    or has neither id nor sequence, so that events would overwrite each other.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._parts = _parts(text)
        self._needs_sequence = all(name != "id" for _, name, _ in self._parts)

    def key(self, envelope: Envelope, topic: str) -> str:
        """Return the key of an event's object, below the prefix.

        Raises `RecordRefusedError` where the event lacks an attribute, or S3 takes no such key.
        """
        if self._needs_sequence and envelope.sequence is None:
            raise RecordRefusedError(f"the event has no sequence, which {self._text!r} tells it by")
        key = "".join([self._part(part, envelope, topic) for part in self._parts])
        if len(key) > _MAX_BYTES:
            raise RecordRefusedError(f"its key would be longer than {_MAX_BYTES} bytes")
        if key.startswith((LOG, GROUPS)):
            raise RecordRefusedError(f"its key would be in {LOG} or {GROUPS}")
        if not {".", ".."}.isdisjoint(key.split("/")):
            raise RecordRefusedError("its key would have a part '.' or '..'")
        return key

    def folder(self, envelope: Envelope, topic: str) -> str:
        """Return what events must have in common to be in one object: all but id and sequence."""
        shared = [part for part in self._parts if part[1] not in _UNIQUE]
        return "".join([self._part(part, envelope, topic) for part in shared])

    def _part(self, part: tuple[str, str | None, str], envelope: Envelope, topic: str) -> str:
        literal, name, spec = part
        if name is None:
            return literal
        value = _value(envelope, topic, name)
        if value is None or value == "":
            raise RecordRefusedError(
                f"the event has no {name}, which its key {self._text!r} is made of"
            )
        return literal + quote(format(value, spec), safe=_SAFE)


def _value(envelope: Envelope, topic: str, name: str) -> Any:
    match name:
        case "topic":
            return topic
        case "type_prefix":
            return envelope.type.rpartition(".")[0] or envelope.type
        case "sequence":
            # An event that was not read from an outbox has none.
            return envelope.sequence or 0
    return getattr(envelope, name)


def _parts(text: str) -> list[tuple[str, str | None, str]]:
    try:
        found = [
            (literal, name, spec or "", conversion)
            for literal, name, spec, conversion in Formatter().parse(text)
        ]
    except ValueError as exc:
        raise ConfigurationError(f"the key {text!r} is no template: {exc}") from exc
    names = {name for _, name, _, _ in found if name is not None}
    for _, name, spec, conversion in found:
        if name is None:
            continue
        if name not in FIELDS or conversion:
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise ConfigurationError(f"the key {text!r} has a place that is none of {known}")
        if spec and name in TEXTS:
            raise ConfigurationError(f"the key {text!r}: {{{name}}} takes no format")
        if spec and name in NUMBERS:
            _check_number(text, name, spec)
    if names.isdisjoint(_UNIQUE):
        raise ConfigurationError(
            f"the key {text!r} needs {{id}} or {{sequence}}: events would overwrite each other"
        )
    if text.startswith(("/", LOG, GROUPS)):
        raise ConfigurationError(f"the key {text!r} must not begin with /, {LOG} or {GROUPS}")
    return [(literal, name, spec) for literal, name, spec, _ in found]


def _check_number(text: str, name: str, spec: str) -> None:
    try:
        format(0, spec)
    except ValueError as exc:
        raise ConfigurationError(f"the key {text!r}: {{{name}}}: {exc}") from exc


def _valid(text: str) -> str:
    try:
        _parts(text)
    except ConfigurationError as exc:
        raise ValueError(str(exc)) from None
    return text


KeyText = Annotated[str, AfterValidator(_valid)]
"""A setting that holds a template of keys."""
