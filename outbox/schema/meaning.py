"""Changes under which stored data stays valid, and means something else.

A field that was renamed, though both names are optional; a default that was changed, so that an
event without the field says something else; another key, so that the order of events is another;
a field that became personal data, or another person's, or nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from outbox.personal import KEYWORD as PERSONAL
from outbox.schema.finding import Finding, Mode, pointer
from outbox.schema.inclusion import EACH
from outbox.schema.shape import (
    SAID,
    Arrays,
    Digests,
    Objects,
    Part,
    alternatives,
    is_disjoint,
    same,
    shapes,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from outbox.schema.shape import Parts, Shape

KEY: Final = "x-key"
"""The keyword that names the property whose value is the partition key."""
BOTH: Final = (Mode.BACKWARD, Mode.FORWARD)


def meanings(old: Any, new: Any) -> tuple[list[Finding], set[str]]:
    """Return the changes of meaning between two documents, and the fields of all renamings.

    A renaming says all that there is to say about both of its fields.
    """
    changes = _Walk().parts((Part(old, old),), (Part(new, new),))
    renamed = {name for each in changes if each.heir for name in (each.finding.field, each.heir)}
    return [*_key(old, new), *(each.finding for each in changes)], renamed


def _key(old: Any, new: Any) -> Iterator[Finding]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return
    was, now = old.get(KEY), new.get(KEY)
    if was != now:
        says = f"had {_key_of(was)} and has {_key_of(now)}: events of one key lose their order"
        yield Finding("", "key changed", says, "leave the key as it is", BOTH)


def _key_of(name: object) -> str:
    return "no key" if name is None else f"the key {name}"


@dataclass(frozen=True, slots=True)
class _Change:
    """A change below some place, whose field is told from there."""

    finding: Finding
    heir: str = ""
    """The pointer of the field that it was renamed to."""

    def below(self, path: Iterable[str]) -> _Change:
        start = pointer(path)
        finding = replace(self.finding, field=start + self.finding.field)
        return _Change(finding, self.heir and start + self.heir)

    def doubted(self) -> _Change:
        return replace(self, finding=replace(self.finding, is_certain=False))


class _Walk:
    """Goes through two schemas side by side."""

    def __init__(self) -> None:
        self._digests = Digests()
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], list[_Change]] = {}

    def parts(self, old: Parts, new: Parts) -> list[_Change]:
        pair = (self._digests.of(old), self._digests.of(new))
        if pair[0] == pair[1] or not (old and new):
            return []
        if pair not in self._known:
            self._known[pair] = []  # where it recurs below itself there is nothing to add
            self._known[pair] = [*_personal(old, new), *self._shapes(old, new)]
        return self._known[pair]

    def _shapes(self, old: Parts, new: Parts) -> Iterator[_Change]:
        members, rivals = _containers(old), _containers(new)
        for shape in members:
            heirs = _heirs(shape, [each for each in rivals if not is_disjoint(shape, each)])
            if len(rivals) < len(members) and not any(_are_alike(shape, each) for each in heirs):
                continue  # it is gone
            found = [list(self._pair(shape, heir)) for heir in heirs]
            if len(found) == 1:
                yield from found[0]
            elif found:  # any of them may be what it has become
                yield from (each.doubted() for each in max(found, key=len))

    def _pair(self, old: Shape, new: Shape) -> Iterator[_Change]:
        match old, new:
            case Objects(), Objects():
                yield from _renamed(old, new)
                for name in old.known:
                    if name in new.known:
                        yield from _default(old, new, name)
                        yield from self._below(name, old.about(name), new.about(name))
                yield from self._below(EACH, old.rest, new.rest)
            case Arrays(), Arrays():
                count = max(old.prefix_length, new.prefix_length)
                for index in range(count):
                    yield from self._below(str(index), old.item(index), new.item(index))
                yield from self._below(EACH, old.item(count), new.item(count))

    def _below(self, name: str, old: Parts, new: Parts) -> Iterator[_Change]:
        for each in self.parts(old, new):
            yield each.below([name])


def _default(old: Objects, new: Objects, name: str) -> Iterator[_Change]:
    was, now = _defaults(old.about(name)), _defaults(new.about(name))
    if not (was and now) or same(was[0], now[0]):
        return
    can_lack = tuple(
        mode
        for mode, writer in ((Mode.BACKWARD, old), (Mode.FORWARD, new))
        if name not in writer.required
    )
    if can_lack:
        says = f"meant {text(was[0])} where it is absent and means {text(now[0])}"
        advice = "leave the default as it is"
        yield _Change(Finding(pointer([name]), "default changed", says, advice, can_lack))


def _renamed(old: Objects, new: Objects) -> Iterator[_Change]:
    gone = {name: _bare(old.about(name)) for name in old.known if name not in new.known}
    come = {name: _bare(new.about(name)) for name in new.known if name not in old.known}
    for name, schema in gone.items():
        heirs = [other for other, own in come.items() if own == schema]
        if len(heirs) == 1 and list(gone.values()).count(schema) == 1:
            says = f"is gone, and {heirs[0]} is new and like it: renamed, as it seems"
            advice = "keep the name in JSON (an alias does that); if these are two fields,"
            advice += " remove the one in this release and add the other in the next"
            finding = Finding(pointer([name]), "renamed", says, advice, BOTH)
            yield _Change(finding, pointer([heirs[0]]))


def _personal(old: Parts, new: Parts) -> Iterator[_Change]:
    was, now = _subjects(old), _subjects(new)
    if was != now:
        says = f"was {_said_of(was)} and is {_said_of(now)}: stored events stay as they were"
        advice = "leave the mark as it is, and mark a new field"
        yield _Change(Finding("", "personal changed", says, advice, BOTH))


def _subjects(parts: Parts) -> set[str]:
    """Return whose personal data a value of these parts may be."""
    found: set[str] = set()
    unread, seen = list(parts), set[int]()
    while unread:
        part = unread.pop()
        if isinstance(part.schema, dict) and id(part.schema) not in seen:
            seen.add(id(part.schema))
            if PERSONAL in part.schema:
                found.add(str(part.schema[PERSONAL]))
            unread += alternatives(part)
    return found


def _said_of(subjects: set[str]) -> str:
    return f"personal data of {' and '.join(sorted(subjects))}" if subjects else "in clear"


def _heirs(shape: Shape, rivals: Sequence[Shape]) -> list[Shape]:
    """Return what an alternative may have become: what is most like it by names of properties."""
    if len(rivals) <= 1 or not isinstance(shape, Objects):
        return list(rivals)
    own = set(shape.known)
    likeness = {
        index: (len(own & set(each.known)), -len(own ^ set(each.known)))
        for index, each in enumerate(rivals)
        if isinstance(each, Objects)
    }
    most = max(likeness.values())
    return [rivals[index] for index, each in likeness.items() if each == most]


def _are_alike(one: Shape, other: Shape) -> bool:
    """Tell whether two objects have a property in common; other shapes may always be alike."""
    if not (isinstance(one, Objects) and isinstance(other, Objects)):
        return True
    return not set(one.known).isdisjoint(other.known)


def _containers(parts: Parts) -> list[Shape]:
    return [each for each in shapes(parts) if isinstance(each, Objects | Arrays)]


def _defaults(parts: Parts) -> list[Any]:
    return [
        part.schema["default"]
        for part in parts
        if isinstance(part.schema, dict) and "default" in part.schema
    ]


def _bare(parts: Parts) -> str:
    """Return what a property admits, without what is said to people."""
    return " and ".join(
        text({name: each for name, each in part.schema.items() if name not in SAID})
        if isinstance(part.schema, dict)
        else text(part.schema)
        for part in parts
    )
