"""A JSON Schema (draft 2020-12) as a Schema Object of AsyncAPI 3.0.

That is a superset of draft 07: `$defs` were `definitions` there, `prefixItems` were `items`, and
what stood beside a `$ref` was ignored. So each of these is written as draft 07 has it. References
stay within the schema, wherever in a document it stands.
"""

from __future__ import annotations

from typing import Any, Final

from outbox.schema.generator import CONSTRAINTS
from outbox.schema.shape import NAMED

_RENAMED: Final[dict[str, str]] = {"$defs": "definitions", "dependentSchemas": "dependencies"}
_MAPS: Final = NAMED | {"dependentSchemas", CONSTRAINTS}
_LISTS: Final = frozenset({"anyOf", "allOf", "oneOf"})
_SCHEMAS: Final = frozenset(
    {
        *("items", "additionalProperties", "propertyNames", "contains"),
        *("not", "if", "then", "else"),
    }
)
_DROPPED: Final = frozenset(
    {
        # Of the document that the schema stood in: references are not relative to it any more.
        *("$schema", "$id"),
        # An object of OpenAPI, where AsyncAPI has a string of another meaning.
        "discriminator",
        # They are rewritten together.
        *("$ref", "prefixItems", "items", "dependentRequired"),
    }
)


def schema_object(schema: Any, place: str) -> Any:
    """Return a schema for a place in a document, a URI fragment such as `#/components/schemas/x`.

    Nothing but its dialect and its references changes. What draft 07 does not know stays as an
    unknown keyword, which means nothing there: it admits more, never less.
    """
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for name, value in schema.items():
        if name not in _DROPPED:
            found[_RENAMED.get(name, str(name))] = _inside(name, value, place)
    found |= _items(schema, place)
    required = schema.get("dependentRequired")
    if isinstance(required, dict):
        found["dependencies"] = required | found.get("dependencies", {})
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return found
    target = {"$ref": moved(reference, place)}
    if not found:
        return target
    return {**found, "allOf": [target, *found.get("allOf", [])]}


def moved(reference: str, place: str) -> str:
    """Return where a reference within a schema leads once the schema stands at a place."""
    if not reference.startswith("#"):
        return reference
    tokens = [_RENAMED.get(token, token) for token in reference.removeprefix("#").split("/")]
    return place + "/".join(tokens)


def _inside(keyword: str, value: Any, place: str) -> Any:
    if keyword in _MAPS and isinstance(value, dict):
        return {name: schema_object(each, place) for name, each in value.items()}
    if keyword in _LISTS and isinstance(value, list):
        return [schema_object(each, place) for each in value]
    return schema_object(value, place) if keyword in _SCHEMAS else value


def _items(schema: dict[str, Any], place: str) -> dict[str, Any]:
    """Return what is said of an array's items: the first ones each by itself, and all others."""
    rest = {"items": schema_object(schema["items"], place)} if "items" in schema else {}
    first = schema.get("prefixItems")
    if not first:
        return rest
    found: dict[str, Any] = {"items": [schema_object(each, place) for each in first]}
    if rest:
        found["additionalItems"] = rest["items"]
    return found
