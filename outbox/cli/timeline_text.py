"""A timeline as a story on a terminal, or as plain text in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from outbox.cli.envelopes import redacted, text_of
from outbox.cli.output import counted, moment
from outbox.cli.timeline_rows import UNREADABLE, Happening, happenings
from outbox.tracking import Change

if TYPE_CHECKING:
    from outbox.cli.output import Output
    from relay.timeline import Story, Timeline

STYLES: Final = {
    "failed": "red",
    "failed again": "red",
    "not delivered": "red",
    "discarded": "red",
    "differs": "red",
    "parked": "yellow",
    "waiting": "yellow",
    "unknown": "yellow",
    "to be tried again": "yellow",
    "processed or set aside": "yellow",
}
"""What draws attention; all else has gone as it should."""
DATA_LENGTH: Final = 200
"""Letters of the data that are shown, at most."""


def show(output: Output, found: Timeline) -> None:
    """Print a timeline."""
    output.line(f"{found.key}: {summary(found)}", "bold")
    if found.is_cut:
        output.line("there are more events: see --limit", "yellow")
    for story in found.stories:
        if story.depth == 0:
            output.line()
        _show(output, story)


def summary(found: Timeline) -> str:
    """Say how much there is."""
    own = sum(story.depth == 0 for story in found.stories)
    caused = len(found.stories) - own
    told = counted(own, "event") + (f", which caused {counted(caused, 'event')}" if caused else "")
    forged = sum(bool(story.event.differences) for story in found.stories)
    return told + (f"; {forged:,} of them not as in the audit trail" if forged else "")


def time_of(story: Story) -> str:
    """Say when an event happened."""
    return UNREADABLE if story.event.time is None else moment(story.event.time)


def headline(story: Story) -> list[tuple[str, str]]:
    """Say what happened, by whom and because of what: the parts of a line, each with its kind."""
    envelope = story.event.envelope
    parts = [("what", f"{envelope.type} v{envelope.version}")]
    if story.depth and envelope.partition_key is not None:
        parts.append(("what", f"of {envelope.partition_key}"))
    if envelope.actor is not None:
        parts.append(("who", f"by {envelope.actor}"))
    cause = because(story)
    if cause:
        parts.append(("why", cause))
    return parts


def because(story: Story) -> str:
    """Say what caused an event, where it does not stand right above."""
    if story.cause_id is None or story.depth:
        return ""
    if story.cause is None:
        return f"because of event {story.cause_id}"
    cause = story.cause.envelope
    return f"because of {cause.type}" + (
        f" of {cause.partition_key}" if cause.partition_key else ""
    )


def data_of(story: Story) -> str:
    """Return the data as one short line; a change of a row as `status: new → paid`."""
    if not story.event.is_stored:
        return "its data is no longer stored"
    data = story.event.envelope.data
    text = _change(data) or text_of(data)
    return text if len(text) <= DATA_LENGTH else text[:DATA_LENGTH] + "…"


def _change(data: bytes) -> str | None:
    """Return the words for an event of `outbox.track`; None where it is another one."""
    try:
        found = orjson.loads(redacted(data))
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or found.keys() != Change.model_fields.keys():
        return None
    before, after = found["before"] or {}, found["after"] or {}
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return None
    names = dict.fromkeys([*before, *after])
    changed = [f"{name}: {_arrow(name, before, after)}" for name in names]
    return f"{found['operation']}, {', '.join(changed)}" if changed else None


def _arrow(name: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    return " → ".join(_short(values[name]) for values in (before, after) if name in values)


def _short(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def sentence(happening: Happening) -> str:
    """Say what happened after the event was emitted."""
    template = _SENTENCES.get(happening.what, "{what} by {who}: {detail}")
    return template.format(what=happening.what, who=happening.who, detail=happening.detail)


_SENTENCES: Final = {
    "delivered": "delivered by {who} ({detail})",
    "passed by": "the position of {who} has passed it ({detail})",
    "waiting": "waiting for {who} ({detail})",
    "not delivered": "not delivered by {who} ({detail})",
    "unknown": "nobody can tell whether {who} has delivered it: {detail}",
    "failed": "{who} failed: {detail}",
    "failed again": "{who} failed again ({detail})",
    "processed": "processed by {who}",
    "processed or set aside": "processed or set aside by {who}: its letter would be deleted by now",
    "differs": "differs from the audit trail in {detail}",
    "recorded": "in the audit trail at {detail}",
    "parked": "{who} parked it {detail}",
    "to be tried again": "{who} is to try it again ({detail})",
}


def when(happening: Happening) -> str:
    """Say when, for a column."""
    if happening.at is None:
        return ""
    return ("by " if happening.is_latest else "") + moment(happening.at)


def _show(output: Output, story: Story) -> None:
    """Print one event: its times under each other, what became of it a bit to the right."""
    indent = STEP * story.depth
    branch = "└─ " if story.depth else "   "  # in the place of a `by `
    at = f"{time_of(story):{len(TIME)}}"
    told = " ".join(text for _, text in headline(story))
    output.line(f"{indent}{branch}{at}  {told}", "bold")
    output.line(f"{indent}{'':{TIME_WIDTH}}    {data_of(story)}", "dim")
    for happening in happenings(story)[1:]:
        text = f"{indent}{when(happening):>{TIME_WIDTH}}    {sentence(happening)}"
        output.line(text, STYLES.get(happening.what, ""))


STEP: Final = "    "
TIME: Final = "2026-05-01 12:00:00Z"
TIME_WIDTH: Final = len(f"by {TIME}")
