"""What happened to one key, from the database alone: its events, their causes and effects.

    log of events, audit trail ─▶ Event ─┬─ routes ─▶ Passage: where it went, and by when
                                         ├─ inbox ──▶ Handling: who processed it, and when
                                         └─ letters: who gave it up, how often, and what then

Nothing here is written for it: positions, inbox and letters are there anyway. So it tells what
they tell, and no more: a position says that an event has been delivered by the time at which it
was stored, and not the moment.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from outbox import clock
from outbox.chunks import rows_with
from outbox.letter import from_row
from outbox.table import outbox_dead_letter, outbox_inbox
from relay.database import transaction
from relay.timeline_events import Event, Log
from relay.timeline_routes import Passage, passages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from outbox.letter import Letter
    from outbox.settings import Settings

    Name = tuple[str, str]

__all__ = ["Event", "Handling", "Passage", "Story", "Timeline", "timeline"]


@dataclass(frozen=True, slots=True)
class Handling:
    """A consumer has processed the event."""

    consumer: str
    processed_at: datetime
    is_sure: bool = True
    """Else it may have been set aside then: its letter would have been deleted by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One event, with all that became of it."""

    event: Event
    depth: int
    """0 for an event of the key; 1 for one that such an event caused; and so on."""
    cause: Event | None
    """What caused it, where that is known."""
    cause_id: str | None
    """The id of what caused it."""
    passages: Sequence[Passage]
    handlings: Sequence[Handling]
    letters: Sequence[Letter]


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened to one key, in order; an event is followed by what it caused."""

    key: str
    stories: Sequence[Story]
    is_cut: bool
    """There are more events than were asked for: the oldest of the key, or some that were caused,
    are missing."""


def timeline(
    engine: sa.Engine, settings: Settings, key: str, *, limit: int = 500, depth: int = 3
) -> Timeline:
    """Return what happened to a partition key.

    The newest `limit` events of the key, and as many that they caused, over at most `depth` steps.
    Events that retention has deleted are told from the audit trail, where there is one.

    Raises `DatabaseUnavailableError`, and `ConfigurationError` where the tables are missing.
    """
    with transaction(engine) as connection:
        log = Log(connection, settings.source, has_digests=not _is_converted(settings))
        found = log.of_key(key, limit + 1)
        own, is_cut = found[-limit:], len(found) > limit
        caused, was_cut = _effects(log, own, limit, depth)
        events = [*own, *(event for event, _ in caused)]
        causes = {event.id: event for event in [*log.with_ids(_unknown_causes(own)), *events]}
        names = {event.name for event in events}
        handled = _taken(connection, names)
        letters = _letters(connection, names)
        kept_since = _kept_since(connection, settings)
        passed = passages(connection, settings, events, handled, letters)
    depths = dict.fromkeys(own, 0) | dict(caused)
    stories = {
        event: Story(
            event=event,
            depth=depths[event],
            cause=causes.get(event.envelope.causation_id or ""),
            cause_id=event.envelope.causation_id,
            passages=passed.get(event, ()),
            handlings=_handlings(
                handled.get(event.name, ()), letters.get(event.name, ()), kept_since
            ),
            letters=letters.get(event.name, ()),
        )
        for event in events
    }
    return Timeline(key, list(_in_order(own, stories)), is_cut or was_cut)


def _effects(
    log: Log, own: Sequence[Event], limit: int, depth: int
) -> tuple[list[tuple[Event, int]], bool]:
    """Return what events of the key caused, with its depth, and whether some are missing."""
    known = set(own)
    found: list[tuple[Event, int]] = []
    level = list(own)
    for step in range(1, depth + 1):
        room = limit - len(found)
        caused = log.caused_by(level, room + 1 + len(known))
        new = [event for event in caused if event not in known]
        found += [(event, step) for event in new[:room]]
        if len(new) > room:
            return found, True
        if not new:
            break
        known |= set(new)
        level = new
    return found, False


def _unknown_causes(events: Sequence[Event]) -> set[str]:
    known = {event.id for event in events}
    return {
        event.envelope.causation_id for event in events if event.envelope.causation_id is not None
    } - known


def _in_order(own: Sequence[Event], stories: Mapping[Event, Story]) -> Iterator[Story]:
    """Yield the events of the key in their order, each followed by what it caused elsewhere."""
    caused: dict[str, list[Story]] = defaultdict(list)
    for story in stories.values():
        if story.depth and story.cause_id is not None:
            caused[story.cause_id].append(story)

    coming = [stories[event] for event in reversed(own)]
    while coming:
        story = coming.pop()
        yield story
        coming += reversed(caused.pop(story.event.id, []))


def _handlings(
    taken: Sequence[tuple[str, datetime]], letters: Sequence[Letter], kept_since: datetime | None
) -> list[Handling]:
    """Return who processed an event, and when, in order.

    The inbox has a row of what was set aside as well, written right before its letter.
    """
    own = {letter.owner: letter for letter in letters if letter.stage == "consumer"}
    found: list[Handling] = []
    for consumer, taken_at in taken:
        letter = own.get(consumer)
        if letter is None:
            found.append(Handling(consumer, taken_at, kept_since is None or taken_at >= kept_since))
        elif taken_at > (_replayed_at(letter) or letter.last_failed_at):
            found.append(Handling(consumer, taken_at))  # it came again, and was handled
    for letter in own.values():
        replayed_at = _replayed_at(letter)
        if replayed_at is not None:
            found.append(Handling(letter.owner, replayed_at))
    return sorted(found, key=lambda handling: handling.processed_at)


def _replayed_at(letter: Letter) -> datetime | None:
    return letter.resolved_at if letter.status == "replayed" else None


def _is_converted(settings: Settings) -> bool:
    """Tell whether the trail has digests of what schemas make of an event's data."""
    routes = settings.routes.values()
    return any(each.transport == "audit" and each.schemas is not None for each in routes)


def _kept_since(connection: sa.Connection, settings: Settings) -> datetime | None:
    """Return since when no resolved letter has been deleted; None where none ever is."""
    age = settings.retention.dead_letters
    if age is None:
        return None
    return connection.execute(sa.select(clock.now_plus(-age.total_seconds()))).scalar_one()


def _taken(connection: sa.Connection, names: set[Name]) -> dict[Name, list[tuple[str, datetime]]]:
    """Return which consumers have entered events into their inbox, and when."""
    columns = outbox_inbox.c
    found: dict[Name, list[tuple[str, datetime]]] = defaultdict(list)
    # By each consumer in turn, because the inbox has no index that begins with the event.
    for (consumer,) in _distinct(connection, [columns.consumer]):
        query = sa.select(columns.source, columns.event_id, columns.processed_at).where(
            columns.consumer == consumer
        )
        name = sa.tuple_(columns.source, columns.event_id)
        for row in rows_with(connection, query, name, names):
            found[row.source, row.event_id].append((consumer, row.processed_at))
    return found


def _letters(connection: sa.Connection, names: set[Name]) -> dict[Name, list[Letter]]:
    columns = outbox_dead_letter.c
    found: dict[Name, list[Letter]] = defaultdict(list)
    for stage, owner in _distinct(connection, [columns.stage, columns.owner]):
        query = (
            sa.select(outbox_dead_letter)
            .where(columns.stage == stage, columns.owner == owner)
            .order_by(columns.id)
        )
        name = sa.tuple_(columns.source, columns.event_id)
        for row in rows_with(connection, query, name, names):
            found[row.source, row.event_id].append(from_row(row))
    return found


def _distinct(
    connection: sa.Connection, columns: Sequence[sa.Column[str]]
) -> Iterator[tuple[str, ...]]:
    """Yield the values that an index begins with: one look into it for each, however long it is."""
    last: tuple[str, ...] | None = None
    while True:
        query = sa.select(*columns).order_by(*columns).limit(1)
        if last is not None:
            query = query.where(_above(columns, last))
        row = connection.execute(query).one_or_none()
        if row is None:
            return
        last = tuple(row)
        yield last


def _above(columns: Sequence[sa.Column[str]], values: Sequence[str]) -> sa.ColumnElement[bool]:
    """Compare as a tuple does; written out, because MariaDB uses no index for tuples here."""
    (column, *others), (value, *rest) = columns, values
    if not others:
        return column > value
    return (column >= value) & ((column > value) | _above(others, rest))
