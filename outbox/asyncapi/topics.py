"""Addresses of channels: what a topic's template makes of an event type before there are events."""

from __future__ import annotations

import re
from string import Formatter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from outbox.event import EventType

_PLACE: Final = re.compile(r"\{([a-z_]+)\}")


def topic_of(template: str, name: str, version: int | None) -> str:
    """Fill in what the type says; other attributes stay places such as `{subject}`.

    Without a version `{version}` stays one, too.
    """
    values = {"type": name, "type_prefix": name.rpartition(".")[0] or name}
    if version is not None:
        values["version"] = str(version)
    parts = []
    for literal, field, _, _ in Formatter().parse(template):
        parts.append(literal)
        if field is not None:
            parts.append(values.get(field, f"{{{field}}}"))
    return "".join(parts)


def places(address: str) -> list[str]:
    """Return the attributes that an address still depends on."""
    return list(dict.fromkeys(_PLACE.findall(address)))


def may_be(address: str, topic: str) -> bool:
    """Tell whether an event with this address can be in a topic."""
    pattern = "(.+)".join(re.escape(part) for part in _PLACE.split(address)[::2])
    return re.fullmatch(pattern, topic) is not None


def location(place: str, event_type: EventType | None) -> str | None:
    """Return where a message has the value of a place, as a runtime expression of AsyncAPI."""
    if place == "partition_key":
        if event_type is None or event_type.key is None:
            return None
        return f"$message.payload#/{event_type.json_name(event_type.key)}"
    return f"$message.header#/ce_{place}"
