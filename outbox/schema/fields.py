"""The fields of a schema, one a row, as people read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from outbox.personal import KEYWORD as PERSONAL
from outbox.schema.inclusion import EACH, names
from outbox.schema.shape import Arrays, Objects, Part, Strings, shapes, text
from outbox.sealing import SEALED_PATTERN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.schema.shape import Parts, Shape


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event, nested ones included."""

    name: str
    """Its path, for instance `lines.*.sku`."""
    type: str
    is_required: bool
    default: str | None
    """As JSON; None where there is none, or it is made anew each time."""
    is_personal: bool
    description: str | None


def fields(document: Any) -> list[Field]:
    """Return the fields of a document, those of objects and items below their own."""
    return list(_fields((Part(document, document),), (), frozenset()))


def _fields(parts: Parts, path: tuple[str, ...], open_: frozenset[Any]) -> Iterator[Field]:
    place = tuple(id(part.schema) for part in parts)
    if place in open_:  # what recurs without a class, such as a list of lists
        return
    open_ |= {place}
    for shape in shapes(parts):
        if isinstance(shape, Objects):
            own = tuple(id(shape.about(name)[0].schema) for name in shape.known)
            if own and own in open_:  # it contains itself, and is above already
                continue
            yield from _properties(shape, path, open_ | {own})
        elif isinstance(shape, Arrays):
            for index in range(shape.prefix_length):
                yield from _fields(shape.item(index), (*path, str(index)), open_)
            if shape.item(shape.prefix_length):
                yield from _fields(shape.item(shape.prefix_length), (*path, EACH), open_)


def _properties(shape: Objects, path: tuple[str, ...], open_: frozenset[Any]) -> Iterator[Field]:
    for name in shape.known:
        own = shape.about(name)
        yield _field((*path, name), own, is_required=name in shape.required)
        yield from _fields(own, (*path, name), open_)
    if any(not isinstance(part.schema, bool) for part in shape.rest):
        yield from _fields(shape.rest, (*path, EACH), open_)


def _field(path: tuple[str, ...], parts: Parts, *, is_required: bool) -> Field:
    said: dict[str, Any] = {}
    for part in parts:
        if isinstance(part.schema, dict):
            said |= part.schema
    default = text(said["default"]) if "default" in said else None
    marked = PERSONAL in said or any(_is_marked(part.schema) for part in parts)
    return Field(
        ".".join(path), _type(parts), is_required, default, marked, said.get("description")
    )


def _is_marked(schema: Any) -> bool:
    """Tell whether an alternative of a field is marked, as in `Annotated[str, Personal] | None`."""
    if not isinstance(schema, dict):
        return False
    alternatives = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return any(isinstance(each, dict) and PERSONAL in each for each in alternatives)


def _type(parts: Parts) -> str:
    """Name the types of a field, those of its items with it."""
    clear = [shape for shape in shapes(parts) if not _is_token(shape)]
    found = names(clear)
    for shape in clear:
        if isinstance(shape, Arrays) and shape.item(shape.prefix_length):
            items = names(shapes(shape.item(shape.prefix_length)))
            found = found.replace("array", f"array of {items}", 1)
    return found


def _is_token(shape: Shape) -> bool:
    """Tell whether it is what stands in the place of a personal value."""
    return isinstance(shape, Strings) and SEALED_PATTERN in shape.patterns
