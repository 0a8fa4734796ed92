"""Whether a change of a schema breaks those who read and write events of that type and version.

Two questions, each answered by inclusion (`outbox.schema.inclusion`):

- *backward*: is everything that was written under the old schema valid under the new one? If so,
  readers of today can read stored events.
- *forward*: is everything that is written under the new schema valid under the old one? If so,
  readers that were not deployed yet, or belong to others, can read new events.

These are the compatibility types of Confluent's Schema Registry, which are those of Avro; *full*
is both. Unlike theirs, an object is taken to have the properties that its schema names and no
others, unless the schema has `additionalProperties`: that is what classes write, and without it
no field could ever be added. Readers ignore what they do not know, as JSON Schema says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from outbox.schema.finding import Finding, Mode, finding, grouped
from outbox.schema.generator import COMPUTED
from outbox.schema.inclusion import included
from outbox.schema.meaning import meanings
from outbox.schema.shape import NAMED


def compare(old: Any, new: Any, mode: Mode = Mode.FULL) -> list[Finding]:
    """Return what the changes from one schema to another break, field by field.

    Both are documents of JSON Schema draft 2020-12. What cannot be told counts as breaking, with
    `is_certain` False. Raises `ValueError` where one of them is no schema.
    """
    try:
        gaps = [
            *(finding(gap, Mode.BACKWARD) for gap in included(as_written(old), _as_read(new))),
            *(finding(gap, Mode.FORWARD) for gap in included(as_written(new), old)),
        ]
        changed, renamed = meanings(old, new)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as exc:
        raise ValueError(f"this is no JSON Schema: {exc}") from exc
    except RecursionError:
        raise ValueError("this JSON Schema is nested too deep") from None
    found = grouped(each for each in gaps if each.field not in renamed) + changed
    wanted = {Mode.BACKWARD, Mode.FORWARD} if mode is Mode.FULL else {mode}
    kept = [
        replace(each, breaks=tuple(one for one in each.breaks if one in wanted))
        for each in found
        if wanted.intersection(each.breaks)
    ]
    return sorted(kept, key=lambda each: (each.field, each.kind))


def as_written(schema: Any) -> Any:
    """Return a document that admits what a writer of it writes.

    Where an object's properties are named and nothing is said of others, there are no others. A
    document in which several schemas describe one object stays as it is: each of them would
    forbid what the others name.
    """
    return _closed(schema) if _is_plain(schema) else schema


def _as_read(schema: Any) -> Any:
    """Return a document that admits what the class of today reads: it needs no computed field."""
    if isinstance(schema, list):
        return [_as_read(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _as_read(each) for name, each in schema.items()}
    properties = schema.get("properties")
    if isinstance(properties, dict) and isinstance(schema.get("required"), list):
        found["required"] = [
            name for name in schema["required"] if not _is_computed(properties.get(name))
        ]
    return found


def _is_computed(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get(COMPUTED) is True


_SCHEMAS: Final = ("anyOf", "oneOf", "items", "prefixItems", "additionalProperties")
_BESIDE: Final = ("properties", "anyOf", "oneOf", "$ref")
"""Of these no two stand side by side in a plain schema, since both could describe an object."""
_OTHERS: Final = (
    "allOf",
    "not",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "contains",
    "$dynamicRef",
)
_SPOKEN_OF: Final = ("additionalProperties", "patternProperties", "unevaluatedProperties")


def _is_plain(schema: Any) -> bool:
    if isinstance(schema, list):
        return all(map(_is_plain, schema))
    if not isinstance(schema, dict):
        return True
    if any(keyword in schema for keyword in _OTHERS):
        return False
    if sum(keyword in schema for keyword in _BESIDE) > 1:
        return False
    maps = [each for keyword in NAMED for each in schema.get(keyword, {}).values()]
    return all(map(_is_plain, maps + [schema[each] for each in _SCHEMAS if each in schema]))


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    for keyword in _SCHEMAS:
        if keyword in schema:
            found[keyword] = _closed(schema[keyword])
    for keyword in NAMED:
        if keyword in schema:
            found[keyword] = {name: _closed(each) for name, each in schema[keyword].items()}
    if "properties" in schema and not any(each in schema for each in _SPOKEN_OF):
        found["additionalProperties"] = False
    return found
