"""Finds the events of a timeline: in the log, and in the audit trail what retention deleted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from outbox import stored
from outbox.any_text import fetch
from outbox.audit.record import digest
from outbox.chunks import CHUNK, in_chunks, rows_with
from outbox.codec import from_row
from outbox.columns import is_uuid
from outbox.dialect import is_mysql
from outbox.envelope import Envelope
from outbox.table import outbox_audit, outbox_event

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    Name = tuple[str, str]
    Identity = tuple[str, str, int]

NEVER: Final = datetime.min.replace(tzinfo=UTC)
"""In the envelope of an event whose time cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Event:
    """One event, as far as it is still known."""

    envelope: Envelope
    """As it travels: with the source of the settings where its producer set none. Its time is
    meaningless where that of the event is None."""
    time: datetime | None
    """When it happened; None where the trail alone tells of it, and has there what is no time."""
    is_stored: bool
    """The log still has it; else its data is gone, and only the trail tells of it."""
    position: int | None = None
    """Its place in the audit trail; None where that does not have it."""
    recorded_at: datetime | None = None
    """When the trail took it; None where it has there what is no time."""
    differences: Sequence[str] = ()
    """What the log says otherwise than the trail's record, by the names that a record has."""

    @property
    def id(self) -> str:
        """Its id."""
        return self.envelope.id

    @property
    def sequence(self) -> int:
        """Its number in the log; 0 where it has none."""
        return self.envelope.sequence or 0

    @property
    def name(self) -> Name:
        """What the inbox and dead letters call it by: its source and id."""
        return self.envelope.source or "", self.envelope.id

    @property
    def identity(self) -> Identity:
        """What it is told apart by, as in the trail: a producer may give two events one id."""
        return *self.name, self.sequence

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


class Log:
    """The events of a database, by key and by what caused them.

    The log has no index on either, because every producer would pay for it. So it is read as a
    whole, and for effects from their causes on. The trail, which has an index on the key, can
    stand in for no part of it: it may have been given other events before than it is today.
    """

    def __init__(self, connection: sa.Connection, source: str, *, has_digests: bool = True) -> None:
        """Take a database; `has_digests` says that its trail has those of data as the log does."""
        self._connection = connection
        self._source = source
        self._has_digests = has_digests
        self._rows = sa.select(*stored.columns(source))

    def of_key(self, key: str, limit: int) -> list[Event]:
        """Return the newest events of a partition key, in order."""
        trail, event = outbox_audit.c, outbox_event.c
        found = self._find(
            event.partition_key == key, trail.partition_key == key, limit, is_newest=True
        )
        return found[-limit:]

    def caused_by(self, causes: Sequence[Event], limit: int) -> list[Event]:
        """Return the first events that any of these caused, in order."""
        found: set[Event] = set()
        for chunk in in_chunks(causes, CHUNK):
            ids = [cause.id for cause in chunk]
            # Handlers emit after what they handle has got its number. An event that this log does
            # not have may have got its own from another one.
            after = min(cause.sequence if cause.is_stored else 0 for cause in chunk)
            found |= set(
                self._find(
                    _causation(self._connection).in_(ids) & (outbox_event.c.seq > after),
                    outbox_audit.c.causation_id.in_(ids),
                    limit,
                )
            )
        return self._in_order(found)[:limit]

    def with_ids(self, ids: Collection[str]) -> list[Event]:
        """Return events by their ids; ids are unique only within their source."""
        found: list[Event] = []
        for chunk in in_chunks(sorted(ids), CHUNK):
            known = chunk
            if self._connection.dialect.name == "postgresql":
                known = [each for each in chunk if is_uuid(each)]
            found += self._find(outbox_event.c.id.in_(known), outbox_audit.c.event_id.in_(chunk))
        return found

    def _find(
        self,
        stored: sa.ColumnElement[bool],
        trailed: sa.ColumnElement[bool],
        limit: int | None = None,
        *,
        is_newest: bool = False,
    ) -> list[Event]:
        """Return events that meet a condition of the log or of the trail, with what both have.

        The first or newest `limit` of either, in order.
        """
        number = outbox_event.c.seq
        rows = {
            _identity(row): row
            for row in self._select(self._rows.where(stored), number, limit, is_newest=is_newest)
        }
        records = {
            _identity(record): record
            for record in self._select(
                _RECORDS.where(trailed), _TRAIL.position, limit, is_newest=is_newest
            )
        }
        numbers = {record.seq for name, record in records.items() if name not in rows}
        ids = {str(row.id) for name, row in rows.items() if name not in records}
        # A number, or an id, may be that of another event as well.
        for row in rows_with(self._connection, self._rows, number, numbers):
            if _identity(row) in records:
                rows[_identity(row)] = row
        for record in rows_with(self._connection, _RECORDS, _TRAIL.event_id, ids):
            if _identity(record) in rows:
                records[_identity(record)] = record
        events = [self._stored(row, records.get(name)) for name, row in rows.items()]
        events += [_trailed_event(records[name]) for name in records.keys() - rows.keys()]
        return self._in_order(events)

    def _stored(self, row: sa.Row[Any], record: sa.Row[Any] | None) -> Event:
        envelope = from_row(*tuple(row))
        found = Event(envelope=envelope, time=envelope.time, is_stored=True)
        if record is None:
            return found
        differences = _differences(envelope, record)
        return replace(
            found,
            position=record.position,
            recorded_at=_moment(record.recorded_at),
            differences=[each for each in differences if self._has_digests or each != "data"],
        )

    def _select(
        self,
        query: sa.Select[Any],
        order: sa.ColumnElement[int],
        limit: int | None,
        *,
        is_newest: bool,
    ) -> Sequence[sa.Row[Any]]:
        order = order.desc() if is_newest else order
        return fetch(self._connection, query.order_by(order).limit(limit))

    def _in_order(self, events: Iterable[Event]) -> list[Event]:
        """Sort events: those of one log by their numbers, and several logs by time.

        Several logs may share a trail. By time alone events of one log would not be in order,
        because the clocks of its producers differ.
        """
        ordered = sorted(events, key=lambda event: (event.sequence, event.position or 0))
        here = {event.name[0] for event in ordered if event.is_stored} | {self._source}
        latest: dict[str | None, datetime] = {}
        times: dict[Event, datetime] = {}
        for event in ordered:
            log = None if event.name[0] in here else event.name[0]
            times[event] = latest[log] = max(latest.get(log, NEVER), event.time or NEVER)
        return sorted(times, key=times.__getitem__)


_TRAIL: Final = outbox_audit.c
_RECORDS: Final = sa.select(
    _TRAIL.position,
    # Whoever tampers with the trail may write what no type of ours can read: the time `infinity`,
    # and anything anywhere on SQLite. A timeline tells of the rest nevertheless.
    sa.cast(_TRAIL.sequence, sa.BigInteger).label("seq"),
    sa.cast(_TRAIL.event_id, sa.Text).label("id"),
    sa.cast(_TRAIL.version, sa.BigInteger).label("version"),
    sa.cast(_TRAIL.data_digest, sa.LargeBinary).label("data_digest"),
    *(
        sa.cast(column, sa.Text).label(column.name)
        for column in (
            _TRAIL.source,
            _TRAIL.type,
            _TRAIL.subject,
            _TRAIL.partition_key,
            _TRAIL.actor,
            _TRAIL.correlation_id,
            _TRAIL.causation_id,
            _TRAIL.time,
            _TRAIL.recorded_at,
        )
    ),
)


def _identity(row: sa.Row[Any]) -> Identity:
    """See `Event.identity`; of a row of the log or of the trail."""
    return row.source, str(row.id), row.seq


def _differences(envelope: Envelope, record: sa.Row[Any]) -> Sequence[str]:
    """Name what the trail would have recorded otherwise, were the log then as it is now."""
    pairs = {
        "type": (envelope.type, record.type),
        "version": (envelope.version, record.version),
        "subject": (envelope.subject, record.subject),
        "partitionkey": (envelope.partition_key, record.partition_key),
        "actor": (envelope.actor, record.actor),
        "correlationid": (envelope.correlation_id, record.correlation_id),
        "causationid": (envelope.causation_id, record.causation_id),
        "time": (envelope.time, _moment(record.time)),
        "data": (digest(envelope.content_type, envelope.data), bytes(record.data_digest)),
    }
    return [name for name, (logged, recorded) in pairs.items() if logged != recorded]


def _trailed_event(record: sa.Row[Any]) -> Event:
    time = _moment(record.time)
    envelope = Envelope(
        id=record.id,
        source=record.source,
        type=record.type,
        version=record.version,
        time=time or NEVER,
        data=b"",
        subject=record.subject,
        partition_key=record.partition_key,
        actor=record.actor,
        correlation_id=record.correlation_id,
        causation_id=record.causation_id,
        sequence=record.seq or None,
    )
    return Event(
        envelope=envelope,
        time=time,
        is_stored=False,
        position=record.position,
        recorded_at=_moment(record.recorded_at),
    )


def _moment(text: str) -> datetime | None:
    """Read what a database writes for a time; None where it is none."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _causation(connection: sa.Connection) -> sa.ColumnElement[str]:
    headers = outbox_event.c.headers
    if connection.dialect.name == "postgresql":
        return sa.func.jsonb_extract_path_text(headers, "causationid", type_=sa.Text)
    found = sa.func.json_extract(headers, "$.causationid", type_=sa.Text)
    return sa.func.json_unquote(found, type_=sa.Text) if is_mysql(connection.dialect) else found
