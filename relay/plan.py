"""What to do with the events of a page, decided without I/O.

    rows ─▶ wanted? ─▶ key blocked? ─▶ publish ─▶ outcome ─┬▶ published
              │ no         │ yes          ▲                ├▶ again, in order: Retry
              ▼            ▼              └────────────────┘
            settled      parked                            └▶ dead, and its key is blocked

A page is worked off in rounds: each publishes what is left of it, in order. Everything before the
first event that is left, or that a letter is still to be written for, is settled. Where a round is
too much for the broker, the page is split, and its parts are worked off one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, assert_never

from outbox.errors import (
    DestinationRefusedError,
    HeldBackError,
    PermanentError,
    TransientError,
)
from outbox.rows import Rows
from outbox.transport import PUBLISHED, Dead, Published, Retry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from outbox.dead_letter import Letter
    from outbox.envelope import Envelope
    from outbox.transport import Outcome

OnDead = Literal["park_key", "skip", "stop"]


@dataclass(frozen=True, slots=True)
class SetAside:
    """An event that gets a letter instead of being published."""

    index: int
    envelope: Envelope
    status: Literal["dead", "parked"]
    reason: str


@dataclass(frozen=True, slots=True)
class Work:
    """How far the events of one page are; each round makes a new one."""

    total: int
    """Events of the page, those included that the route does not carry."""
    indexes: Sequence[int]
    """Where in the page the events stand that are still to be published."""
    events: Rows
    """These events, in order."""
    set_aside: tuple[SetAside, ...] = ()
    """Events to write letters for, by index."""
    blocked: frozenset[bytes] = frozenset()
    """Keys that this page blocked."""
    published_count: int = 0
    error: TransientError | PermanentError | None = None
    """Why to wait before the next round; None where it may follow at once."""

    @property
    def is_done(self) -> bool:
        """Nothing is left to be published."""
        return not self.events

    @property
    def settled_count(self) -> int:
        """How many events at the start of the page need nothing more."""
        first = self.total if self.is_done else self.indexes[0]
        return min(first, self.set_aside[0].index) if self.set_aside else first


def begin(events: Rows, chosen: Sequence[int], blocked: AbstractSet[bytes]) -> Work:
    """Start with a page: park the events of blocked keys."""
    return park(Work(len(events), chosen, events.pick(chosen)), blocked)


def park(work: Work, blocked: AbstractSet[bytes]) -> Work:
    """Set the events of blocked keys aside."""
    events = work.events
    if not blocked or not events.any_key_in(blocked):
        return work
    keys = events.keys()
    kept = [place for place, key in enumerate(keys) if key not in blocked]
    parked = [
        _parked(work.indexes[place], events[place])
        for place, key in enumerate(keys)
        if key in blocked
    ]
    return replace(
        work,
        indexes=[work.indexes[place] for place in kept],
        events=events.pick(kept),
        set_aside=_by_index(*work.set_aside, *parked),
    )


def split(work: Work, count: int) -> tuple[Work, Work]:
    """Cut what is left in two, before its event at `count`.

    Once the first part is done, the keys that it blocked have to be parked in the second one.
    """
    cut = work.indexes[count]
    before = tuple(item for item in work.set_aside if item.index < cut)
    behind = tuple(item for item in work.set_aside if item.index >= cut)
    first = replace(
        work,
        total=cut,
        indexes=work.indexes[:count],
        events=work.events[:count],
        set_aside=before,
        blocked=work.blocked & _keys(before),
    )
    rest = replace(
        work,
        indexes=work.indexes[count:],
        events=work.events[count:],
        set_aside=behind,
        blocked=work.blocked & _keys(behind),
        published_count=0,
    )
    return first, rest


def after(work: Work, outcomes: Sequence[Outcome], on_dead: OnDead) -> Work:
    """Return what is left once the events of a round have their outcomes."""
    if len(outcomes) != len(work.events):
        msg = f"the publisher returned {len(outcomes)} outcomes for {len(work.events)} events"
        raise ValueError(msg)
    if outcomes.count(PUBLISHED) == len(outcomes):
        return replace(
            work,
            indexes=(),
            events=Rows(),
            published_count=work.published_count + len(outcomes),
            error=None,
        )
    return _sort_out(work, outcomes, on_dead)


def _sort_out(work: Work, outcomes: Sequence[Outcome], on_dead: OnDead) -> Work:
    again: list[int] = []
    aside: list[SetAside] = []
    errors: list[TransientError | PermanentError] = []
    dead_keys: set[bytes] = set()
    events = work.events
    for place, (key, outcome) in enumerate(zip(events.keys(), outcomes, strict=True)):
        follows_dead = key in dead_keys
        match outcome:
            case Published():
                pass
            case Retry() if follows_dead and on_dead == "park_key":
                aside.append(_parked(work.indexes[place], events[place]))
            case Retry(error):
                again.append(place)
                if not follows_dead:
                    errors.append(error)
            case Dead(error) if on_dead == "stop":
                again.append(place)
                errors.append(error)
            case Dead(error):
                aside.append(SetAside(work.indexes[place], events[place], "dead", str(error)))
                if key is not None:
                    dead_keys.add(key)
            case _:
                assert_never(outcome)
    settled = len(outcomes) - len(again) - len(aside)
    return Work(
        total=work.total,
        indexes=[work.indexes[place] for place in again],
        events=events.pick(again),
        set_aside=_by_index(*work.set_aside, *aside),
        blocked=work.blocked | dead_keys if on_dead == "park_key" else work.blocked,
        published_count=work.published_count + settled,
        error=_cause(errors, has_progressed=settled > 0 or bool(aside)),
    )


def _cause(
    errors: Sequence[TransientError | PermanentError], *, has_progressed: bool
) -> TransientError | PermanentError | None:
    """Return what there is to wait for: nothing where events only waited for one set aside."""
    causes = [error for error in errors if not isinstance(error, HeldBackError)]
    return _gravest(causes if causes or has_progressed else errors)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of letters that were published again."""

    resolved: tuple[int, ...]
    """Ids of those that are published now."""
    failed: tuple[tuple[int, str], ...]
    """Ids and reasons of those that failed for good once more."""
    error: TransientError | PermanentError | None
    """Why the others have to be tried later; None where they only wait for those that failed."""

    @property
    def has_progressed(self) -> bool:
        """Some of them are done with, so that others may be tried at once."""
        return bool(self.resolved or self.failed)


def replayed(letters: Sequence[Letter], outcomes: Sequence[Outcome]) -> Replayed:
    """Sort out letters by the outcomes of their events."""
    resolved: list[int] = []
    failed: list[tuple[int, str]] = []
    errors: list[TransientError | PermanentError] = []
    dead_keys: set[str | None] = set()
    for letter, outcome in zip(letters, outcomes, strict=True):
        match outcome:
            case Published():
                resolved.append(letter.id)
            case Retry(error):
                if letter.partition_key is None or letter.partition_key not in dead_keys:
                    errors.append(error)
            case Dead(error):
                failed.append((letter.id, str(error)))
                dead_keys.add(letter.partition_key)
            case _:
                assert_never(outcome)
    cause = _cause(errors, has_progressed=bool(resolved or failed))
    return Replayed(tuple(resolved), tuple(failed), cause)


def _gravest(
    errors: Sequence[TransientError | PermanentError],
) -> TransientError | PermanentError | None:
    """Choose the error to tell: one that an operator has to act on goes before an outage."""
    for kind in (PermanentError, DestinationRefusedError):
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[0] if errors else None


def _by_index(*items: SetAside) -> tuple[SetAside, ...]:
    return tuple(sorted(items, key=lambda item: item.index))


def _keys(items: Sequence[SetAside]) -> set[bytes]:
    keys = {item.envelope.partition_key for item in items}
    return {key.encode() for key in keys if key is not None}


def _parked(index: int, envelope: Envelope) -> SetAside:
    reason = "parked: an earlier event of its key is a dead letter"
    return SetAside(index, envelope, "parked", reason)
