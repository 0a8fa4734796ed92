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
from outbox.formats.codec import MisfitError, Schema, place

Path = tuple[str | int, ...]
Convert = Callable[[Any, Path], Any]
"""Makes what fastavro takes of a JSON value; raises `MisfitError`."""

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
            fastavro.schemaless_writer(stream, self._schema, self._convert(value, ()))
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


def make(schema: Schema) -> AvroCodec:
    """Make a schema ready; raises `ConfigurationError`."""
    named: dict[str, Convert] = {}
    try:
        parsed, convert = _parse(schema, {}, named)
        return AvroCodec(parsed, convert)
    except (SchemaParseException, ValueError, KeyError, TypeError) as exc:
        raise ConfigurationError(f"schema {schema.id} is no Avro schema: {exc!r}") from exc


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

    def convert(value: Any, path: Path) -> Any:
        if not isinstance(value, dict):
            raise _misfit(path, "an object")
        if not value.keys() <= names:
            extra = ", ".join(sorted(value.keys() - names))
            raise MisfitError(f"{place(path)}: its schema has no field {extra[:200]}")
        found = {}
        for name, inner, is_optional in fields:
            if name in value:
                found[name] = inner(value[name], (*path, name))
            elif not is_optional:
                raise MisfitError(f"{place((*path, name))}: is missing")
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

    def convert(value: Any, path: Path) -> Any:
        if value is None and has_null:
            return None
        problem: MisfitError | None = None
        for name, inner in converts:
            try:
                found = inner(value, path)
            except MisfitError as exc:
                problem = exc
                continue
            # Told by its name, because two records may have the same fields.
            return (name, found) if isinstance(found, dict) else found
        # The one that there is says more than that it is none of several.
        raise problem if problem and len(converts) == 1 else _misfit(path, kinds)

    return convert


def _name(branch: Any) -> str:
    if isinstance(branch, str):
        return branch
    found: str = branch.get("name") or branch["type"]
    return found


def _array(schema: Any, named: dict[str, Convert]) -> Convert:
    inner = _compile(schema["items"], named)

    def convert(value: Any, path: Path) -> Any:
        if not isinstance(value, list):
            raise _misfit(path, "an array")
        return [inner(each, (*path, number)) for number, each in enumerate(value)]

    return convert


def _map(schema: Any, named: dict[str, Convert]) -> Convert:
    inner = _compile(schema["values"], named)

    def convert(value: Any, path: Path) -> Any:
        if not isinstance(value, dict):
            raise _misfit(path, "an object")
        return {name: inner(each, (*path, name)) for name, each in value.items()}

    return convert


def _enum(schema: Any, named: dict[str, Convert]) -> Convert:
    symbols = frozenset(schema["symbols"])

    def convert(value: Any, path: Path) -> Any:
        if not isinstance(value, str) or value not in symbols:
            raise _misfit(path, f"one of {', '.join(sorted(symbols))}")
        return value

    named[schema["name"]] = convert
    return convert


def _fixed(schema: Any, named: dict[str, Convert]) -> Convert:
    size = schema["size"]

    def convert(value: Any, path: Path) -> Any:
        found = _bytes(value, path)
        if len(found) != size:
            raise _misfit(path, f"base64 of {size} bytes")
        return found

    named[schema["name"]] = convert
    return convert


def _moment(kind: str, logical: str) -> Convert:
    read, number = _TIMES[logical], _PLAIN[kind]

    def convert(value: Any, path: Path) -> Any:
        if not isinstance(value, str):
            return number(value, path)
        try:
            found = read(value)
        except ValueError:
            raise _misfit(path, f"a {logical}") from None
        if logical.startswith("timestamp") and found.tzinfo is None:
            raise _misfit(path, f"a {logical}, with its time zone")
        return found

    return convert


def _decimal(value: Any, path: Path) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _misfit(path, "a decimal")
    try:
        return Decimal(str(value))
    except InvalidOperation:
        raise _misfit(path, "a decimal") from None


def _null(value: Any, path: Path) -> Any:
    if value is not None:
        raise _misfit(path, "null")


def _boolean(value: Any, path: Path) -> Any:
    if not isinstance(value, bool):
        raise _misfit(path, "a boolean")
    return value


def _whole(kind: str) -> Convert:
    limit = 1 << _INTS[kind]

    def convert(value: Any, path: Path) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not -limit <= value < limit:
            raise _misfit(path, f"a number of kind {kind}")
        return value

    return convert


def _number(value: Any, path: Path) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _misfit(path, "a number")
    return float(value)


def _string(value: Any, path: Path) -> Any:
    if not isinstance(value, str):
        raise _misfit(path, "a string")
    return value


def _bytes(value: Any, path: Path) -> Any:
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise _misfit(path, "base64")


def _misfit(path: Path, wanted: str) -> MisfitError:
    return MisfitError(f"{place(path)}: is not {wanted}")


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
