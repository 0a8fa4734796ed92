"""Avro: JSON ⇄ binary, by a schema that is compiled to functions once.

JSON knows fewer kinds of values than Avro: bytes and fixed stand in it as base64, decimals as text
or numbers, times as ISO 8601, the values of unions as they are. So do they where data becomes JSON
again. Sources: the specification of Avro 1.12, and fastavro, which writes the bytes.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import fastavro
import orjson
from fastavro.schema import SchemaParseException

from outbox.errors import ConfigurationError, DecodeError
from outbox.formats.codec import MisfitError, Schema

Convert = Callable[[Any], Any]
"""Makes what fastavro takes of a JSON value; raises `_Misfit`."""

_INTS: Final = {"int": 31, "long": 63}
_TIMES: Final[dict[str, Callable[[str], Any]]] = {
    "date": date.fromisoformat,
    "time-millis": time.fromisoformat,
    "time-micros": time.fromisoformat,
    "timestamp-millis": datetime.fromisoformat,
    "timestamp-micros": datetime.fromisoformat,
    "local-timestamp-millis": datetime.fromisoformat,
    "local-timestamp-micros": datetime.fromisoformat,
}


class AvroCodec:
    """See `Codec`."""

    def __init__(self, schema: Any, convert: Convert) -> None:
        self._schema = schema
        self._convert = convert

    def encode(self, data: bytes) -> bytes:
        """See `Codec.encode`."""
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            raise MisfitError(f"its data is no JSON: {exc.msg}") from exc
        stream = io.BytesIO()
        try:
            fastavro.schemaless_writer(stream, self._schema, self._convert(value))
        except _Misfit as misfit:
            where = ".".join(map(str, reversed(misfit.path))) or "data"
            raise MisfitError(f"{where}: {misfit.why}") from misfit
        except (ValueError, TypeError, OverflowError) as exc:
            # A number within JSON's bounds and beyond those of a logical type.
            raise MisfitError(f"Avro cannot hold a value of it ({type(exc).__name__})") from exc
        return stream.getvalue()

    def decode(self, payload: bytes) -> bytes:
        """See `Codec.decode`."""
        stream = io.BytesIO(payload)
        try:
            value = fastavro.schemaless_reader(stream, self._schema, None)
            if stream.tell() != len(payload):
                raise DecodeError("its data is longer than its schema says")  # as the others
            return orjson.dumps(value, default=_json)
        except (EOFError, ValueError, TypeError, IndexError, OverflowError, KeyError) as exc:
            raise DecodeError(f"its data does not fit its Avro schema: {exc!r}") from exc


class _Misfit(Exception):  # noqa: N818  # it is no error yet: a union may have another branch
    """A value that its schema does not take; the way to it is added on the way out."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.path: list[str | int] = []


def make(schema: Schema) -> AvroCodec:
    """Make a schema ready; raises `ConfigurationError`."""
    named: dict[str, Convert] = {}
    try:
        parsed, convert = _parse(schema, {}, named)
        return AvroCodec(parsed, convert)
    except (SchemaParseException, ValueError, KeyError, TypeError) as exc:
        raise ConfigurationError(f"{schema} is no Avro schema: {exc!r}") from exc


def _parse(schema: Schema, known: dict[str, Any], named: dict[str, Convert]) -> tuple[Any, Convert]:
    for other in schema.references.values():
        _parse(other, known, named)
    parsed = fastavro.parse_schema(orjson.loads(schema.text), named_schemas=known)
    return parsed, _compile(parsed, named)


def _compile(schema: Any, named: dict[str, Convert]) -> Convert:
    if isinstance(schema, list):
        return _union(schema, named)
    if isinstance(schema, str):
        # A named type is known before its own fields are looked at, so it may be inside of itself.
        return _PLAIN[schema] if schema in _PLAIN else named[schema]
    kind, logical = schema["type"], schema.get("logicalType")
    if logical in _TIMES:
        return _moment(kind, logical)
    if logical == "decimal":
        return _decimal
    compound = _COMPOUND.get(kind)
    return _compile(kind, named) if compound is None else compound(schema, named)


def _record(schema: Any, named: dict[str, Convert]) -> Convert:
    fields: list[tuple[str, Convert, bool]] = []
    names = frozenset(field["name"] for field in schema["fields"])

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Misfit("is not an object")
        if not value.keys() <= names:
            extra = ", ".join(sorted(value.keys() - names))
            raise _Misfit(f"its schema has no field {extra[:200]}")
        found = {}
        name = ""
        try:
            for name, inner, is_optional in fields:
                if name in value:
                    found[name] = inner(value[name])
                elif not is_optional:
                    raise _Misfit("is missing")  # noqa: TRY301  # as what is inside of it
        except _Misfit as misfit:
            misfit.path.append(name)
            raise
        return found

    named[schema["name"]] = convert
    fields += [
        (field["name"], _compile(field["type"], named), "default" in field)
        for field in schema["fields"]
    ]
    return convert


def _union(branches: list[Any], named: dict[str, Convert]) -> Convert:
    has_null = "null" in branches
    converts = [(_name(each), _compile(each, named)) for each in branches if each != "null"]
    kinds = " or ".join(_name(each) for each in branches)

    def convert(value: Any) -> Any:
        if value is None and has_null:
            return None
        problem: _Misfit | None = None
        for name, inner in converts:
            try:
                found = inner(value)
            except _Misfit as misfit:
                problem = misfit
                continue
            # Told by its name, because two records may have the same fields.
            return (name, found) if isinstance(found, dict) else found
        # The one that there is says more than that it is none of several.
        raise problem if problem and len(converts) == 1 else _Misfit(f"is not {kinds}")

    return convert


def _name(branch: Any) -> str:
    if isinstance(branch, str):
        return branch
    found: str = branch.get("name") or branch["type"]
    return found


def _array(schema: Any, named: dict[str, Convert]) -> Convert:
    inner = _compile(schema["items"], named)

    def convert(value: Any) -> Any:
        if not isinstance(value, list):
            raise _Misfit("is not an array")
        found: list[Any] = []
        try:
            for each in value:
                found.append(inner(each))  # noqa: PERF401  # how far it came is where it failed
        except _Misfit as misfit:
            misfit.path.append(len(found))
            raise
        return found

    return convert


def _map(schema: Any, named: dict[str, Convert]) -> Convert:
    inner = _compile(schema["values"], named)

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Misfit("is not an object")
        found, name = {}, ""
        try:
            for name, each in value.items():  # it is where it failed
                found[name] = inner(each)
        except _Misfit as misfit:
            misfit.path.append(name)
            raise
        return found

    return convert


def _enum(schema: Any, named: dict[str, Convert]) -> Convert:
    symbols = frozenset(schema["symbols"])

    def convert(value: Any) -> Any:
        if not isinstance(value, str) or value not in symbols:
            raise _Misfit(f"is not one of {', '.join(sorted(symbols))}")
        return value

    named[schema["name"]] = convert
    return convert


def _fixed(schema: Any, named: dict[str, Convert]) -> Convert:
    size = schema["size"]

    def convert(value: Any) -> Any:
        found = _bytes(value)
        if len(found) != size:
            raise _Misfit(f"is not base64 of {size} bytes")
        return found

    named[schema["name"]] = convert
    return convert


def _moment(kind: str, logical: str) -> Convert:
    read, number = _TIMES[logical], _PLAIN[kind]

    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            return number(value)
        try:
            found = read(value)
        except ValueError:
            raise _Misfit(f"is not a {logical}") from None
        if logical.startswith("timestamp") and found.tzinfo is None:
            raise _Misfit(f"is not a {logical}, with its time zone")
        return found

    return convert


def _decimal(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Misfit("is not a decimal")
    try:
        return Decimal(str(value))
    except InvalidOperation:
        raise _Misfit("is not a decimal") from None


def _null(value: Any) -> Any:
    if value is not None:
        raise _Misfit("is not null")


def _boolean(value: Any) -> Any:
    if not isinstance(value, bool):
        raise _Misfit("is not a boolean")
    return value


def _whole(kind: str) -> Convert:
    limit = 1 << _INTS[kind]

    def convert(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not -limit <= value < limit:
            raise _Misfit(f"is not a number of kind {kind}")
        return value

    return convert


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Misfit("is not a number")
    return float(value)


def _string(value: Any) -> Any:
    if not isinstance(value, str):
        raise _Misfit("is not a string")
    return value


def _bytes(value: Any) -> Any:
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise _Misfit("is not base64")


_PLAIN: Final[dict[str, Convert]] = {
    "null": _null,
    "boolean": _boolean,
    "int": _whole("int"),
    "long": _whole("long"),
    "float": _number,
    "double": _number,
    "string": _string,
    "bytes": _bytes,
}
_COMPOUND: Final[dict[str, Callable[[Any, dict[str, Convert]], Convert]]] = {
    "record": _record,
    "error": _record,
    "array": _array,
    "map": _map,
    "enum": _enum,
    "fixed": _fixed,
}


def _json(value: object) -> str:
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case Decimal():
            return str(value)
        case _:
            raise TypeError(type(value).__name__)
