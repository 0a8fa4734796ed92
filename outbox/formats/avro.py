"""Avro: JSON ⇄ binary, by a schema that is compiled to functions once.

JSON knows fewer kinds of values than Avro: bytes and fixed stand in it as base64, decimals as text
or numbers, times as ISO 8601, the values of unions as they are. So do they where data becomes JSON
again: either the same value, or the event is refused. What a schema's kind says is less exact
(`float`, and moments in milliseconds) is rounded as it says. Sources: the specification of Avro
1.12, and fastavro, which writes the bytes.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any, Final, NamedTuple
from uuid import UUID

import fastavro
import orjson
from fastavro.read import LOGICAL_READERS
from fastavro.schema import SchemaParseException
from fastavro.write import LOGICAL_WRITERS

from outbox.errors import DecodeError
from outbox.formats.codec import Misfit, MisfitError, Schema, UnusableSchemaError, read_base64, real

Convert = Callable[[Any], Any]
"""Makes what fastavro takes of a JSON value; raises `Misfit`."""

_INTS: Final = {"int": 31, "long": 63}
_RECORDS: Final = frozenset({"record", "error"})
_UUID_BYTES: Final = 16
_NOTHING: Final = object()
"""A field's default where it has none; null may be one."""
_TIMES: Final[dict[str, Callable[[str], Any]]] = {
    "int-date": date.fromisoformat,
    "int-time-millis": time.fromisoformat,
    "long-time-micros": time.fromisoformat,
    "long-timestamp-millis": datetime.fromisoformat,
    "long-timestamp-micros": datetime.fromisoformat,
    "long-local-timestamp-millis": datetime.fromisoformat,
    "long-local-timestamp-micros": datetime.fromisoformat,
}
"""By kind and logical type; on another kind a logical type means nothing, as the source has it."""
_BINARY_UUID: Final = "outbox-uuid"
"""What a UUID of 16 bytes is called, which fastavro has nothing for."""
LOGICAL_READERS[f"fixed-{_BINARY_UUID}"] = lambda data, *_: UUID(bytes=data)


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
        except Misfit as misfit:
            raise misfit.error() from misfit
        except (ValueError, TypeError, OverflowError) as exc:
            # A default of the schema that fits none of its branches, for instance.
            raise MisfitError(f"its Avro schema does not hold it ({type(exc).__name__})") from exc
        return stream.getvalue()

    def decode(self, payload: bytes) -> bytes:
        """See `Codec.decode`."""
        stream = io.BytesIO(payload)
        try:
            value = fastavro.schemaless_reader(stream, self._schema, None)
            if stream.tell() != len(payload):
                raise DecodeError("its data is longer than its schema says")  # as the others
            found = _dumps(value)
        except (EOFError, ValueError, TypeError, IndexError, OverflowError, KeyError) as exc:
            raise DecodeError(f"its data does not fit its Avro schema: {exc!r}") from exc
        if b"null" in found and not _is_finite(value):
            raise DecodeError("its data holds a number that JSON has none for: NaN or infinity")
        return found


class _Names(NamedTuple):
    """The named types of a schema, and of those that it refers to."""

    schemas: dict[str, Any]
    converts: dict[str, Convert]


def make(schema: Schema) -> AvroCodec:
    """Make a schema ready; raises `UnusableSchemaError`."""
    try:
        return AvroCodec(*_parse(schema, _Names({}, {})))
    except (SchemaParseException, ValueError, KeyError, TypeError) as exc:
        raise UnusableSchemaError(f"{schema} is no Avro schema: {exc!r}") from exc


def _parse(schema: Schema, names: _Names) -> tuple[Any, Convert]:
    for other in schema.references.values():
        _parse(other, names)
    text = json.loads(schema.text, object_hook=_marked)
    parsed = fastavro.parse_schema(text, named_schemas=names.schemas)
    return parsed, _compile(parsed, names)


def _marked(part: dict[str, Any]) -> dict[str, Any]:
    if (part.get("type"), part.get("logicalType")) == ("fixed", "uuid"):
        part["logicalType"] = _BINARY_UUID
    return part


def _compile(schema: Any, names: _Names) -> Convert:
    if isinstance(schema, list):
        return _union(schema, names)
    if isinstance(schema, str):
        # A named type is known before its own fields are looked at, so it may be inside of itself.
        return _PLAIN[schema] if schema in _PLAIN else names.converts[schema]
    kind = schema["type"]
    logical = f"{kind}-{schema.get('logicalType')}"
    if logical in _TIMES:
        return _moment(schema, logical)
    if logical in _LOGICAL:
        convert = _LOGICAL[logical](schema)
        if "name" in schema:
            names.converts[schema["name"]] = convert
        return convert
    compound = _COMPOUND.get(kind)
    return _compile(kind, names) if compound is None else compound(schema, names)


def _record(schema: Any, names: _Names) -> Convert:
    fields: list[tuple[str, Convert, Any]] = []
    known = frozenset(field["name"] for field in schema["fields"])

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Misfit("is not an object")
        if not value.keys() <= known:
            extra = ", ".join(sorted(value.keys() - known))
            raise Misfit(f"its schema has no field {extra[:200]}")
        found = {}
        name = ""
        try:
            for name, inner, default in fields:
                if name in value:
                    found[name] = inner(value[name])
                elif default is not _NOTHING:
                    found[name] = default
                else:
                    raise Misfit("is missing")  # noqa: TRY301  # as what is inside of it
        except Misfit as misfit:
            misfit.path.append(name)
            raise
        return found

    names.converts[schema["name"]] = convert
    fields += [
        (field["name"], _compile(field["type"], names), _default_of(field, names))
        for field in schema["fields"]
    ]
    return convert


def _default_of(field: Any, names: _Names) -> Any:
    return _default(field["type"], field["default"], names) if "default" in field else _NOTHING


def _default(schema: Any, value: Any, names: _Names) -> Any:
    """Make what fastavro takes of a default, in which each byte is a character."""
    if isinstance(schema, list):
        # Most often the only one.
        branch = next((each for each in schema if each != "null"), None)
        return None if value is None else _told(branch, _default(branch, value, names))
    kind = schema if isinstance(schema, str) else schema["type"]
    if kind in names.schemas:
        return _default(names.schemas[kind], value, names)
    return _plain_default(schema, kind, value, names)


def _plain_default(schema: Any, kind: str, value: Any, names: _Names) -> Any:
    match kind:
        case "bytes" | "fixed":
            return value.encode("latin-1")
        case "array":
            return [_default(schema["items"], each, names) for each in value]
        case "map":
            return {name: _default(schema["values"], value[name], names) for name in value}
        case "record" | "error":
            fields = [
                {**field, "default": value[field["name"]]} if field["name"] in value else field
                for field in schema["fields"]
            ]
            return {field["name"]: _default_of(field, names) for field in fields}
        case _:
            return value


def _told(branch: Any, found: Any) -> Any:
    """Name the branch of a union that a value is of: it might fit another one, too.

    fastavro finds plain kinds and records by name wherever unions are nested; what is left has
    values that fit no other branch.
    """
    is_named = isinstance(branch, str) or branch["type"] in _RECORDS
    return (_name(branch), found) if is_named else found


def _union(branches: list[Any], names: _Names) -> Convert:
    has_null = "null" in branches
    # The last one, because it alone takes what it does not hold exactly.
    others = sorted((each for each in branches if each != "null"), key=lambda each: each == "float")
    converts = [(each, _compile(each, names)) for each in others]
    is_text = "string" in map(_plain_name, branches)
    kinds = " or ".join(_name(each) for each in branches)

    def convert(value: Any) -> Any:
        if value is None and has_null:
            return None
        problem: Misfit | None = None
        for branch, inner in converts:
            try:
                found = inner(value)
            except Misfit as misfit:
                problem = misfit
                continue
            # A text that only looks like another kind of value would come back as another text.
            if not is_text or not isinstance(value, str) or _text(found) == value:
                return _told(branch, found)
        # The one that there is says more than that it is none of several.
        raise problem if problem and len(converts) == 1 else Misfit(f"is not {kinds}")

    return convert


def _text(found: Any) -> Any:
    """Return the JSON that a value comes back as."""
    return orjson.loads(_dumps(found))


def _plain_name(branch: Any) -> str:
    """Return the kind of a branch, where it is not one of another meaning."""
    if isinstance(branch, dict) and branch.get("logicalType") != "uuid":
        return str(branch["type"])
    return _name(branch)


def _name(branch: Any) -> str:
    if isinstance(branch, str):
        return branch
    found: str = branch.get("name") or branch["type"]
    return found


def _array(schema: Any, names: _Names) -> Convert:
    inner = _compile(schema["items"], names)

    def convert(value: Any) -> Any:
        if not isinstance(value, list):
            raise Misfit("is not an array")
        found: list[Any] = []
        try:
            for each in value:
                found.append(inner(each))  # noqa: PERF401  # how far it came is where it failed
        except Misfit as misfit:
            misfit.path.append(len(found))
            raise
        return found

    return convert


def _map(schema: Any, names: _Names) -> Convert:
    inner = _compile(schema["values"], names)

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Misfit("is not an object")
        found, name = {}, ""
        try:
            for name, each in value.items():  # it is where it failed
                found[name] = inner(each)
        except Misfit as misfit:
            misfit.path.append(name)
            raise
        return found

    return convert


def _enum(schema: Any, names: _Names) -> Convert:
    symbols = frozenset(schema["symbols"])

    def convert(value: Any) -> Any:
        if not isinstance(value, str) or value not in symbols:
            raise Misfit(f"is not one of {', '.join(sorted(symbols))}")
        return value

    names.converts[schema["name"]] = convert
    return convert


def _fixed(schema: Any, names: _Names) -> Convert:
    size = schema["size"]

    def convert(value: Any) -> Any:
        found = read_base64(value)
        if len(found) != size:
            raise Misfit(f"is not base64 of {size} bytes")
        return found

    names.converts[schema["name"]] = convert
    return convert


def _moment(schema: Any, logical: str) -> Convert:
    name = schema["logicalType"]
    parse, number = _TIMES[logical], _PLAIN[schema["type"]]
    read, write = LOGICAL_READERS[logical], LOGICAL_WRITERS[logical]
    is_zoned, is_rounded = name.startswith("timestamp"), name.endswith("-millis")

    def convert(value: Any) -> Any:
        try:
            if not isinstance(value, str):
                found = read(number(value), schema, None)
                if write(found, schema) != value:
                    raise Misfit(f"is not a {name}")
                return found
            found = parse(value)
            if isinstance(found, datetime) and is_zoned == (found.tzinfo is None):
                raise Misfit(
                    f"is not a {name}, {'with its' if is_zoned else 'without a'} time zone"
                )
            if is_rounded:
                found = found.replace(microsecond=found.microsecond // 1000 * 1000)
            if read(write(found, schema), schema, None) != found:
                raise Misfit(f"is not a {name}")
        except (ValueError, OverflowError):
            raise Misfit(f"is not a {name}") from None
        return found

    return convert


def _decimal(schema: Any) -> Convert:
    precision, scale = schema["precision"], schema.get("scale", 0)
    step = Decimal(1).scaleb(-scale)
    why = f"is not a decimal of at most {precision} digits, {scale} of them behind the point"

    def convert(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise Misfit("is not a decimal")
        try:
            found = Decimal(str(value))
        except InvalidOperation:
            raise Misfit("is not a decimal") from None
        try:
            if found.is_finite():
                # A context of its own for each, because another thread may be at it.
                exact = Context(prec=precision, traps=[InvalidOperation, Inexact])
                return found.quantize(step, context=exact)
        except (InvalidOperation, Inexact):
            pass
        raise Misfit(why)

    return convert


def _uuid(_schema: Any) -> Convert:
    def convert(value: Any) -> Any:
        return str(_read_uuid(value))

    return convert


def _binary_uuid(schema: Any) -> Convert:
    if schema["size"] != _UUID_BYTES:
        raise ValueError("a uuid has 16 bytes")

    def convert(value: Any) -> Any:
        return _read_uuid(value).bytes

    return convert


def _read_uuid(value: Any) -> UUID:
    try:
        if isinstance(value, str) and str(found := UUID(value)) == value:
            return found
    except ValueError:
        pass
    raise Misfit("is not a UUID with hyphens and small letters")


def _null(value: Any) -> Any:
    if value is not None:
        raise Misfit("is not null")


def _boolean(value: Any) -> Any:
    if not isinstance(value, bool):
        raise Misfit("is not a boolean")
    return value


def _whole(kind: str) -> Convert:
    limit = 1 << _INTS[kind]

    def convert(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not -limit <= value < limit:
            raise Misfit(f"is not a number of kind {kind}")
        return value

    return convert


def _string(value: Any) -> Any:
    if not isinstance(value, str):
        raise Misfit("is not a string")
    return value


_PLAIN: Final[dict[str, Convert]] = {
    "null": _null,
    "boolean": _boolean,
    "int": _whole("int"),
    "long": _whole("long"),
    "float": real("float"),
    "double": real("double"),
    "string": _string,
    "bytes": read_base64,
}
_LOGICAL: Final[dict[str, Callable[[Any], Convert]]] = {
    "bytes-decimal": _decimal,
    "fixed-decimal": _decimal,
    "string-uuid": _uuid,
    f"fixed-{_BINARY_UUID}": _binary_uuid,
}
_COMPOUND: Final[dict[str, Callable[[Any, _Names], Convert]]] = {
    "record": _record,
    "error": _record,
    "array": _array,
    "map": _map,
    "enum": _enum,
    "fixed": _fixed,
}


def _dumps(value: Any) -> bytes:
    # Its own text of a time lacks the zeros in front of microseconds.
    return orjson.dumps(value, default=_json, option=orjson.OPT_PASSTHROUGH_DATETIME)


def _json(value: object) -> str:
    match value:
        case datetime():
            return value.isoformat().replace("+00:00", "Z")  # as pydantic writes it
        case date() | time():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode()
        case Decimal():
            return str(value)
        case _:
            raise TypeError(type(value).__name__)


def _is_finite(value: Any) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(map(_is_finite, value.values()))
        case list():
            return all(map(_is_finite, value))
        case _:
            return True
