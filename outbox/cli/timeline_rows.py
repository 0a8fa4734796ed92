"""A timeline as data: one JSON document, or a line of CSV for each thing that happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outbox.cli.cells import csv_line
from outbox.cli.dead_letters import facts_of
from outbox.codec import time_text, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from outbox.letter import Letter
    from relay.timeline import Event, Passage, Story, Timeline


UNREADABLE: Final = "an unreadable time"
"""Instead of what the trail has there and what is no time."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened to one event."""

    at: datetime | None
    """When; None where nothing that is stored tells."""
    is_latest: bool
    """It happened then at the latest."""
    what: str
    """One word, for instance `emitted`, `delivered`, `processed`."""
    who: str | None
    """The actor, route or consumer."""
    detail: str


def happenings(story: Story) -> list[Happening]:
    """Return what happened to an event, in order; what has no time comes last."""
    event = story.event
    first = Happening(event.time, False, "emitted", event.envelope.actor, "")
    found = [*map(_passed, story.passages), *(_processed(story)), *_lettered(story)]
    if event.position is not None:
        place = f"position {event.position}"
        if event.recorded_at is None:
            place += f", at {UNREADABLE}"
        found.append(Happening(event.recorded_at, False, "recorded", "audit", place))
    if event.differences:
        found.append(Happening(None, False, "differs", "audit", ", ".join(event.differences)))
    known = sorted((each for each in found if each.at is not None), key=_moment)
    return [first, *known, *(each for each in found if each.at is None)]


def _moment(happening: Happening) -> Any:
    return happening.at


def _passed(passage: Passage) -> Happening:
    detail = passage.destination
    if passage.reason is not None:
        detail += f" ({passage.reason})"
    return Happening(passage.by, True, _PASSED[passage.state], passage.route, detail)


_PASSED: Final = {
    "delivered": "delivered",
    "passed": "passed by",
    "waiting": "waiting",
    "set aside": "not delivered",
    "unknown": "unknown",
}


def _processed(story: Story) -> Iterator[Happening]:
    for handling in story.handlings:
        what = "processed" if handling.is_sure else "processed or set aside"
        yield Happening(handling.processed_at, False, what, handling.consumer, "")


def _lettered(story: Story) -> Iterator[Happening]:
    for letter in story.letters:
        yield from _of_letter(letter)


def _of_letter(letter: Letter) -> Iterator[Happening]:
    where = f"letter {letter.id}" + (f", {letter.place}" if letter.place else "")
    if letter.attempt_count:
        tries = f"{letter.attempt_count} attempt" + "s" * (letter.attempt_count != 1)
        detail = f"{tries}: {letter.reason} ({where})"
        yield Happening(letter.first_failed_at, False, "failed", letter.owner, detail)
        if letter.last_failed_at != letter.first_failed_at:
            yield Happening(letter.last_failed_at, False, "failed again", letter.owner, where)
    else:
        detail = f"behind an earlier event of its key ({where})"
        yield Happening(letter.first_failed_at, False, "parked", letter.owner, detail)
    if letter.resolved_at is not None:
        note = letter.note or where
        yield Happening(letter.resolved_at, False, letter.status, letter.owner, note)
    elif letter.status == "requested":
        yield Happening(None, False, "to be tried again", letter.owner, where)


def document(found: Timeline) -> dict[str, Any]:
    """Return a timeline as one JSON document."""
    return {
        "key": found.key,
        "is_cut": found.is_cut,
        "events": [_event(story) for story in found.stories],
    }


def _event(story: Story) -> dict[str, Any]:
    event = story.event
    cloud_event = to_json(event.envelope)
    if event.time is None:
        del cloud_event["time"]
    if not event.is_stored:
        cloud_event.pop("data_base64", None)
        cloud_event.pop("datacontenttype", None)  # nobody knows it any more
    trail = event.position and {
        "position": event.position,
        "recorded_at": _text(event.recorded_at),
        "differences": event.differences,
    }
    return {
        "depth": story.depth,
        "event": cloud_event,
        "is_stored": event.is_stored,
        "audit": trail,
        "cause": _cause(story),
        "routes": [
            {
                "route": passage.route,
                "destination": passage.destination,
                "state": passage.state,
                "by": _text(passage.by),
                "reason": passage.reason,
            }
            for passage in story.passages
        ],
        "consumers": [
            {
                "consumer": each.consumer,
                "processed_at": _text(each.processed_at),
                "is_sure": each.is_sure,
            }
            for each in story.handlings
        ],
        "dead_letters": [facts_of(letter) for letter in story.letters],
    }


def _cause(story: Story) -> dict[str, Any] | None:
    if story.cause_id is None:
        return None
    cause: Event | None = story.cause
    return {
        "id": story.cause_id,
        "type": cause and cause.envelope.type,
        "partitionkey": cause and cause.envelope.partition_key,
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else time_text(moment)


CSV_COLUMNS: Final = (
    "time",
    "time_is_latest",
    "what",
    "who",
    "detail",
    "type",
    "version",
    "key",
    "subject",
    "event_id",
    "source",
    "sequence",
    "cause_id",
    "depth",
)


def csv_lines(found: Timeline) -> Iterator[str]:
    """Yield the lines of a timeline as CSV (RFC 4180), without their ends.

    A cell that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    yield ",".join(CSV_COLUMNS)
    for story in found.stories:
        envelope = story.event.envelope
        shared = (
            envelope.type,
            envelope.version,
            envelope.partition_key,
            envelope.subject,
            envelope.id,
            envelope.source,
            envelope.sequence,
            story.cause_id,
            story.depth,
        )
        for each in happenings(story):
            own = (_text(each.at), each.is_latest, each.what, each.who, each.detail)
            yield csv_line((*own, *shared))
