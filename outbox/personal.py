"""Which fields of an event hold personal data: the marker, and where it stands in a class."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pydantic_core import core_schema

from outbox import attrs_class
from outbox.sealing import REDACTED, SEALED_PATTERN, Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic import GetCoreSchemaHandler

KEYWORD: Final = "x-personal"
"""The keyword of a marked field in its JSON Schema: true, or the name of the subject's field."""
Path: TypeAlias = tuple[str, ...]
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
        partial(_read, _absent(schema)),
        schema,
        serialization=core_schema.wrap_serializer_function_ser_schema(
            **_writer(marker.subject, handler), info_arg=True, schema=schema
        ),
    )


def _writer(subject: str | None, handler: GetCoreSchemaHandler) -> Any:
    """Return what writes a field; with its object, where a field of that may be the subject."""
    if subject is None:
        return {"function": partial(_write, None)}
    # Outside of a class, as in `TypeAdapter(Name)`, pydantic has no such object and would fail.
    if handler.field_name is None and not attrs_class.is_open():
        return {"function": partial(_write, subject)}
    return {"function": partial(_write_of, subject), "is_field_serializer": True}


def _absent(schema: Any) -> object:
    """Return what a field reads as where its value cannot be read."""
    while schema["type"] in {"default", "function-after", "function-before", "function-wrap"}:
        schema = schema["schema"]
    if schema["type"] in {"nullable", "any", "none"}:
        return None
    return REDACTED if schema["type"] == "str" else _NOTHING


_NOTHING: Final = object()
"""Stands for what a field reads as that has no value to say that its own is gone."""


def _nothing(_value: object) -> bool:
    return False


_gap: Final[ContextVar[Callable[[object], bool]]] = ContextVar("outbox_gap", default=_nothing)
"""Tells what stands in the place of a value that cannot be read: nothing, while no event is read.
What an application gives a class is its own."""


@contextmanager
def reading(gap: Callable[[object], bool]) -> Iterator[None]:
    """Let a marked field be absent, while an event is read, where it has what `gap` knows."""
    former = _gap.set(gap)
    try:
        yield
    finally:
        _gap.reset(former)


def _read(absent: object, value: object, handler: Callable[[Any], Any]) -> Any:
    return absent if absent is not _NOTHING and _gap.get()(value) else handler(value)


def _write(
    subject: str | None,
    value: object,
    handler: core_schema.SerializerFunctionWrapHandler,
    info: core_schema.SerializationInfo,
) -> Any:
    return _write_of(subject, None, value, handler, info)


def _write_of(
    subject: str | None,
    owner: object,
    value: object,
    handler: core_schema.SerializerFunctionWrapHandler,
    info: core_schema.SerializationInfo,
) -> Any:
    collector = info.context
    if not isinstance(collector, Collector) or collector.is_hiding:
        return handler(value)
    collector.is_hiding = True
    try:
        found = handler(value)
    finally:
        collector.is_hiding = False
    # Nothing is to be hidden where there is nothing.
    return None if found is None else collector.hide(subject, found, owner)


@dataclass(frozen=True)
class Personal:
    """Marks a field as personal data: `name: Annotated[str, outbox.Personal]`.

    It is encrypted in every event, so that its value can be made to vanish everywhere at once by
    forgetting the person (see `outbox.keys`). Who has no key reads None, or `[personal]` where the
    field is a `str`; other fields have to admit None.

    `Personal(subject="customer_id")` names the field that identifies the person: that of the object
    which has the marked field, where it has one of this name, or else that of the event. Without
    it that is the event's key. Fields of nested classes, of items and of values of dicts
    may be marked too; a marked object is personal as a whole. `EventType.personal` lists them.
    """

    subject: str | None = None

    __get_pydantic_json_schema__ = _Hook(_mark)
    __get_pydantic_core_schema__ = _Hook(_wrap)


@dataclass(frozen=True, slots=True)
class PersonalField:
    """One marked field of an event."""

    path: Path
    """The names that lead to it in the event's JSON, `*` for each item or value."""
    subject: Path
    """Those that lead to the value that identifies the person."""

    def __str__(self) -> str:
        """Write the path as people do."""
        return named(self.path)


def named(path: Path) -> str:
    """Return a path as people read it, for instance `/lines/*/name`."""
    return "".join(f"/{name}" for name in path) or "/"


def stands_for_marker(schema: Mapping[str, Any]) -> bool:
    """Tell whether a part of a core schema is what the marker has made."""
    return _made_by(schema, _read) is not None


def can_be_absent(schema: Mapping[str, Any]) -> bool:
    """Tell whether what the marker has made reads as something where its value is gone."""
    made = _made_by(schema, _read)
    return made is None or made.args[0] is not _NOTHING


def subject_written(serializer: Mapping[str, Any] | None) -> str | None:
    """Return the subject that the marker's own serializer names, "" for the key field.

    None stands for another serializer.
    """
    made = None if serializer is None else _made_by(serializer, _write, _write_of)
    return None if made is None else made.args[0] or ""


def _made_by(schema: Mapping[str, Any], *functions: Callable[..., Any]) -> partial[Any] | None:
    found: Any = schema.get("function")
    if isinstance(found, dict):  # that of a validator
        found = found.get("function")
    return found if isinstance(found, partial) and found.func in functions else None
