"""Lets pydantic read and write attrs classes as it does dataclasses.

A class becomes its fields as a JSON object, each checked by its annotation, and is then made by
its own constructor, so that its converters, validators and defaults apply.
"""

from __future__ import annotations

import functools
import operator
import sys
import types
import typing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import PydanticUndefinedAnnotation
from pydantic_core import core_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import GetCoreSchemaHandler

_open: Final[ContextVar[frozenset[type]]] = ContextVar("outbox_attrs_open", default=frozenset())
"""The classes whose schema is being made: one that contains itself refers to its own."""


def is_attrs(cls: object) -> bool:
    """Tell whether attrs made a class; nobody who has not imported attrs has one."""
    attrs = sys.modules.get("attr")
    return attrs is not None and isinstance(cls, type) and attrs.has(cls)


def is_open() -> bool:
    """Tell whether the schema of an attrs class is being made."""
    return bool(_open.get())


def names(cls: type) -> dict[str, str]:
    """Return the names in JSON of the fields that the constructor takes.

    In JSON a field has the name that the constructor takes it by: `_count` is `count`.
    """
    return {each.name: each.alias or each.name for each in _attributes(cls)}


def readable(hint: Any) -> Any:
    """Return an annotation with every attrs class replaced by one that pydantic can read."""
    if is_attrs(hint):
        return _reader(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None or origin is typing.Literal:
        return hint
    if origin is Annotated:
        return Annotated[(readable(arguments[0]), *arguments[1:])]
    inner = tuple(readable(each) for each in arguments)
    if inner == arguments:
        return hint
    if origin is types.UnionType:
        return functools.reduce(operator.or_, inner)
    return origin[inner]


@functools.cache
def _reader(cls: type) -> type:
    """Return a class that pydantic asks for its schema in the place of an attrs class."""

    def core_schema_of(_source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        reference = f"{cls.__module__}.{cls.__qualname__}:{id(cls)}"
        if cls in _open.get():
            return core_schema.definition_reference_schema(reference)
        token = _open.set(_open.get() | {cls})
        try:
            return _schema(cls, reference, handler)
        finally:
            _open.reset(token)

    return type(cls.__name__, (), {"__get_pydantic_core_schema__": staticmethod(core_schema_of)})


def _schema(cls: type, reference: str, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as exc:  # pydantic looks again when it is used first
        raise PydanticUndefinedAnnotation.from_name_error(exc) from exc
    fields = {}
    for each in _attributes(cls):
        schema = handler.generate_schema(readable(hints.get(each.name, Any)))
        is_required = each.default is _attr().NOTHING
        if not is_required and not isinstance(each.default, _attr().Factory):
            schema = core_schema.with_default_schema(schema, default=each.default)
        name = each.alias or each.name
        fields[name] = core_schema.typed_dict_field(schema, required=is_required)
    values = core_schema.typed_dict_schema(fields, cls_name=cls.__name__)
    return core_schema.no_info_after_validator_function(
        _maker(cls),
        values,
        ref=reference,
        serialization=core_schema.wrap_serializer_function_ser_schema(_dumper(cls), schema=values),
        metadata={"pydantic_js_functions": [functools.partial(_describe, cls)]},
    )


def _maker(cls: type) -> Callable[[dict[str, Any]], Any]:
    def make(values: dict[str, Any]) -> Any:
        try:
            return cls(**values)
        except TypeError as exc:  # attrs' own `instance_of`, which pydantic would let through
            raise ValueError(str(exc)) from exc

    return make


def _dumper(cls: type) -> Callable[[Any, Callable[[Any], Any]], Any]:
    fields = names(cls)

    def dump(event: Any, default: Callable[[Any], Any]) -> Any:
        if not isinstance(event, cls):
            return default(event)  # which says that it is no such object
        return default({alias: getattr(event, name) for name, alias in fields.items()})

    return dump


def _describe(cls: type, schema: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    found = handler(schema)
    found["title"] = cls.__name__
    return found


def _attributes(cls: type) -> list[Any]:
    return [each for each in _attr().fields(cls) if each.init]


def _attr() -> Any:
    import attr  # noqa: PLC0415  # whoever has such a class has imported it

    return attr
