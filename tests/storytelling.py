"""One order's history in a database, for the tests of timelines."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from outbox import dead_letter
from outbox.audit.chain import START, extend
from outbox.codec import ROW_COLUMNS, from_row
from outbox.dead_letter import Failure
from outbox.rows import Rows
from outbox.settings import Settings
from outbox.table import outbox_audit, outbox_checkpoint, outbox_event, outbox_inbox
from tests.retaining import deliver

if TYPE_CHECKING:
    from outbox.envelope import Envelope

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
SOURCE = "/shop"


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def settings(engine: sa.Engine, **routes: dict[str, Any]) -> Settings:
    url = engine.url.render_as_string(hide_password=False)
    return Settings.model_validate({"database_url": url, "source": SOURCE, "routes": routes})


def emit(engine: sa.Engine, name: str, seconds: float, *, key: str = "o-1", **columns: Any) -> str:
    """Commit an event; return its id."""
    row = {
        "id": str(uuid.uuid4()),
        "type": f"shop.{name}",
        "partition_key": key,
        "time": at(seconds),
        "data": b'{"order_id": "o-1"}',
        "headers": {},
        **columns,
    }
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox_event), row)
    return str(row["id"])


def caused(engine: sa.Engine, cause: str, name: str, seconds: float, **columns: Any) -> str:
    return emit(engine, name, seconds, headers={"causationid": cause, "actor": "b"}, **columns)


def advance(engine: sa.Engine, route: str, seconds: float, count: int | None = None) -> None:
    """Let a route have delivered all that is there, or the first `count` events."""
    deliver(engine, route, count=count)
    with engine.begin() as connection:
        statement = sa.update(outbox_checkpoint).where(outbox_checkpoint.c.route == route)
        connection.execute(statement.values(advanced_at=at(seconds)))


def process(engine: sa.Engine, consumer: str, event_id: str, seconds: float) -> None:
    values = {"consumer": consumer, "source": SOURCE, "event_id": event_id}
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox_inbox), values | {"processed_at": at(seconds)})


def envelopes(engine: sa.Engine) -> list[Envelope]:
    """The events as they travel, by number: their source is the relay's where they have none."""
    query = sa.select(*(outbox_event.c[name] for name in ROW_COLUMNS)).order_by(outbox_event.c.seq)
    with engine.connect() as connection:
        found = [from_row(*row) for row in connection.execute(query)]
    return [replace(each, source=each.source or SOURCE) for each in found]


def envelope(engine: sa.Engine, event_id: str) -> Envelope:
    [found] = [each for each in envelopes(engine) if each.id == event_id]
    return found


def give_up(
    engine: sa.Engine, stage: dead_letter.Stage, owner: str, event_id: str, **failure: Any
) -> None:
    content = envelope(engine, event_id)
    with engine.begin() as connection:
        dead_letter.record(connection, stage, owner, [Failure(content, **failure)])


HASHES = dict.fromkeys(("data_digest", "previous_hash", "hash"), bytes(32))
"""Of no use to a timeline of events that are not in the log."""


def record(engine: sa.Engine, seconds: float) -> None:
    """Write all events into an audit trail."""
    travelling = envelopes(engine)
    rows = [
        made._asdict() | {"time": each.time, "recorded_at": at(seconds)}
        for each, made in zip(travelling, extend(START, Rows.of(travelling).rows), strict=True)
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox_audit), rows)


def add_record(
    engine: sa.Engine, position: int, *, key: str = "o-1", seconds: float = 0, **columns: Any
) -> None:
    """Write a record into an audit trail of an event that never was in this log."""
    row = {
        "position": position,
        "event_id": str(uuid.uuid4()),
        "version": 1,
        "partition_key": key,
        "time": at(seconds),
        "sequence": position,
        "recorded_at": at(100),
        **HASHES,
        **columns,
    }
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox_audit), row)


def forget(engine: sa.Engine) -> None:
    """Delete all events, as retention does in the end."""
    with engine.begin() as connection:
        connection.execute(sa.delete(outbox_event))
