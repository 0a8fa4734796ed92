"""One schema, made ready: data from JSON and back, without any I/O."""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol

from outbox.errors import ConfigurationError, RecordRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from outbox.formats.settings import Format

FORMATS: Final[Mapping[str, Format]] = {
    "AVRO": "avro",
    "PROTOBUF": "protobuf",
    "JSON": "jsonschema",
}
"""What a registry calls the kinds of its schemas."""
_MODULES: Final = {
    "avro": "outbox.formats.avro",
    "protobuf": "outbox.formats.protobuf",
    "jsonschema": "outbox.formats.json_schema",
    "json": "outbox.formats.registry",
}


@dataclass(frozen=True, slots=True)
class Schema:
    """One schema as a registry has it."""

    id: int
    format: Format
    text: str
    references: Mapping[str, Schema] = field(default_factory=dict)
    """Schemas that it names, by what it calls them."""
    name: str = ""
    """For people, where its id is not what they know it by."""

    def __str__(self) -> str:
        return self.name or f"schema {self.id}"


class Codec(Protocol):
    """Data by one schema; may be used from several threads."""

    def encode(self, data: bytes) -> bytes:
        """Write JSON in the format, without its head.

        Raises `MisfitError`, and `UnusableSchemaError` where only an event shows that it is one.
        """
        ...

    def decode(self, payload: bytes) -> bytes:
        """Read data without its head as JSON; raises `DecodeError`."""
        ...


class UnusableSchemaError(ConfigurationError):
    """A text that is no schema, or one that this library cannot read or write by."""


class MisfitError(RecordRefusedError):
    """The event does not fit its schema: names the place and the rule, and no value."""


class Misfit(Exception):  # noqa: N818  # it is no error yet: a union may have another branch
    """A value that its schema does not take; the way to it is added on the way out."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.path: list[str | int] = []

    def error(self) -> MisfitError:
        """Return what an operator is told: the place, from the outermost field, and the rule."""
        where = ".".join(map(str, reversed(self.path))) or "data"
        return MisfitError(f"{where}: {self.why}")


def read_base64(value: object) -> bytes:
    """Return the bytes that a text stands for; raises `Misfit`.

    Both alphabets of RFC 4648 are taken, because pydantic writes the one for URLs. A text that
    other bytes could be made of, without its padding for instance, is not.
    """
    if isinstance(value, str):
        text = value.translate(_STANDARD)
        try:
            found = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            pass
        else:
            if base64.b64encode(found).decode() == text:
                return found
    raise Misfit("is not base64")


def real(kind: str) -> Callable[[Any], float]:
    """Return what reads a number as one of the kind `float`, of 32 bits, or `double`, of 64.

    It raises `Misfit` for one that would become infinite, and for a whole number that would become
    another one.
    """
    form = struct.Struct("<f" if kind == "float" else "<d")

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Misfit("is not a number")
        try:
            (held,) = form.unpack(form.pack(value))
        except OverflowError:
            raise Misfit(f"is not a number of kind {kind}") from None
        if isinstance(value, int) and held != value:
            raise Misfit(f"is not a number that {kind} holds exactly")
        return float(value)

    return read


_STANDARD: Final = str.maketrans("-_", "+/")


def make(schema: Schema, where: str) -> Codec:
    """Make a schema ready; raises `UnusableSchemaError`, and `ConfigurationError` as `require`."""
    module = require(schema.format, where)
    codec: Codec = module.make(schema)  # type: ignore[attr-defined]  # each has it
    return codec


def require(name: Format, where: str) -> object:
    """Return the module of a format; raises `ConfigurationError` that names the missing extra."""
    try:
        return import_module(_MODULES[name])
    except ImportError as exc:
        extra = "avro" if name == "json" else name
        raise ConfigurationError(
            f"{where}: the package {exc.name} is not installed: pip install 'outbox-relay[{extra}]'"
        ) from exc
