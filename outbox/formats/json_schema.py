"""JSON Schema: the data stays as it is, and is validated before it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from outbox.errors import DecodeError
from outbox.formats.codec import MisfitError, Schema, UnusableSchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jsonschema.exceptions import ValidationError

_NAMING: Final = frozenset(
    {"required", "additionalProperties", "unevaluatedProperties", "dependentRequired"}
)
"""Rules whose message has names of fields in it, and no value."""
_SHOWN: Final = 200


class JsonSchemaCodec:
    """See `Codec`."""

    def __init__(self, validator: Any) -> None:
        self._validator = validator

    def encode(self, data: bytes) -> bytes:
        """See `Codec.encode`."""
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            raise MisfitError(f"its data is no JSON: {exc.msg}") from exc
        try:
            error = best_match(self._validator.iter_errors(value))
        except Unresolvable as exc:
            raise UnusableSchemaError(
                f"its schema refers to {exc.ref!r}, which is nowhere"
            ) from exc
        if error is not None:
            raise MisfitError(_told(error))
        return data

    def decode(self, payload: bytes) -> bytes:
        """See `Codec.decode`."""
        try:
            orjson.loads(payload)
        except orjson.JSONDecodeError as exc:
            raise DecodeError(f"its data is no JSON: {exc.msg}") from exc
        return payload


def make(schema: Schema) -> JsonSchemaCodec:
    """Make a schema ready; raises `UnusableSchemaError`."""
    try:
        text = orjson.loads(schema.text)
        kind = validator_for(text, default=Draft202012Validator)
        kind.check_schema(text)
        registry: Registry[Any] = Registry().with_resources(_resources(schema))
        return JsonSchemaCodec(kind(text, registry=registry))
    except (SchemaError, ValueError) as exc:
        why = exc.message if isinstance(exc, SchemaError) else exc
        raise UnusableSchemaError(f"{schema} is no JSON Schema: {why}") from exc


def _resources(schema: Schema) -> Iterator[tuple[str, Resource[Any]]]:
    for name, other in schema.references.items():
        contents = orjson.loads(other.text)
        yield name, Resource.from_contents(contents, default_specification=DRAFT202012)
        yield from _resources(other)


def _told(error: ValidationError) -> str:
    where = ".".join(map(str, error.absolute_path)) or "data"
    if error.validator in _NAMING:
        return f"{where}: {error.message[:_SHOWN]}"
    return f"{where}: breaks the rule {error.validator} = {str(error.validator_value)[:_SHOWN]}"
