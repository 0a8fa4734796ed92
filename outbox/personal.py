"""Which fields of an event hold personal data: the marker, and where it stands in a class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

KEYWORD: Final = "x-personal"
"""The keyword of a marked field in its JSON Schema: true, or the name of the subject's field."""
EACH: Final = "*"
"""Stands in a path for each item of a list, and each value of a dict."""


class _Hook:
    """Lets pydantic ask the class for a field's JSON Schema as it asks an instance."""

    def __get__(
        self, marker: Personal | None, owner: type[Personal]
    ) -> Callable[[Any, Callable[[Any], dict[str, Any]]], dict[str, Any]]:
        return partial(_mark, owner() if marker is None else marker)


@dataclass(frozen=True)
class Personal:
    """Marks a field as personal data: `name: Annotated[str, outbox.Personal]`.

    `Personal(subject="customer_id")` names the field of the event that identifies the person;
    without it that is the event's key. Fields of nested classes, of items and of values of dicts
    may be marked too; a marked object is personal as a whole. `EventType.personal` lists them.
    """

    subject: str | None = None

    __get_pydantic_json_schema__ = _Hook()


@dataclass(frozen=True, slots=True)
class PersonalField:
    """One marked field of an event."""

    path: tuple[str, ...]
    """The names that lead to it in the event's JSON, `*` for each item or value."""
    subject: str
    """The field of the event whose value identifies the person."""

    def __str__(self) -> str:
        """Write the path as people read it, for instance `/lines/*/name`."""
        return "".join(f"/{name}" for name in self.path)


class RecursionInPersonalError(Exception):
    """A marked field stands inside itself, so that no list could name all its places."""


def marked(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Yield the path of each marked field in a JSON Schema, and the subject that it names.

    Raises `RecursionInPersonalError` for a marked field of a class that contains itself.
    """
    found: dict[tuple[str, ...], str | None] = {}
    for path, subject in _walk(schema, schema.get("$defs", {}), (), {}):
        found.setdefault(path, subject)
    yield from found.items()


def _mark(
    marker: Personal, schema: Any, handler: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    return {**handler(schema), KEYWORD: marker.subject or True}


def _walk(
    schema: Any, definitions: Mapping[str, Any], path: tuple[str, ...], open_: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], str | None]]:
    if not isinstance(schema, dict):
        return
    if KEYWORD in schema:
        subject = schema[KEYWORD]
        yield path, subject if isinstance(subject, str) else None
        return
    reference = schema.get("$ref")
    if reference is not None:
        name = reference.rpartition("/")[2]
        if name not in open_:
            yield from _walk(definitions[name], definitions, path, {**open_, name: path})
        elif path != open_[name] and _is_marked_below(definitions[name], definitions, set()):
            raise RecursionInPersonalError(name)
    for keyword in ("anyOf", "oneOf", "allOf"):
        for each in schema.get(keyword, ()):
            yield from _walk(each, definitions, path, open_)
    for name, each in schema.get("properties", {}).items():
        yield from _walk(each, definitions, (*path, name), open_)
    for each in _repeated(schema):
        yield from _walk(each, definitions, (*path, EACH), open_)


def _repeated(schema: Mapping[str, Any]) -> list[Any]:
    return [
        schema.get("items"),
        schema.get("additionalProperties"),
        *schema.get("prefixItems", ()),
        *schema.get("patternProperties", {}).values(),
    ]


def _is_marked_below(schema: Any, definitions: Mapping[str, Any], seen: set[str]) -> bool:
    """Tell whether a marked field stands anywhere in a schema."""
    if isinstance(schema, list):
        return any(_is_marked_below(each, definitions, seen) for each in schema)
    if not isinstance(schema, dict):
        return False
    if KEYWORD in schema:
        return True
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name and name not in seen:
        seen.add(name)
        if _is_marked_below(definitions[name], definitions, seen):
            return True
    return any(_is_marked_below(each, definitions, seen) for each in schema.values())
