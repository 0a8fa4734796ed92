"""One schema, made ready: data from JSON and back, without any I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol

from outbox.errors import ConfigurationError, RecordRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        """Write JSON in the format, without its head; raises `MisfitError`."""
        ...

    def decode(self, payload: bytes) -> bytes:
        """Read data without its head as JSON; raises `DecodeError`."""
        ...


class MisfitError(RecordRefusedError):
    """The event does not fit its schema: names the place and the rule, and no value."""


def make(schema: Schema, where: str) -> Codec:
    """Make a schema ready; raises `ConfigurationError` where it is none, or lacks its extra."""
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
