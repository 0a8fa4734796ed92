"""Where marked fields stand in the schema that pydantic makes of a class.

The schema is followed in the way that pydantic goes when it writes. What is found is encrypted in
every event; a marked field that would be written some other way is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outbox.personal import EACH, can_be_absent, named, stands_for_marker, subject_written

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from outbox.personal import Path

    Objects = list[tuple[Path, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Mark:
    """One marked field in a schema."""

    path: Path
    subject: str | None
    """The field that its marker names."""
    sibling: Path | None
    """Where that one is, in an object inside of the event that has both; None elsewhere."""

    def __str__(self) -> str:
        return named(self.path)


class MisplacedError(Exception):
    """A marked field stands where it would not be encrypted, or could not be listed."""


def marked(schema: Any) -> Sequence[Mark]:
    """Return each marked field in a core schema.

    Raises `MisplacedError` for a field that something else than its marker writes, for one in a
    key of a dict, for one of a class that contains itself, for one whose subject is neither in its
    object nor in the event, and for one that nothing could stand for once its value is gone.
    """
    return list(dict.fromkeys(_Walk().follow(schema, ())))


_AFTER: Final = (
    "a serializer that comes after its marker: write the marker last, as in"
    " Annotated[str, PlainSerializer(…), outbox.Personal]"
)
_SAME: Final = {"schema", "json_schema", "strict_schema"}
_EACH: Final = {"items_schema", "values_schema", "extras_schema"}
_OBJECTS: Final = {"dataclass-args", "model-fields", "typed-dict"}
_LISTED: Final = {"fields", "computed_fields", "choices", "steps"}
_UNWRITTEN: Final = {
    "definitions",
    "json_schema_input_schema",
    "lax_schema",
    "metadata",
    "python_schema",
    "serialization",
}
"""Parts of a schema that repeat others, for validation alone."""


class _Walk:
    """One walk through a schema."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}
        self._open: dict[str, Path] = {}
        """Where each class begins that the walk is inside of."""
        self._marked: dict[str, bool] = {}
        """Whether a marked field stands anywhere in a class."""
        self._objects: Objects = []
        """The objects that the walk is inside of: where each is, and its fields by name."""

    def follow(self, schema: Any, path: Path) -> Iterator[Mark]:
        """Yield the marked fields at and below a path."""
        serializer = schema.get("serialization")
        if stands_for_marker(schema):
            subject = subject_written(serializer)
            if subject is None:
                raise MisplacedError(f"the personal field {named(path)} and {_AFTER}")
            if not can_be_absent(schema):
                raise MisplacedError(
                    f"the personal field {named(path)}, which is neither a str nor admits None, and"
                    " one day its value may be gone: write for instance"
                    " Annotated[date | None, outbox.Personal]"
                )
            yield Mark(path, subject or None, self._sibling(subject, path))
        elif serializer is not None and not self._hands_on(serializer, schema):
            self._refuse(schema, path, "a serializer writes all of it by itself")
        elif schema["type"] == "definition-ref":
            yield from self._refer(schema["schema_ref"], path)
        else:
            for found in self._enter(schema, path):
                if serializer is not None and found.path == path:
                    raise MisplacedError(f"the personal field {found} and {_AFTER}")
                yield found

    def _sibling(self, subject: str, path: Path) -> Path | None:
        """Return where a subject is in the object of its field, if that is not the event itself."""
        inner = [(at, fields[subject]) for at, fields in self._objects[1:] if subject in fields]
        if not inner:
            return None
        at, field = inner[-1]
        if subject not in self._objects[-1][1]:
            raise MisplacedError(
                f"the personal field {named(path)}, whose subject {subject!r} is a field of the"
                f" object {named(at)}: only a field of that object itself can name it, and no"
                " computed one; other fields name one of the event that no object around them has"
            )
        if field["type"] == "typed-dict-field" and field.get("required") is False:
            raise MisplacedError(
                f"the personal field {named(path)}, whose subject {subject!r} may be absent from"
                " its object: require it"
            )
        return (*at, _json_name(subject, field))

    def _refer(self, name: str, path: Path) -> Iterator[Mark]:
        definition = self._definitions[name]
        if not self._is_marked(name):
            return  # a union that recurs has endless places in which nothing is to be found
        if name not in self._open:
            yield from self.follow(definition, path)
        elif path != self._open[name]:
            part = name.partition(":")[0].rpartition(".")[2]
            why = "which contains itself, so that its places cannot be listed"
            self._refuse(
                definition, path, f"it is inside {part}, {why}: mark the whole field that holds it"
            )

    def _enter(self, schema: Any, path: Path) -> Iterator[Mark]:
        self._definitions |= {each["ref"]: each for each in schema.get("definitions", ())}
        name, kind = schema.get("ref"), schema["type"]
        if name is not None:
            self._open[name] = path
        for key, part in schema.items():
            if key not in {*_SAME, *_EACH, *_LISTED, *_UNWRITTEN}:
                what = f"the {key.removesuffix('_schema')} of a {kind} stay in clear"
                self._refuse(part, path, what)
        outside = list(self._objects)
        own = [(path, _by_name(schema["fields"]))] if kind in _OBJECTS else []
        # What writes anything but a field of an object, a computed one, is not given the object.
        other: Objects = [*own, (path, {})] if own else []
        for key, value in schema.items():
            self._objects = [*outside, *(own if key == "fields" else other)]
            for step, inner in _inner(kind, key, value):
                yield from self.follow(inner, (*path, *step))
        self._objects = outside
        self._open.pop(name, None)

    def _hands_on(self, serializer: Any, schema: Any) -> bool:
        """Tell whether a serialiser has the parts written by their own."""
        if serializer["type"] == "any":  # which asks the class of the object
            meant = self._definitions.get(schema.get("schema_ref"), schema)
            return meant["type"] in {"model", "dataclass"}
        found: bool = serializer["type"] == "function-wrap"
        return found

    def _refuse(self, part: Any, path: Path, why: str) -> None:
        """Raise where a marked field stands anywhere in a part."""
        if self._holds_marker(part, set()):
            raise MisplacedError(f"a personal field at or below {named(path)}: {why}")

    def _is_marked(self, name: str) -> bool:
        if name not in self._marked:
            self._marked[name] = self._holds_marker(self._definitions[name], {name})
        return self._marked[name]

    def _holds_marker(self, part: Any, seen: set[str]) -> bool:
        if isinstance(part, list | tuple):
            return any(self._holds_marker(each, seen) for each in part)
        if not isinstance(part, dict):
            return False
        name = str(part.get("schema_ref"))
        if name in self._definitions and name not in seen:
            seen.add(name)
            if self._holds_marker(self._definitions[name], seen):
                return True
        return stands_for_marker(part) or any(
            self._holds_marker(each, seen) for each in part.values()
        )


def _inner(kind: str, key: str, value: Any) -> Iterator[tuple[Path, Any]]:
    """Yield the schemas in a part of one that write theirs, each with its step of the path."""
    if key in _SAME:
        yield (), value
    elif key in _EACH:
        yield from (((EACH,), each) for each in _listed(value))
    elif key == "steps":
        yield (), value[-1]
    elif key == "choices":
        for each in _listed(value):
            yield (), each[0] if isinstance(each, tuple) else each
    elif key in _LISTED and kind != "dataclass":  # which repeats names alone
        for name, part in _fields(kind, value):
            yield (name,), part


def _listed(value: Any) -> Any:
    if isinstance(value, list):
        return value
    is_schema = isinstance(value.get("type"), str)
    return [value] if is_schema else value.values()


def _fields(kind: str, fields: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields that are written, computed ones too, by their names in JSON."""
    for name, each in _by_name(fields).items():
        if not each.get("serialization_exclude"):
            part = each["return_schema" if "property_name" in each else "schema"]
            yield EACH if kind == "named-tuple" else _json_name(name, each), part


def _by_name(fields: Any) -> Mapping[str, Any]:
    if isinstance(fields, list):
        return {each.get("property_name") or each["name"]: each for each in fields}
    found: Mapping[str, Any] = fields
    return found


def _json_name(name: str, field: Any) -> str:
    return str(field.get("serialization_alias") or field.get("alias") or name)
