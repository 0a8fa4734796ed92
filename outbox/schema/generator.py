"""How a class becomes a JSON Schema: as pydantic writes it, and with what it leaves out."""

from __future__ import annotations

import json
import math
import re
from enum import Flag
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticOmit, PydanticSerializationError, to_jsonable_python

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic.json_schema import JsonSchemaMode
    from pydantic_core import core_schema

CONSTRAINTS: Final = "x-constraints"
"""The keyword for what a class asks of a value beside what JSON Schema can say of its text."""
COMPUTED: Final = "x-computed"
"""The keyword of a field that its class computes, and does not read."""

_BOUNDS: Final = ("gt", "ge", "lt", "le")
_UNSAID: Final[dict[str, tuple[str, ...]]] = {
    "str": ("ascii_only",),
    "decimal": (*_BOUNDS, "multiple_of", "max_digits", "decimal_places"),
    "date": (*_BOUNDS, "now_op"),
    "time": (*_BOUNDS, "tz_constraint"),
    "datetime": (*_BOUNDS, "now_op", "tz_constraint"),
    "timedelta": _BOUNDS,
    "url": ("allowed_schemes", "host_required"),
    "multi-host-url": ("allowed_schemes", "host_required"),
}
"""By type of pydantic's core schema, constraints that are in no schema of what is written."""
_TIMES: Final = frozenset({"date", "time", "datetime", "timedelta"})
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

    def build_schema_type_to_method(self) -> Any:
        """Add constraints that pydantic leaves out."""
        found: dict[Any, Any] = {**super().build_schema_type_to_method()}
        return found | {kind: partial(self._in_full, found[kind]) for kind in _UNSAID}

    def _in_full(self, method: Callable[[Any], Any], schema: Any) -> Any:
        found, kind = method(schema), schema["type"]
        unsaid: dict[str, Any] = {
            name: schema[name] for name in _UNSAID[kind] if schema.get(name) is not None
        }
        if kind in _TIMES and found.get("type") == "number":
            unit = self._config.config_dict.get("ser_json_temporal", "seconds")
            unsaid |= {"of": kind, "unit": unit}
        return _constrained(found, unsaid)

    def generate_inner(self, schema: Any) -> Any:
        """Say what is read where a function writes, drop bounds that JSON has no number for."""
        made = dict(super().generate_inner(schema))
        # What has a name stands elsewhere, where all that refer to it find what is added.
        found = self.resolve_ref_schema(made) if "ref" in schema else made
        for name in [name for name, each in found.items() if _is_endless(each)]:
            del found[name]
        read = self._as_read(schema) if "serialization" in schema else None
        if read is not None and _bare(read) != _bare(found):
            found |= _constrained(found, {"read": read})
        return made

    def _as_read(self, schema: Any) -> dict[str, Any] | None:
        """Return what is read of a value that a function writes, where that is described."""
        if self.ser_schema(schema["serialization"]) is None:
            return None
        own = {name: each for name, each in schema.items() if name not in {"ref", "serialization"}}
        try:
            return cast("dict[str, Any]", self.generate_inner(own))
        except (PydanticInvalidForJsonSchema, PydanticOmit):
            return None

    def str_schema(self, schema: core_schema.StringSchema) -> Any:
        """Say of a pattern its flags, which are no part of its text, and what is cut off before."""
        found, pattern = super().str_schema(schema), schema.get("pattern")
        flags = pattern.flags & ~re.UNICODE if isinstance(pattern, re.Pattern) else 0
        unsaid = {"pattern": found.pop("pattern"), "flags": flags} if flags else {}
        does_strip = self._config.config_dict.get("str_strip_whitespace")
        if schema.get("strip_whitespace", does_strip) and found.keys() & {"minLength", "pattern"}:
            unsaid["strip_whitespace"] = True  # without such a limit, what is left fits as well
        return _constrained(found, unsaid)

    def bytes_schema(self, schema: core_schema.BytesSchema) -> Any:
        """Say which text they are."""
        found = super().bytes_schema(schema)
        is_hex = self._config.config_dict.get("ser_json_bytes") == "hex"
        return {**found, "format": "hex"} if is_hex else found

    def enum_schema(self, schema: core_schema.EnumSchema) -> Any:
        """Let flags be added up, as their class does."""
        found = super().enum_schema(schema)
        if issubclass(schema["cls"], Flag):
            flags = found.pop("enum")
            return _constrained({**found, "type": "integer"}, {"flags": flags})
        return found

    def json_schema(self, schema: core_schema.JsonSchema) -> Any:
        """Say that what is read is a text, whose JSON is described."""
        return _constrained(super().json_schema(schema), {"of": "json"})

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


def _constrained(schema: dict[str, Any], unsaid: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with more constraints that JSON Schema cannot say."""
    if not unsaid:
        return schema
    return {**schema, CONSTRAINTS: schema.get(CONSTRAINTS, {}) | to_jsonable_python(unsaid)}


def _bare(schema: dict[str, Any]) -> dict[str, Any]:
    said = {"title", "description", "default", "examples"}
    return {name: each for name, each in schema.items() if name not in said}


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
