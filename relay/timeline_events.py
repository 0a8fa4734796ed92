"""Finds the events of a timeline: in the log, and in the audit trail what retention deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from outbox.chunks import in_chunks
from outbox.codec import ROW_COLUMNS, from_row
from outbox.columns import is_uuid
from outbox.dialect import is_mysql
from outbox.envelope import Envelope
from outbox.table import outbox_audit, outbox_checkpoint, outbox_event

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from outbox.settings import Settings

LATE: Final = 100_000
"""Below the floor of the audit's route so many numbers are looked at beside the trail: events that
committed late may not be in it yet."""
CHUNK: Final = 500
"""Values in one query, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event, as far as it is still known."""

    envelope: Envelope
    is_stored: bool
    """The log still has it; else its data is gone, and only the trail tells of it."""
    position: int | None = None
    """Its place in the audit trail; None where that does not have it."""
    recorded_at: datetime | None = None
    """When the trail took it."""

    @property
    def id(self) -> str:
        """Its id."""
        return self.envelope.id

    @property
    def sequence(self) -> int:
        """Its number in the log; 0 where it has none."""
        return self.envelope.sequence or 0

    def __hash__(self) -> int:
        return hash((self.envelope.id, self.envelope.sequence))


class Log:
    """The events of a database, by key and by what caused them.

    The log has no index on either, because every producer would pay for it. The trail has one on
    the key. So where a route writes all events to the trail, the log is read from behind that route
    on; elsewhere as a whole, and what was caused from its cause on.
    """

    def __init__(self, connection: sa.Connection, settings: Settings) -> None:
        self._connection = connection
        self._low = self._trailed(settings)

    def _trailed(self, settings: Settings) -> int:
        """Return the number up to which the trail has all events."""
        names = [
            name
            for name, route in settings.routes.items()
            if route.transport == "audit"
            and route.start == "beginning"
            and "*" in route.types
            and not route.where
        ]
        query = sa.select(outbox_checkpoint.c.position).where(outbox_checkpoint.c.route.in_(names))
        floors = [position["floor"] for position in self._connection.scalars(query) if position]
        return max(0, max(floors, default=0) - LATE)

    def of_key(self, key: str, limit: int) -> list[Event]:
        """Return the newest events of a partition key, in the order of their numbers."""
        trail, event = outbox_audit.c, outbox_event.c
        return self._find(
            event.partition_key == key, trail.partition_key == key, limit, is_newest=True
        )

    def caused_by(self, causes: Sequence[Event], limit: int) -> list[Event]:
        """Return the first events that any of these caused, in the order of their numbers."""
        found: dict[Event, None] = {}
        for chunk in in_chunks(causes, CHUNK):
            ids = [cause.id for cause in chunk]
            positions = [cause.position or 0 for cause in chunk]
            after = min(cause.sequence for cause in chunk)
            new = self._find(
                _causation(self._connection).in_(ids) & (outbox_event.c.seq > after),
                outbox_audit.c.causation_id.in_(ids) & (outbox_audit.c.position > min(positions)),
                limit,
            )
            found |= dict.fromkeys(new)
        return sorted(found, key=lambda event: event.sequence)[:limit]

    def with_ids(self, ids: Collection[str]) -> list[Event]:
        """Return events by their ids; ids are unique only within their source."""
        found: list[Event] = []
        for chunk in in_chunks(sorted(ids), CHUNK):
            known = chunk
            if self._connection.dialect.name == "postgresql":
                known = [each for each in chunk if is_uuid(each)]
            found += self._find(
                outbox_event.c.id.in_(known), outbox_audit.c.event_id.in_(chunk), limit=CHUNK
            )
        return found

    def _find(
        self,
        stored: sa.ColumnElement[bool],
        trailed: sa.ColumnElement[bool],
        limit: int,
        *,
        is_newest: bool = False,
    ) -> list[Event]:
        """Return what the log and the trail have of events that meet a condition of either."""
        trail = {row.sequence: row for row in self._trail(trailed, limit, is_newest=is_newest)}
        number = outbox_event.c.seq
        rows = self._stored(stored & (number > self._low), limit, is_newest=is_newest)
        known = {row.seq for row in rows}
        for chunk in in_chunks([each for each in trail if each and each not in known], CHUNK):
            rows += self._stored(number.in_(chunk), len(chunk), is_newest=False)
        events = [_stored_event(row, trail.pop(row.seq, None)) for row in rows]
        events += [_trailed_event(row) for row in trail.values()]
        events.sort(key=lambda event: (event.sequence, event.position or 0))
        return events[-limit:] if is_newest else events[:limit]

    def _stored(
        self, condition: sa.ColumnElement[bool], limit: int, *, is_newest: bool
    ) -> list[sa.Row[Any]]:
        number = outbox_event.c.seq
        query = sa.select(*(outbox_event.c[name] for name in ROW_COLUMNS)).where(condition)
        order = number.desc() if is_newest else number
        return list(self._connection.execute(query.order_by(order).limit(limit)))

    def _trail(
        self, condition: sa.ColumnElement[bool], limit: int, *, is_newest: bool
    ) -> list[sa.Row[Any]]:
        position = outbox_audit.c.position
        order = position.desc() if is_newest else position
        query = sa.select(outbox_audit).where(condition).order_by(order).limit(limit)
        return list(self._connection.execute(query))


def _stored_event(row: sa.Row[Any], trail: sa.Row[Any] | None) -> Event:
    return Event(
        envelope=from_row(*tuple(row)),
        is_stored=True,
        position=None if trail is None else trail.position,
        recorded_at=None if trail is None else trail.recorded_at,
    )


def _trailed_event(row: sa.Row[Any]) -> Event:
    envelope = Envelope(
        id=row.event_id,
        source=row.source or None,
        type=row.type,
        version=row.version,
        time=row.time,
        data=b"",
        subject=row.subject,
        partition_key=row.partition_key,
        actor=row.actor,
        correlation_id=row.correlation_id,
        causation_id=row.causation_id,
        sequence=row.sequence or None,
    )
    return Event(
        envelope=envelope, is_stored=False, position=row.position, recorded_at=row.recorded_at
    )


def _causation(connection: sa.Connection) -> sa.ColumnElement[str]:
    headers = outbox_event.c.headers
    if connection.dialect.name == "postgresql":
        return sa.func.jsonb_extract_path_text(headers, "causationid", type_=sa.Text)
    found = sa.func.json_extract(headers, "$.causationid", type_=sa.Text)
    return sa.func.json_unquote(found, type_=sa.Text) if is_mysql(connection.dialect) else found
