"""Protobuf: JSON ⇄ binary, by the .proto text that the registry has, without generated classes.

The text is compiled by protoc, which the package grpcio-tools brings along. JSON is as Protobuf
maps it: bytes as base64, moments as RFC 3339; names of fields are those of the .proto. Where an
application's JSON would come back as another one, `proto_json` refuses or restores it.
"""

from __future__ import annotations

import base64
import binascii
import re
import tempfile
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.message import EncodeError
from grpc_tools import protoc

from outbox.errors import DecodeError
from outbox.formats.codec import Misfit, MisfitError, Schema, UnusableSchemaError
from outbox.formats.proto_json import Message
from outbox.formats.wire import read_indexes, write_indexes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.descriptor import Descriptor, FileDescriptor

_FILE: Final = "outbox.schema.proto"
_OWN: Final = "outbox.imports.proto"
_FIELD: Final = re.compile(r"parse (?:the )?(\S+) field|field named \"([^\"]+)\"")
"""Where a message of Protobuf's parser says which field is wrong; the rest may quote its value."""


class ProtobufCodec:
    """See `Codec`; it writes the first message of its schema, and reads all of them."""

    def __init__(self, file: FileDescriptor) -> None:
        self._file = file
        self._first = _message(file, [0])
        self._message = Message(self._first, {})
        self._known: dict[tuple[int, ...], tuple[Descriptor, Message]] = {
            (0,): (self._first, self._message)
        }
        self._head = write_indexes([0])

    def encode(self, data: bytes) -> bytes:
        """See `Codec.encode`."""
        message = message_factory.GetMessageClass(self._first)()
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            raise MisfitError(f"its data is no JSON: {exc.msg}") from exc
        try:
            self._message.check(value)
            json_format.ParseDict(value, message)
            return self._head + message.SerializeToString()
        except Misfit as misfit:
            raise misfit.error() from misfit
        except json_format.ParseError as exc:
            raise MisfitError(_told(exc)) from exc
        except EncodeError as exc:
            # It names fields that are required, which Protobuf knew once.
            raise MisfitError(f"data: {exc}") from exc

    def decode(self, payload: bytes) -> bytes:
        """See `Codec.decode`."""
        indexes, content = read_indexes(payload)
        known = self._known.get(tuple(indexes))
        if known is None:
            descriptor = _message(self._file, indexes)
            known = self._known[tuple(indexes)] = (descriptor, Message(descriptor, {}))
        descriptor, shape = known
        message = message_factory.GetMessageClass(descriptor)()
        try:
            message.ParseFromString(content)
            found = json_format.MessageToDict(
                message,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
        except (ProtobufDecodeError, json_format.Error, TypeError) as exc:
            raise DecodeError(f"its data does not fit its Protobuf schema: {exc}") from exc
        return orjson.dumps(shape.restored(found))


def make(schema: Schema) -> ProtobufCodec:
    """Make a schema ready; raises `UnusableSchemaError`."""
    pool = descriptor_pool.DescriptorPool()
    try:
        for file in _files(schema, _FILE):
            pool.Add(file)
        compiled = pool.FindFileByName(_FILE)
    except (KeyError, TypeError) as exc:
        raise UnusableSchemaError(f"{schema} is no Protobuf schema: {exc}") from exc
    if not compiled.message_types_by_name:
        raise UnusableSchemaError(f"{schema} has no message")
    return ProtobufCodec(compiled)


def _files(schema: Schema, name: str) -> list[FileDescriptorProto]:
    """Return the compiled files of a schema, each behind those that it imports."""
    ready = _ready(schema.text)
    if ready is None:
        return _compiled(schema, name)
    ready.name = name
    # What it imports and does not refer to are the files that Protobuf itself brings along.
    own = [name for name in ready.dependency if name not in schema.references]
    text = "".join(f'import "{name}";' for name in own)
    files = _compiled(replace(schema, text=f'syntax = "proto3"; {text}', references={}), _OWN)[:-1]
    for other_name, other in schema.references.items():
        files += _files(other, other_name)
    return [*files, ready]


def _ready(text: str) -> FileDescriptorProto | None:
    """Read a compiled file in base64, which some registries have as they were given it."""
    try:
        return FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, ProtobufDecodeError):
        return None


def _compiled(schema: Schema, name: str) -> list[FileDescriptorProto]:
    with (
        tempfile.TemporaryDirectory(prefix="outbox-proto-") as folder,
        as_file(files("grpc_tools") / "_proto") as known,
    ):
        _write(Path(folder), name, schema)
        made = Path(folder) / "made"
        options = [f"-I{folder}", f"-I{known}", "--include_imports", f"--descriptor_set_out={made}"]
        if protoc.main(["protoc", *options, name]) != 0:
            raise UnusableSchemaError(
                f"{schema} is no Protobuf schema that protoc takes; it says why in the error output"
            )
        return list(FileDescriptorSet.FromString(made.read_bytes()).file)


def _write(folder: Path, name: str, schema: Schema) -> None:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UnusableSchemaError(f"{schema} is imported by a name outside of its folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(schema.text)
    for other_name, other in schema.references.items():
        _write(folder, other_name, other)


def _message(file: FileDescriptor, indexes: Sequence[int]) -> Descriptor:
    """Return a message by the way to it; messages are counted in the order of the text."""
    first, *rest = indexes
    outline = FileDescriptorProto()
    file.CopyToProto(outline)
    try:
        here = outline.message_type[first]
        found: Descriptor = file.message_types_by_name[here.name]
        for index in rest:
            here = here.nested_type[index]
            found = found.nested_types_by_name[here.name]
    except IndexError:
        raise DecodeError(f"its schema has no message {list(indexes)}") from None
    return found


def _told(error: json_format.ParseError) -> str:
    found = _FIELD.search(str(error))
    if found is None:
        return "its data does not fit its Protobuf schema"
    if found[2]:
        return f"{found[2]}: its schema has no such field"
    return f"{found[1]}: does not fit its type"
