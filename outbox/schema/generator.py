"""How a class becomes a JSON Schema: as pydantic writes it, and with what it leaves out."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticSerializationError, to_jsonable_python

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaMode
    from pydantic_core import core_schema

CONSTRAINTS: Final = "x-constraints"
"""The keyword for what a class asks of a value beside what JSON Schema can say of its text."""
COMPUTED: Final = "x-computed"
"""The keyword of a field that its class computes, and does not read."""

_BOUNDS: Final = ("gt", "ge", "lt", "le")
_UNSAID: Final[dict[str, tuple[str, ...]]] = {
    "decimal": (*_BOUNDS, "multiple_of", "max_digits", "decimal_places"),
    "date": (*_BOUNDS, "now_op"),
    "time": (*_BOUNDS, "tz_constraint"),
    "datetime": (*_BOUNDS, "now_op", "tz_constraint"),
    "timedelta": _BOUNDS,
}
"""By type of pydantic's core schema, constraints that are in no schema of what is written."""
_WHOLE: Final = "^-?[0-9]+$"
_DECIMAL: Final = r"^-?[0-9]+(\.[0-9]+)?(E[+-]?[0-9]+)?$"
_ENDLESS: Final = "^-?(Infinity|s?NaN[0-9]*)$"
"""The texts of decimals, without which a decimal would be any text."""


class Generator(GenerateJsonSchema):
    """Makes the schema of what is written, such that whatever the class refuses is in it.

    Without warnings, which nobody could act upon.
    """

    # A default that JSON does not know is left out: it is no part of the wire.
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  # as declared

    def generate(self, schema: Any, mode: JsonSchemaMode = "validation") -> Any:
        """Remember what references mean."""
        self._meant = {each["ref"]: each for each in schema.get("definitions", ())}
        return super().generate(schema, mode)

    def generate_inner(self, schema: Any) -> Any:
        """Add constraints that pydantic leaves out, and drop bounds that JSON has no number for."""
        made = super().generate_inner(schema)
        found = {name: each for name, each in made.items() if not _is_endless(each)}
        unsaid = {
            name: schema[name]
            for name in _UNSAID.get(schema["type"], ())
            if schema.get(name) is not None
        }
        if unsaid:
            found[CONSTRAINTS] = to_jsonable_python(unsaid)
        return found

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> Any:
        """Say that it is a number, in the words of Python."""
        found = {"type": "string", "pattern": _DECIMAL}
        is_endless = schema.get("allow_inf_nan")
        if is_endless is None:
            is_endless = self._config.config_dict.get("allow_inf_nan")
        return {"anyOf": [found, {"type": "string", "pattern": _ENDLESS}]} if is_endless else found

    def complex_schema(self, schema: core_schema.ComplexSchema) -> Any:
        """Say that it is a number, and no other text."""
        return {**super().complex_schema(schema), "format": "complex"}

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> Any:
        """Let each member require its tag, which is always written, though it may have a default.

        Without a tag that JSON shows nobody knows that exactly one member is meant.
        """
        found = super().tagged_union_schema(schema)
        members = found.pop("oneOf")
        tag = found.get("discriminator", {}).get("propertyName")
        if tag is None:
            return {"anyOf": members, **found}
        return {"oneOf": [_requiring(tag, each) for each in members], **found}

    def dict_schema(self, schema: core_schema.DictSchema) -> Any:
        """Say which keys the class takes."""
        return self._keyed(schema, super().dict_schema(schema))

    def frozendict_schema(self, schema: core_schema.FrozenDictSchema) -> Any:
        """Say which keys the class takes."""
        return self._keyed(schema, super().frozendict_schema(schema))

    def ordered_dict_schema(self, schema: core_schema.OrderedDictSchema) -> Any:
        """Say which keys the class takes."""
        return self._keyed(schema, super().ordered_dict_schema(schema))

    def counter_schema(self, schema: core_schema.CounterSchema) -> Any:
        """Say which keys the class takes."""
        return self._keyed(schema, super().counter_schema(schema))

    def _keyed(self, schema: Any, found: dict[str, Any]) -> dict[str, Any]:
        """Say which keys a dict takes: names are texts, whatever they are made of."""
        if "patternProperties" in found:
            found["additionalProperties"] = False
        keys = self._inline(schema["keys_schema"]) if "keys_schema" in schema else {}
        if keys.get("type") == "string" or not keys:  # which pydantic describes
            return found
        names = _names(keys)
        found.pop("propertyNames", None)
        if names is not None:
            found["propertyNames"] = names
        if names is None or keys.keys() - {"type", "title", "description", "enum", "const"}:
            found[CONSTRAINTS] = {"keys": keys}
        return found

    def _inline(self, schema: Any) -> dict[str, Any]:
        """Return the schema of a value, and no reference to it."""
        while schema["type"] == "definition-ref":
            schema = self._meant[schema["schema_ref"]]
        without = {name: each for name, each in schema.items() if name != "ref"}
        return dict(self.generate_inner(without))

    def computed_field_schema(self, schema: core_schema.ComputedField) -> Any:
        """Mark a field that nobody has to give."""
        return {**super().computed_field_schema(schema), COMPUTED: True}

    def encode_default(self, dft: Any) -> Any:
        """Leave out a default that has no JSON, such as infinity."""
        found = super().encode_default(dft)
        try:
            json.dumps(found, allow_nan=False)
        except ValueError as exc:
            raise PydanticSerializationError(str(exc)) from exc
        return found


def _requiring(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    required = cast("list[str]", schema.get("required", []))
    return schema if name in required else {**schema, "required": [*required, name]}


def _names(keys: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema of a dict's names, which are texts whatever its keys are, or None."""
    values = keys.get("enum", [keys["const"]] if "const" in keys else [])
    if keys.get("type") == "boolean":
        values = values or [True, False]
    if values and all(isinstance(each, int) for each in values):
        return {"enum": [json.dumps(each) for each in values]}
    return {"pattern": _WHOLE} if keys.get("type") == "integer" else None


def _is_endless(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
