"""Where a route that never ran starts, and how far back a time lies."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from outbox.table import outbox_event
from relay.capture.position import rewind
from relay.database import transaction

if TYPE_CHECKING:
    from outbox.settings import Start
    from relay.capture import Capture, Position


def starting_position(engine: sa.Engine, capture: Capture, start: Start) -> Position:
    """Return the position of a route that is to start so.

    Of what is numbered below the start, only what has not committed yet is read.
    """
    match start:
        case "beginning":
            return capture.beginning()
        case "now":
            return capture.now()
        case datetime():
            # First: an event that commits in between is then read, not missed.
            now = capture.now()
            return rewind(now, sequence_before(engine, start))
        case _:
            return rewind(capture.now(), start - 1)


def sequence_before(engine: sa.Engine, moment: datetime) -> int:
    """Return the sequence behind which every event of this time or later is; walks the table."""
    first = sa.select(sa.func.min(outbox_event.c.seq)).where(outbox_event.c.time >= moment)
    last = sa.select(sa.func.max(outbox_event.c.seq))
    with transaction(engine) as connection:
        found = connection.scalar(first)
        return connection.scalar(last) or 0 if found is None else found - 1
