"""Events of some age, routes that have delivered some of them, and passes of retention."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING

import sqlalchemy as sa

from outbox import clock
from outbox.settings import Settings
from outbox.table import outbox_checkpoint, outbox_event
from outbox.transports.memory import MemoryBroker
from relay import lease
from relay.capture import open_capture
from relay.retention import sweep
from relay.retention_state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

OLD = -100.0
"""Older than any age here, in seconds."""
ROOM = 2**16
"""Messages that a partition of the broker keeps: more than writers here write before they stop."""


def settings(engine: sa.Engine, *routes: str, **ages: str) -> Settings:
    url = engine.url.render_as_string(hide_password=False)
    route = {"transport": "memory", "broker": uuid.uuid4().hex, "capacity": ROOM}
    return Settings.model_validate(
        {"database_url": url, "routes": dict.fromkeys(routes, route), "retention": ages}
    )


def broker_of(given: Settings) -> MemoryBroker:
    """Return the broker that all routes of these settings share."""
    options = next(iter(given.routes.values())).options
    return MemoryBroker.named(options["broker"], capacity=options["capacity"])


def emit(engine: sa.Engine, count: int, age: float = OLD) -> None:
    columns = ["type", "time", "data"]
    many = sa.select(sa.literal("t.t"), clock.now_plus(age), sa.literal(b"", sa.LargeBinary))
    with engine.begin() as connection:
        for _ in range(count):
            connection.execute(sa.insert(outbox_event).from_select(columns, many))


def deliver(engine: sa.Engine, *routes: str, count: int | None = None) -> None:
    """Let routes deliver all that is there, or `count` events."""
    capture = open_capture(engine)
    for route in routes:
        page = capture.next_page(capture.beginning(), 100_000)
        values = {"position": page.position(count).to_json()}
        with engine.begin() as connection:
            lease.acquire(connection, route, "test", 60)
            lease.resign(connection, route, 1)
            statement = sa.update(outbox_checkpoint).where(outbox_checkpoint.c.route == route)
            connection.execute(statement.values(values))
    capture.close()


def swept(engine: sa.Engine, given: Settings, *, anew: bool = True) -> State:
    done = sweep(engine, given, "test", threading.Event(), anew=anew)
    assert isinstance(done, State)
    return done


def stored(engine: sa.Engine) -> Sequence[int]:
    with engine.begin() as connection:
        return connection.scalars(sa.select(outbox_event.c.seq).order_by(outbox_event.c.seq)).all()
