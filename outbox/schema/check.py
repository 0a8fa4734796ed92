"""Compares the schemas of a catalogue with those that were written down, type by type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from outbox.errors import ConfigurationError
from outbox.schema.compatibility import compare
from outbox.schema.document import document
from outbox.schema.finding import Finding, Mode
from outbox.schema.shape import text
from outbox.upcasters import upcasters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from outbox.event import EventType
    from outbox.schema.stored import StoredSchema

State = Literal["unchanged", "compatible", "new", "gone", "breaking"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one version of a type."""

    name: str
    version: int
    state: State
    findings: Sequence[Finding] = ()
    note: str = ""
    """What to mind although nothing breaks."""

    def __str__(self) -> str:
        """Name it as people do."""
        return f"{self.name} v{self.version}"


def check(
    event_types: Iterable[EventType], stored: Iterable[StoredSchema], mode: Mode
) -> list[Verdict]:
    """Return a verdict on each version of each type that is declared or was written down.

    Raises `ConfigurationError` where a file holds no JSON Schema.
    """
    declared = {(each.name, each.version): each for each in event_types}
    known = {(each.name, each.version): each for each in stored}
    return [
        _verdict(name, version, declared, known, mode)
        for name, version in sorted(declared.keys() | known.keys())
    ]


def _verdict(
    name: str,
    version: int,
    declared: dict[tuple[str, int], EventType],
    known: dict[tuple[str, int], StoredSchema],
    mode: Mode,
) -> Verdict:
    event_type = declared.get((name, version))
    stored = known.get((name, version))
    if stored is None:
        return _new(name, version, known)
    if event_type is None:
        return _gone(name, version, declared, mode)
    schema = document(event_type)
    if text(schema) == text(stored.schema):
        return Verdict(name, version, "unchanged")
    try:
        findings = compare(stored.schema, schema, mode)
    except ValueError as exc:
        raise ConfigurationError(f"{stored.place}: {exc}") from exc
    return Verdict(name, version, "breaking" if findings else "compatible", findings)


def _new(name: str, version: int, known: Iterable[tuple[str, int]]) -> Verdict:
    """Tell of a version that is new, whatever the mode: one that is written for can always come."""
    before = sorted(number for other, number in known if other == name)
    if not before:
        return Verdict(name, version, "new")
    those = " and ".join(f"v{number}" for number in before)
    note = f"deploy its readers before its writers: those that know {those} set it aside"
    return Verdict(name, version, "new", note=note)


def _gone(
    name: str, version: int, declared: dict[tuple[str, int], EventType], mode: Mode
) -> Verdict:
    """Judge a version without a class: fine where upcasters lift it to one that has a class."""
    later = [other for known, other in declared if known == name and other > version]
    if mode is Mode.FORWARD or any(upcasters.chain(name, version, each) for each in later):
        return Verdict(name, version, "gone")
    advice = "keep the class"
    if later:
        cls = declared[name, max(later)].cls.__name__
        advice += f", or write @outbox.upcast({cls}, from_version={version})"
    says = "has no class any more and no upcaster lifts it: stored events of it cannot be read"
    return Verdict(name, version, "breaking", [Finding("", "gone", says, advice, (Mode.BACKWARD,))])
