"""The JSON Schema of an event type as it is written down: one document a type and version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from outbox.personal import KEYWORD as PERSONAL
from outbox.schema.meaning import KEY
from outbox.schema.shape import NAMED, Arrays, Objects, Part, shapes, text

if TYPE_CHECKING:
    from collections.abc import Collection

    from outbox.event import EventType
    from outbox.schema.shape import Parts

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
TYPE: Final = "x-type"
VERSION: Final = "x-version"
OWNER: Final = "x-owner"
SUFFIX: Final = ".json"

_DATA: Final = {"const", "default", "enum", "examples"}
"""Keywords whose value is no schema, whatever it looks like."""


def file_name(name: str, version: int) -> str:
    """Return the name of a document's file, for instance `shop.order.placed.v1.json`."""
    return f"{name}.v{version}{SUFFIX}"


def document(event_type: EventType, base_uri: str = "") -> dict[str, Any]:
    """Return the document of a type: its data as it is written, and what else is known of it.

    `base_uri` makes its `$id` absolute; without one that is the file's name. `x-` keywords name
    type, version, owner, the property that is the key, and on personal fields the property that
    identifies the person: of the same object, if it has one of that name, or else of the event.
    Raises `EventDefinitionError` where the class has no schema.
    """
    schema = event_type.json_schema
    head = {
        "$schema": DIALECT,
        "$id": base_uri + file_name(event_type.name, event_type.version),
        "title": event_type.cls.__name__,
        "description": event_type.description,
        TYPE: event_type.name,
        VERSION: event_type.version,
        OWNER: event_type.owner,
        KEY: None if event_type.key is None else event_type.json_name(event_type.key),
    }
    whole = (Part(schema, schema),)
    examples = [_ordered(example, whole) for example in event_type.examples]
    tail = {"examples": examples} if examples else {}
    said = {name: each for name, each in head.items() if each is not None}
    rest = {
        name: each
        for name, each in _settled(schema, event_type, schema, ()).items()
        if name not in {"title", "description", "examples"}
    }
    return said | rest | tail


def _settled(part: Any, event_type: EventType, whole: Any, siblings: Collection[str]) -> Any:
    """Return a part of a schema whose personal fields name the property that is their subject.

    And with the sets among its defaults in order. `siblings` are the properties of the object
    inside of the event that the part belongs to.
    """
    if isinstance(part, list):
        return [_settled(each, event_type, whole, siblings) for each in part]
    if not isinstance(part, dict):
        return part
    own = part.get("properties")
    inner = own if isinstance(own, dict) and part is not whole else siblings
    found: dict[str, Any] = {}
    for name, value in part.items():
        if name in NAMED and isinstance(value, dict):
            found[name] = {
                key: _settled(each, event_type, whole, inner) for key, each in value.items()
            }
        elif name in _DATA:
            found[name] = value
        else:
            found[name] = _settled(value, event_type, whole, inner)
    marker = part.get(PERSONAL)
    subject = event_type.key if marker is True else marker
    if isinstance(subject, str):
        is_sibling = marker is not True and subject in siblings
        found[PERSONAL] = subject if is_sibling else event_type.json_name(subject)
    if isinstance(part.get("default"), list):
        found["default"] = _ordered(part["default"], (Part(part, whole),))
    return found


def _ordered(value: Any, parts: Parts) -> Any:
    """Return a value with its sets sorted: they have another order in each process."""
    for shape in shapes(parts):
        if isinstance(shape, Arrays) and isinstance(value, list):
            items = [_ordered(each, shape.item(index)) for index, each in enumerate(value)]
            return sorted(items, key=text) if shape.is_unique else items
        if isinstance(shape, Objects) and isinstance(value, dict):
            return {name: _ordered(each, shape.about(name)) for name, each in value.items()}
    return value


def written(schema: Any) -> str:
    """Return a document as the text of its file, the same for the same classes everywhere."""
    return json.dumps(schema, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
