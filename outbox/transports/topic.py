"""Topic templates: the name of an event's topic, made of its attributes."""

from __future__ import annotations

import re
from functools import lru_cache
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator

from outbox.errors import ConfigurationError, RecordRefusedError

if TYPE_CHECKING:
    from outbox.envelope import Envelope

FIELDS: Final = ("type", "type_prefix", "version", "source", "subject", "partition_key")
"""What a template may name; `type_prefix` is the type without its last part."""

_BY_TYPE: Final = {"type", "type_prefix"}
_BY_KIND: Final = _BY_TYPE | {"version", "source"}
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


class TopicTemplate:
    """A topic's name with `{attribute}` places, for instance `{type_prefix}`.

    A type without a dot is its own prefix. An event that chose its topic keeps that. Raises
    `ConfigurationError` where the text is no template or names an attribute there is not.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._fields = _fields(text)
        self._of_type: dict[str, str] | None = {} if self._fields <= _BY_TYPE else None

    @property
    def depends_on_event(self) -> bool:
        """Whether events of one type, version and source may have different topics."""
        return not self._fields <= _BY_KIND

    def topic(self, envelope: Envelope) -> str:
        """Return the envelope's topic.

        Raises `RecordRefusedError` where the envelope has no such attribute, or where the name
        is none that a broker takes: letters, digits, `.`, `_`, `-`, and 249 of them at most.
        """
        if envelope.topic is not None:
            return _checked(envelope.topic)
        if self._of_type is None:
            return _checked(self._filled(envelope))
        name = self._of_type.get(envelope.type)
        if name is None:
            name = self._of_type[envelope.type] = _checked(self._filled(envelope))
        return name

    def topic_of(self, event_type: str) -> str | None:
        """Return the topic of an event type; None where it depends on more than the type."""
        if self._of_type is None:
            return None
        return self._text.format(type=event_type, type_prefix=_prefix(event_type))

    def _filled(self, envelope: Envelope) -> str:
        values = {name: _value(envelope, name) for name in self._fields}
        for name, value in values.items():
            if value is None or value == "":
                msg = f"the event has no {name}, which its topic {self._text!r} is made of"
                raise RecordRefusedError(msg)
        return self._text.format(**values)


def _fields(text: str) -> frozenset[str]:
    try:
        parts = list(Formatter().parse(text))
    except ValueError as exc:
        raise ConfigurationError(f"the topic {text!r} is no template: {exc}") from exc
    fields = set()
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if name not in FIELDS or spec or conversion:
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise ConfigurationError(f"the topic {text!r} has a place that is none of {known}")
        fields.add(name)
    if not fields and not _is_name(text):
        raise ConfigurationError(f"the topic {text!r} is no name that a broker takes")
    return frozenset(fields)


def _value(envelope: Envelope, name: str) -> str | int | None:
    if name == "type_prefix":
        return _prefix(envelope.type)
    value: str | int | None = getattr(envelope, name)
    return value


def _prefix(event_type: str) -> str:
    return event_type.rpartition(".")[0] or event_type


@lru_cache(maxsize=1024)
def _is_name(topic: str) -> bool:
    return _NAME.fullmatch(topic) is not None and topic not in {".", ".."}


def _checked(topic: str) -> str:
    if not _is_name(topic):
        msg = f"the topic {topic[:260]!r} is no name that a broker takes"
        raise RecordRefusedError(msg)
    return topic


def _valid(text: str) -> str:
    try:
        _fields(text)
    except ConfigurationError as exc:
        raise ValueError(str(exc)) from None
    return text


TemplateText = Annotated[str, AfterValidator(_valid)]
"""A setting that holds a topic template."""
