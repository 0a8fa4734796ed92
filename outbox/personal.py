"""Which fields of an event hold personal data: the marker, and where it stands in a class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pydantic_core
from pydantic_core import core_schema

from outbox.errors import EventDefinitionError
from outbox.sealing import REDACTED, SEALED_PATTERN, Collector, is_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic import GetCoreSchemaHandler

KEYWORD: Final = "x-personal"
"""The keyword of a marked field in its JSON Schema: true, or the name of the subject's field."""
EACH: Final = "*"
"""Stands in a path for each item of a list, and each value of a dict."""


class _Hook:
    """Lets pydantic ask the class as it asks an instance: for a field's schema, of either kind."""

    def __init__(self, answer: Callable[[Personal, Any, Any], Any]) -> None:
        self._answer = answer

    def __get__(self, marker: Personal | None, owner: type[Personal]) -> Callable[[Any, Any], Any]:
        return partial(self._answer, owner() if marker is None else marker)


def _mark(
    marker: Personal, schema: Any, handler: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    return {**_written(handler(schema)), KEYWORD: marker.subject or True}


def _written(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that describes the token as well, which stands in the value's place."""
    choices = schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]
    if {"type": "string"} in choices:
        return schema
    return {"anyOf": [*choices, {"type": "string", "pattern": SEALED_PATTERN}]}


def _wrap(marker: Personal, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    """Let a field be taken out while it is written, and be absent when it is read."""
    schema = handler(source)
    return core_schema.no_info_wrap_validator_function(
        partial(_read, _absent(schema, handler.field_name)),
        schema,
        serialization=core_schema.wrap_serializer_function_ser_schema(
            partial(_write, marker.subject), info_arg=True, schema=schema
        ),
    )


def _absent(schema: Any, name: str | None) -> str | None:
    """Return what a field reads as where its value cannot be read."""
    while schema["type"] in {"default", "function-after", "function-before", "function-wrap"}:
        schema = schema["schema"]
    if schema["type"] in {"nullable", "any", "none"}:
        return None
    if schema["type"] == "str":
        return REDACTED
    raise EventDefinitionError(
        f"the personal field {name or ''} is neither a str nor admits None, and one day its value"
        " may be gone: write for instance Annotated[date | None, outbox.Personal]"
    )


def _read(absent: str | None, value: object, handler: Callable[[Any], Any]) -> Any:
    return absent if is_token(value) else handler(value)


def _write(
    subject: str | None,
    value: object,
    handler: core_schema.SerializerFunctionWrapHandler,
    info: core_schema.SerializationInfo,
) -> Any:
    found = handler(value)
    # Nothing is to be hidden where there is nothing.
    if found is None or not isinstance(info.context, Collector):
        return found
    return info.context.hide(subject, pydantic_core.to_json(found))


@dataclass(frozen=True)
class Personal:
    """Marks a field as personal data: `name: Annotated[str, outbox.Personal]`.

    It is encrypted in every event, so that its value can be made to vanish everywhere at once by
    forgetting the person (see `outbox.keys`). Who has no key reads None, or `[personal]` where the
    field is a `str`; other fields have to admit None.

    `Personal(subject="customer_id")` names the field of the event that identifies the person;
    without it that is the event's key. Fields of nested classes, of items and of values of dicts
    may be marked too; a marked object is personal as a whole. `EventType.personal` lists them.
    """

    subject: str | None = None

    __get_pydantic_json_schema__ = _Hook(_mark)
    __get_pydantic_core_schema__ = _Hook(_wrap)


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


def _walk(
    schema: Any, definitions: Mapping[str, Any], path: tuple[str, ...], open_: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], str | None]]:
    if not isinstance(schema, dict):
        return
    if KEYWORD in schema:
        subject = schema[KEYWORD]
        yield path, subject if isinstance(subject, str) else None
        return
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    # A union that recurs has endless places in which nothing is to be found.
    if name and _is_marked_below(definitions[name], definitions, set()):
        if name not in open_:
            yield from _walk(definitions[name], definitions, path, {**open_, name: path})
        elif path != open_[name]:
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
