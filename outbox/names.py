"""What the fields of a class are called in JSON: where it is read, and where it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, AliasPath, BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo


def read_names(schema: Any) -> Iterator[str]:
    """Yield the names by which the fields in a core schema are read, nested ones included."""
    if isinstance(schema, dict):
        fields = schema.get("fields")
        if isinstance(fields, dict):
            yield from fields
        yield from _texts([schema.get(name) for name in ("name", "alias", "validation_alias")])
        schema = schema.values()
    elif not isinstance(schema, list | tuple):
        return
    for each in schema:
        yield from read_names(each)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def lost_fields(cls: type) -> Iterator[str]:
    """Say of each field of a model that its own JSON does not give it back.

    Nothing is said where a function of the application reads or writes the whole.
    """
    if not issubclass(cls, BaseModel) or _is_converted(cls):
        return
    for name, field in cls.model_fields.items():
        if field.exclude:
            if field.is_required():
                yield f"{name} is required, and left out of the JSON: give it a default"
            continue
        written = field.serialization_alias or name
        read = _read(cls, name, field)
        if written not in read:
            known = " or ".join(map(repr, read)) or "something else"
            yield f"{name} is written as {written!r} and read as {known}: give it one alias alone"


def _is_converted(cls: type[BaseModel]) -> bool:
    functions = cls.__pydantic_decorators__
    modes = {each.info.mode for each in functions.model_validators.values()}
    return bool(functions.model_serializers or modes - {"after"})


def _read(cls: type[BaseModel], name: str, field: FieldInfo) -> list[str]:
    """Return the names by which a field of a model is read."""
    alias, config = field.validation_alias, cls.model_config
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    paths = [each.path if isinstance(each, AliasPath) else [each] for each in choices]
    found = [str(path[0]) for path in paths if len(path) == 1 and path[0] is not None]
    is_by_name = config.get("populate_by_name") or config.get("validate_by_name")
    return [*found, name] if alias is None or is_by_name else found
