"""The progress of a route, as a transactional broker records it together with the events.

It is the truth about a route whenever it is newer than the stored position, because it became
visible together with the last events, or not at all:

    position    everything up to here is published, or set aside here
    aside       events whose dead letters are still to be written to the database
    letters     dead letters that were published and are still to be marked so

Which of two is newer, the recorded progress or the stored position, is told by their marks.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import orjson

from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Mark:
    """Orders the positions of one route, wherever they are stored."""

    lineage: str
    """Changes whenever a position is set that does not follow from the one before: the route
    begins, is replayed or rebased. Marks of two lineages have no order."""
    term: int
    """The fencing token of the lease."""
    step: int
    """Counts the transactions of a term."""

    def is_newer_than(self, other: Mark) -> bool:
        """Tell whether it is of the same lineage, and came later."""
        return self.lineage == other.lineage and (self.term, self.step) > (other.term, other.step)

    def to_json(self) -> list[Any]:
        """Return what `read_mark` reads."""
        return [self.lineage, self.term, self.step]


def read_mark(stored: Any) -> Mark | None:
    """Read a mark; None where a position has none, because it was set by hand."""
    match stored:
        case [str(lineage), int(term), int(step)]:
            return Mark(lineage, term, step)
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Aside:
    """An event that gets a dead letter instead of being published."""

    seq: int
    status: Literal["dead", "parked"]
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a route stands after one transaction."""

    mark: Mark
    position: Mapping[str, Any]
    aside: tuple[Aside, ...] = ()
    letters: tuple[int, ...] = ()
    """Their ids."""

    def to_bytes(self) -> bytes:
        """Return what `read_progress` reads: JSON, in which thousands of asides stay small."""
        stored: dict[str, Any] = {"mark": self.mark.to_json(), "position": self.position}
        if self.aside:
            items = [(item.seq, item.status, item.reason) for item in self.aside]
            stored["aside"] = base64.b85encode(zlib.compress(orjson.dumps(items))).decode()
        if self.letters:
            stored["letters"] = self.letters
        return orjson.dumps(stored)


def read_progress(stored: bytes) -> Progress:
    """Read recorded progress; raises `ConfigurationError` for what is none."""
    try:
        found = orjson.loads(stored)
        mark = read_mark(found["mark"])
        if mark is None:
            raise ValueError("it has no mark")  # noqa: TRY301  # one message for all that is wrong
        aside = (
            orjson.loads(zlib.decompress(base64.b85decode(found["aside"])))
            if "aside" in found
            else []
        )
        return Progress(
            mark,
            dict(found["position"]),
            tuple(Aside(*item) for item in aside),
            tuple(found.get("letters", ())),
        )
    except (KeyError, TypeError, ValueError, zlib.error) as exc:
        raise ConfigurationError(
            f"the progress that the broker recorded cannot be read ({exc!r}); it was not"
            " written by this version of the relay: start the newest one"
        ) from exc
