"""Changes under which stored data stays valid, and means something else.

A field that was renamed, though both names are optional; a default that was changed, so that an
event without the field says something else; another key, so that the order of events is another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from outbox.schema.finding import Finding, Mode, pointer
from outbox.schema.inclusion import EACH
from outbox.schema.shape import Arrays, Objects, Part, is_disjoint, same, shapes, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.schema.shape import Parts, Shape

KEY: Final = "x-key"
"""The keyword that names the property whose value is the partition key."""
BOTH: Final = (Mode.BACKWARD, Mode.FORWARD)
_SAID: Final = frozenset({"title", "description", "default", "examples", "deprecated", "$comment"})
"""Keywords that say something to people alone."""


def meanings(old: Any, new: Any) -> tuple[list[Finding], set[str]]:
    """Return the changes of meaning between two documents, and the fields of all renamings.

    A renaming says all that there is to say about both of its fields.
    """
    walk = _Walk(list(_key(old, new)))
    walk.parts((Part(old, old),), (Part(new, new),), ())
    return walk.found, walk.renamed


def _key(old: Any, new: Any) -> Iterator[Finding]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return
    was, now = old.get(KEY), new.get(KEY)
    if was != now:
        says = f"the key was {was or 'none'} and is {now or 'none'}: one key's events lose order"
        yield Finding("", "key changed", says, "leave the key as it is", BOTH)


class _Walk:
    """Goes through two schemas side by side."""

    def __init__(self, found: list[Finding]) -> None:
        self.found = found
        self.renamed: set[str] = set()
        self._seen: set[tuple[int, ...]] = set()

    def parts(self, old: Parts, new: Parts, path: tuple[str, ...]) -> None:
        place = tuple(id(part.schema) for part in (*old, *new))
        if place in self._seen or not (old and new):
            return
        self._seen.add(place)
        left, right = shapes(old), shapes(new)
        for one in left:
            pairs = [each for each in right if not is_disjoint(one, each)]
            if len(pairs) == 1:
                self._pair(one, pairs[0], path)

    def _pair(self, old: Shape, new: Shape, path: tuple[str, ...]) -> None:
        match old, new:
            case Objects(), Objects():
                self._renamed(old, new, path)
                for name in old.known:
                    if name in new.known:
                        self._default(old, new, name, path)
                        self.parts(old.about(name), new.about(name), (*path, name))
                self.parts(old.rest, new.rest, (*path, EACH))
            case Arrays(), Arrays():
                count = max(old.prefix_length, new.prefix_length)
                for index in range(count):
                    self.parts(old.item(index), new.item(index), (*path, str(index)))
                self.parts(old.item(count), new.item(count), (*path, EACH))

    def _default(self, old: Objects, new: Objects, name: str, path: tuple[str, ...]) -> None:
        was, now = _defaults(old.about(name)), _defaults(new.about(name))
        if not (was and now) or same(was[0], now[0]):
            return
        can_lack = [
            mode
            for mode, writer in ((Mode.BACKWARD, old), (Mode.FORWARD, new))
            if name not in writer.required
        ]
        if can_lack:
            says = f"meant {text(was[0])} where it is absent and means {text(now[0])}"
            field = pointer((*path, name))
            advice = "leave the default as it is"
            self.found.append(Finding(field, "default changed", says, advice, tuple(can_lack)))

    def _renamed(self, old: Objects, new: Objects, path: tuple[str, ...]) -> None:
        gone = {name: _bare(old.about(name)) for name in old.known if name not in new.known}
        come = {name: _bare(new.about(name)) for name in new.known if name not in old.known}
        for name, schema in gone.items():
            heirs = [other for other, own in come.items() if own == schema]
            if len(heirs) == 1 and list(gone.values()).count(schema) == 1:
                says = f"is gone, and {heirs[0]} is new and like it: renamed, as it seems"
                advice = "keep the name in JSON (an alias does that); if these are two fields,"
                advice += " remove the one in this release and add the other in the next"
                field = pointer((*path, name))
                self.renamed |= {field, pointer((*path, heirs[0]))}
                self.found.append(Finding(field, "renamed", says, advice, BOTH))


def _defaults(parts: Parts) -> list[Any]:
    return [
        part.schema["default"]
        for part in parts
        if isinstance(part.schema, dict) and "default" in part.schema
    ]


def _bare(parts: Parts) -> str:
    """Return what a property admits, without what is said to people."""
    return " and ".join(
        text({name: each for name, each in part.schema.items() if name not in _SAID})
        if isinstance(part.schema, dict)
        else text(part.schema)
        for part in parts
    )
