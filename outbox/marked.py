"""Where marked fields stand in the schema that pydantic makes of a class.

The schema is followed in the way that pydantic goes when it writes. What is found is encrypted in
every event; a marked field that would be written some other way is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from outbox.personal import EACH, named, stands_for_marker, subject_written

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from outbox.personal import Path

    Found = Iterator[tuple[Path, str | None]]


class MisplacedError(Exception):
    """A marked field stands where it would not be encrypted, or could not be listed."""


def marked(schema: Any) -> Mapping[Path, str | None]:
    """Return the path of each marked field in a core schema, and the subject that it names.

    Raises `MisplacedError` for a field that something else than its marker writes, for one in a
    key of a dict, and for one of a class that contains itself.
    """
    found: dict[Path, str | None] = {}
    for path, subject in _Walk().follow(schema, ()):
        found.setdefault(path, subject)
    return found


_AFTER: Final = (
    "a serializer that comes after its marker: write the marker last, as in"
    " Annotated[str, PlainSerializer(…), outbox.Personal]"
)
_SAME: Final = {"schema", "json_schema", "strict_schema"}
_EACH: Final = {"items_schema", "values_schema", "extras_schema"}
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

    def follow(self, schema: Any, path: Path) -> Found:
        """Yield the marked fields at and below a path."""
        serializer = schema.get("serialization")
        if stands_for_marker(schema):
            subject = subject_written(serializer)
            if subject is None:
                raise MisplacedError(f"the personal field {named(path)} and {_AFTER}")
            yield path, subject or None
        elif serializer is not None and not self._hands_on(serializer, schema):
            self._refuse(schema, path, "a serializer writes all of it by itself")
        elif schema["type"] == "definition-ref":
            yield from self._refer(schema["schema_ref"], path)
        else:
            for found, subject in self._enter(schema, path):
                if serializer is not None and found == path:
                    raise MisplacedError(f"the personal field {named(path)} and {_AFTER}")
                yield found, subject

    def _refer(self, name: str, path: Path) -> Found:
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

    def _enter(self, schema: Any, path: Path) -> Found:
        self._definitions |= {each["ref"]: each for each in schema.get("definitions", ())}
        name, kind = schema.get("ref"), schema["type"]
        if name is not None:
            self._open[name] = path
        for key, part in schema.items():
            if key not in {*_SAME, *_EACH, *_LISTED, *_UNWRITTEN}:
                what = f"the {key.removesuffix('_schema')} of a {kind} stay in clear"
                self._refuse(part, path, what)
        for step, inner in _inner(schema):
            yield from self.follow(inner, (*path, *step))
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


def _inner(schema: Any) -> Iterator[tuple[Path, Any]]:
    """Yield the parts of a schema that write theirs, each with its step of the path."""
    for key, value in schema.items():
        if key in _SAME:
            yield (), value
        elif key in _EACH:
            yield from (((EACH,), each) for each in _listed(value))
        elif key == "steps":
            yield (), value[-1]
        elif key == "choices":
            for each in _listed(value):
                yield (), each[0] if isinstance(each, tuple) else each
        elif key in _LISTED and schema["type"] != "dataclass":  # which repeats names alone
            for name, part in _fields(schema["type"], value):
                yield (name,), part


def _listed(value: Any) -> Any:
    if isinstance(value, list):
        return value
    is_schema = isinstance(value.get("type"), str)
    return [value] if is_schema else value.values()


def _fields(kind: str, fields: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields that are written, computed ones too, by their names in JSON."""
    if isinstance(fields, list):
        fields = {each.get("property_name") or each["name"]: each for each in fields}
    for name, each in fields.items():
        if not each.get("serialization_exclude"):
            alias = each.get("serialization_alias") or each.get("alias") or name
            part = each["return_schema" if "property_name" in each else "schema"]
            yield EACH if kind == "named-tuple" else alias, part
