"""Where a term starts: the stored position, or what a broker has recorded since it was stored."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from outbox import stored
from outbox.chunks import in_chunks
from outbox.dead_letter import Failure
from outbox.table import outbox_event
from relay.database import transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope
    from relay.capture import Capture, Position
    from relay.checkpoint import Checkpoint
    from relay.progress import Aside, Progress

log = logging.getLogger(__name__)

_CHUNK: Final = 1_000
"""Values in one statement, at most."""


def resume(
    engine: sa.Engine,
    capture: Capture,
    checkpoint: Checkpoint,
    progress: Progress | None,
    route: str,
    source: str,
) -> Position | None:
    """Return the position to go on from, which is stored then; None where the route never ran.

    What newer progress says is done first, in one transaction: the dead letters that it tells of
    are written, and those that it published are marked.
    """
    stored = checkpoint.stored
    if stored is None:
        return None
    position = capture.position(stored)
    mark = checkpoint.stored_mark
    if progress is None or mark is None or not progress.mark.is_newer_than(mark):
        return position
    facts = {"route": route, "recorded": list(progress.mark.to_json()), "stored": mark.to_json()}
    if not capture.trusts(progress.position):
        log.warning(
            "the database crashed or was replaced since the broker recorded a position: going on"
            " from the stored one, so some events are published again",
            extra=facts,
        )
        return position
    log.info("going on from what the broker recorded", extra=facts)
    position = capture.position(progress.position)
    failures = _failures(engine, progress.aside, source)
    checkpoint.set_aside(position, failures, progress.letters)
    return position


def _failures(engine: sa.Engine, aside: Sequence[Aside], source: str) -> list[Failure]:
    found: dict[int, Envelope] = {}
    numbers = [item.seq for item in aside]
    events = sa.select(*stored.columns(source))
    for chunk in in_chunks(numbers, _CHUNK):
        query = events.where(outbox_event.c.seq.in_(chunk))
        with transaction(engine) as connection:
            found |= {each.sequence or 0: each for each in stored.read(connection, query)}
    return [
        Failure(found[item.seq], item.reason, item.status, int(item.status == "dead"))
        for item in aside
    ]
