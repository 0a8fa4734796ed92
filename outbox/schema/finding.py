"""What a change breaks, and for whom: gaps between two schemas in the words of those who change."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from outbox.schema.inclusion import Kind
from outbox.schema.shape import escaped, text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from outbox.schema.inclusion import Gap


class Mode(StrEnum):
    """Whom a change must not break."""

    BACKWARD = "backward"
    """Readers of today, with events of before."""
    FORWARD = "forward"
    """Readers of before, with events of today."""
    FULL = "full"
    """Both."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One change that breaks somebody, or may."""

    field: str
    """Where in the event, as a JSON Pointer (RFC 6901) with `*` for each item; empty for all."""
    kind: str
    """In two words, for instance `newly required`; the guide lists them."""
    says: str
    advice: str
    """What to do short of a new version; empty where nothing is."""
    breaks: tuple[Mode, ...]
    """Backward, forward or both."""
    is_certain: bool = True
    """False where it could not be told whether an event exists that breaks."""
    old_pointer: str = ""
    """JSON Pointer into the old schema, as close as it gets."""
    new_pointer: str = ""


KEEP_LIMIT: Final = "leave the limit as it is"
BESIDE: Final = "leave it, and add a field with a default beside it"
IGNORE: Final = 'first let readers ignore fields that they do not know (no extra="forbid")'

_WORDS: Final[dict[tuple[Kind, Mode, str], tuple[str, str, str]]] = {
    (Kind.MISSING, Mode.BACKWARD, "absent"): (
        "newly required",
        "is new and has no default, and stored events lack it",
        "give it a default",
    ),
    (Kind.MISSING, Mode.BACKWARD, "optional"): (
        "newly required",
        "has no default any more, and stored events may lack it",
        "leave the default",
    ),
    (Kind.MISSING, Mode.FORWARD, "absent"): (
        "removed",
        "is gone, and readers of before need it",
        "keep it",
    ),
    (Kind.MISSING, Mode.FORWARD, "optional"): (
        "no longer required",
        "may be absent now, and readers of before need it",
        "leave it required",
    ),
    (Kind.EXTRA, Mode.BACKWARD, ""): (
        "not allowed",
        "is refused now, and stored events may have it",
        'let the class ignore fields that it does not know (no extra="forbid")',
    ),
    (Kind.EXTRA, Mode.FORWARD, ""): (
        "not allowed",
        "is new, and readers of before refuse it",
        IGNORE,
    ),
    (Kind.NAME, Mode.BACKWARD, ""): (
        "not allowed",
        "may not have every name that it had, and stored events may have those",
        "leave the keys of the dict as they are",
    ),
    (Kind.NAME, Mode.FORWARD, ""): (
        "not allowed",
        "may have names now that readers of before refuse",
        "leave the keys of the dict as they are",
    ),
    (Kind.VALUES, Mode.BACKWARD, "some"): (
        "values removed",
        "does not take {values} any more, and stored events may have that",
        "leave the values",
    ),
    (Kind.VALUES, Mode.FORWARD, "some"): (
        "values added",
        "may be {values} now, which readers of before do not know",
        BESIDE,
    ),
    (Kind.VALUES, Mode.BACKWARD, "any"): (
        "narrowed",
        "was any {was} and is {now} alone",
        "leave it as it is",
    ),
    (Kind.VALUES, Mode.FORWARD, "any"): (
        "widened",
        "was {was} alone and is any {now}",
        BESIDE,
    ),
}
_MEMBERS: Final = {
    Mode.BACKWARD: (
        "values removed",
        "does not take {was} any more, and stored events may have that",
        "leave it in the union",
    ),
    Mode.FORWARD: (
        "values added",
        "may be {now} now, which readers of before do not know",
        BESIDE,
    ),
}
_LIMITS: Final = {
    Mode.BACKWARD: ("narrowed", "was {was} and is {now}; stored events may be beyond", KEEP_LIMIT),
    Mode.FORWARD: ("widened", "was {was} and is {now}; readers of before refuse more", KEEP_LIMIT),
}
_EITHER: Final = {
    Kind.TYPE: ("type changed", "was {was} and is {now}", BESIDE),
    Kind.PATTERN: ("pattern changed", "was {was} and is {now}", "leave the pattern as it is"),
    Kind.FORMAT: ("format changed", "was {was} and is {now}", BESIDE),
    Kind.UNKNOWN: (
        "cannot tell",
        "changed at or beside a constraint that this check does not understand ({riddle})",
        "leave it as it is",
    ),
}


def finding(gap: Gap, mode: Mode) -> Finding:
    """Say what a gap means: of what the old schema writes and the new one reads, or vice versa."""
    kind, says, advice = _words(gap, mode)
    was, now = (gap.given, gap.wanted) if mode is Mode.BACKWARD else (gap.wanted, gap.given)
    pointers = gap.pointers if mode is Mode.BACKWARD else gap.pointers[::-1]
    values = ", ".join(map(text, gap.values))
    said = says.format(was=was, now=now, values=values, riddle=gap.wanted)
    return Finding(pointer(gap.path), kind, said, advice, (mode,), gap.is_certain, *pointers)


def _words(gap: Gap, mode: Mode) -> tuple[str, str, str]:
    match gap.kind:
        case Kind.MISSING:
            return _WORDS[gap.kind, mode, gap.given]
        case Kind.EXTRA | Kind.NAME:
            return _WORDS[gap.kind, mode, ""]
        case Kind.VALUES:
            return _WORDS[gap.kind, mode, "some" if gap.values else "any"]
        case Kind.MEMBER:
            return _MEMBERS[mode]
        case Kind.RANGE | Kind.LENGTH | Kind.UNIQUE:
            return _LIMITS[mode]
        case Kind.TYPE | Kind.PATTERN | Kind.FORMAT | Kind.UNKNOWN:
            return _EITHER[gap.kind]


def grouped(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with those in one that say the same of both directions."""
    found: dict[tuple[str, str, str], Finding] = {}
    for each in findings:
        key = (each.field, each.kind, each.says)
        known = found.get(key)
        if known is None:
            found[key] = each
        else:
            breaks = tuple(dict.fromkeys((*known.breaks, *each.breaks)))
            is_certain = known.is_certain or each.is_certain
            found[key] = Finding(
                *key, known.advice, breaks, is_certain, known.old_pointer, known.new_pointer
            )
    return list(found.values())


def pointer(path: Iterable[str]) -> str:
    """Return a path as a JSON Pointer, with `*` for each item."""
    return "".join(f"/{escaped(name)}" for name in path)
