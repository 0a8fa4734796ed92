"""JSON of a Protobuf message as an application emits it, where Protobuf's own would change it.

Protobuf's parser takes more than it gives back: a number as text, a name in another spelling, null
for a field that cannot say so, text that is no base64. `Message.check` refuses them, and
`Message.restored` makes the numbers and nulls again that Protobuf's JSON does without. Source: the
guides of Protobuf, "ProtoJSON Format" and "Field Presence".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto

from outbox.formats.codec import Misfit, read_base64, real

Check = Callable[[Any], object]
"""Raises `Misfit` for JSON that would not come back as it is."""
Restore = Callable[[Any], Any]
"""Makes the JSON of an application of Protobuf's."""

_OWN: Final = "google.protobuf."
_WHOLE: Final = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
_LONG: Final = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})
_REAL: Final = {FieldDescriptor.CPPTYPE_FLOAT: "float", FieldDescriptor.CPPTYPE_DOUBLE: "double"}
_NO_NUMBERS: Final = frozenset({"NaN", "Infinity", "-Infinity"})
"""What pydantic can write, and Protobuf does."""


class Field(NamedTuple):
    """What one field of a message takes and gives."""

    takes_null: bool
    check: Check
    restore: Restore | None
    """None where Protobuf gives what the application emitted."""


class Message:
    """What the JSON of one message has to be; `known` has those that are made already."""

    def __init__(self, descriptor: Descriptor, known: dict[str, Message]) -> None:
        # It may be inside of itself.
        known[descriptor.full_name] = self
        outline = DescriptorProto()
        descriptor.CopyToProto(outline)
        self._fields: dict[str, Field] = {}
        self._nullable: list[str] = []
        for field, told in zip(descriptor.fields, outline.field, strict=True):
            self._fields[field.name] = _field(field, told, known)
            if field.has_presence and (field.containing_oneof is None or told.proto3_optional):
                self._nullable.append(field.name)

    def check(self, value: Any) -> None:
        """Raise `Misfit` for JSON that would not come back as it is."""
        if not isinstance(value, dict):
            raise Misfit("is not an object")
        for name, each in value.items():
            try:
                self._check(self._fields.get(name), each)
            except Misfit as misfit:
                misfit.path.append(name)
                raise

    def restored(self, found: Any) -> Any:
        """Return the JSON of an application; what is optional and left out is null."""
        made = dict.fromkeys(self._nullable)
        for name, value in found.items():
            restore = self._fields[name].restore if name in self._fields else None
            made[name] = value if restore is None else restore(value)
        return made

    def _check(self, field: Field | None, value: Any) -> None:
        if field is None:
            raise Misfit("its schema has no such field")
        if value is not None:
            field.check(value)
        elif not field.takes_null:
            raise Misfit("is null, and its schema does not call it optional")


def _field(field: FieldDescriptor, told: FieldDescriptorProto, known: dict[str, Message]) -> Field:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        check, restore = _one(message.fields_by_name["value"], known)
        return Field(False, _each_value(check), restore and _restore_values(restore))
    check, restore = _one(field, known)
    if told.label == FieldDescriptorProto.LABEL_REPEATED:
        return Field(False, _each(check), restore and _restore_each(restore))
    enum = field.enum_type
    is_null = enum is not None and enum.full_name == f"{_OWN}NullValue"
    return Field(field.has_presence or is_null, check, restore)


def _one(field: FieldDescriptor, known: dict[str, Message]) -> tuple[Check, Restore | None]:
    message = field.message_type
    if message is None:
        return _scalar(field), _number if field.cpp_type in _LONG else None
    if message.full_name.startswith(_OWN):
        return _known(message, known)
    found = known.get(message.full_name) or Message(message, known)
    return found.check, found.restored


def _known(message: Descriptor, known: dict[str, Message]) -> tuple[Check, Restore | None]:
    """Return what the messages that Protobuf brings along have: JSON of their own each."""
    if message.name.endswith("Value") and list(message.fields_by_name) == ["value"]:
        return _one(message.fields_by_name["value"], known)
    if message.name in {"Struct", "Value", "ListValue"}:
        return _anything, None
    return _pass, None


def _scalar(field: FieldDescriptor) -> Check:
    if field.type == field.TYPE_BYTES:
        return read_base64
    if field.cpp_type in _WHOLE:
        return _whole
    if field.cpp_type in _REAL:
        return _real(_REAL[field.cpp_type])
    if field.enum_type is not None:
        return _names(field.enum_type)
    return _pass


def _names(enum: EnumDescriptor) -> Check:
    names = frozenset(enum.values_by_name)

    def check(value: Any) -> None:
        # A number would come back as its name.
        if not isinstance(value, str) or value not in names:
            raise Misfit(f"is not one of {', '.join(sorted(names))}")

    return check


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) else value


def _whole(value: Any) -> None:
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole:
        raise Misfit("is not a whole number")


def _real(kind: str) -> Check:
    check = real(kind)
    return lambda value: None if isinstance(value, str) and value in _NO_NUMBERS else check(value)


def _anything(value: Any) -> None:
    """Take any JSON; its numbers are real ones of 64 bits."""
    match value:
        case dict():
            _each_value(_anything)(value)
        case list():
            _each(_anything)(value)
        case int() if not isinstance(value, bool):
            real("double")(value)


def _pass(_value: Any) -> None:
    """Protobuf's own parser refuses what does not fit."""


def _each(check: Check) -> Check:
    def check_all(value: Any) -> None:
        if not isinstance(value, list):
            raise Misfit("is not an array")
        _check_items(enumerate(value), check)

    return check_all


def _each_value(check: Check) -> Check:
    def check_all(value: Any) -> None:
        if not isinstance(value, dict):
            raise Misfit("is not an object")
        _check_items(value.items(), check)

    return check_all


def _check_items(items: Iterable[tuple[str | int, Any]], check: Check) -> None:
    for place, each in items:
        try:
            check(each)
        except Misfit as misfit:
            misfit.path.append(place)
            raise


def _restore_each(restore: Restore) -> Restore:
    return lambda found: [restore(each) for each in found]


def _restore_values(restore: Restore) -> Restore:
    return lambda found: {name: restore(each) for name, each in found.items()}
