"""Retention: deletes what is old enough, a little at a time, beside everything else.

Of all relays on one database one does it at a time: it holds a lease like a route's, in a row of
`outbox_checkpoint` with a name that no route can have. The row's position is how far each walk has
come and what the last ones did, for the next holder and for `outbox status`.

A batch takes the time that it takes, and three times as long nothing happens; a batch that takes
longer is followed by a smaller one. So on a busy server there is less of it. It waits for no lock
for long, and whoever it would have to wait for goes first.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from outbox import clock
from outbox.errors import ConfigurationError, DatabaseUnavailableError, LeaseLostError
from outbox.partitions import is_partitioned
from outbox.table import outbox_checkpoint as checkpoint
from relay import lease, rotation
from relay.database import transaction
from relay.expiry import Events, expiries
from relay.lease import Held
from relay.retention_state import NAME, State, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from outbox.settings import Settings
    from relay.expiry import Expiry
    from relay.lease import Grant

log = logging.getLogger(__name__)

LEASE_SECONDS: Final = 60.0
PASS: Final = timedelta(minutes=1)
"""How long after one pass the next one begins, on whichever relay."""
LOOK_SECONDS: Final = 10.0
"""How often a relay looks whether a pass is due."""

_NOW: Final = sa.select(clock.now())


class Pace:
    """How large the next batch is and how long to wait before it."""

    SMALLEST: Final = 100
    LARGEST: Final = 5_000
    SECONDS: Final = 0.05
    """What a batch is to take."""
    REST: Final = 3.0
    """What a pause takes, in batches."""

    def __init__(self) -> None:
        self.size = 1_000

    def after(self, took: float) -> float:
        """Return the pause in seconds after a batch that took so long, and fit the next one."""
        if took > 2 * self.SECONDS:
            self.size = max(self.size // 2, self.SMALLEST)
        elif took < self.SECONDS / 2:
            self.size = min(self.size * 2, self.LARGEST)
        return took * self.REST


def sweep(
    engine: sa.Engine,
    settings: Settings,
    holder: str,
    stopping: threading.Event,
    *,
    anew: bool = False,
) -> State | Held:
    """Make one pass over the tables; returns what it did, or who is at it already.

    With `anew` every table is walked through from its beginning, due or not. It ends early when
    told to stop. Raises `DatabaseUnavailableError`, `LeaseLostError`, and `ConfigurationError`
    where a right or a table is missing.
    """
    with transaction(engine) as connection:
        granted = lease.acquire(connection, NAME, holder, LEASE_SECONDS)
        now = connection.execute(_NOW).scalar_one()
    if isinstance(granted, Held):
        return granted
    work = _Pass(engine, granted, stopping)
    if anew:
        work.state.walks.clear()
    try:
        rotates = _is_partitioned(engine)
        if rotates:
            rotation.make_ahead(engine)
        for table in expiries(settings):
            if rotates and isinstance(table, Events):
                work.rotate(table, now)
            else:
                work.walk(table, now)
    except ConfigurationError as exc:
        work.end(str(exc))
        raise
    work.end(None)
    return work.state


class _Pass:
    """One pass over the tables, by the holder of the lease."""

    def __init__(self, engine: sa.Engine, grant: Grant, stopping: threading.Event) -> None:
        """Go on from the state that the lease came with."""
        self.state = State.read(grant.position)
        self.state.deleted.clear()
        self._engine = engine
        self._token = grant.token
        self._version = grant.version
        self._stopping = stopping
        self._pace = Pace()

    def walk(self, table: Expiry, now: datetime) -> None:
        """Delete what is old enough of one table, if a walk over it is due."""
        walk = self.state.walks.get(table.table)
        if walk is None or now >= walk.started_at + table.again:
            walk = self.state.walks[table.table] = Walk(started_at=now)
        elif walk.is_over and not table.goes_on:
            return
        while not self._stopping.is_set():
            started = time.monotonic()
            if self._batch(table, walk):
                return
            self._stopping.wait(self._pace.after(time.monotonic() - started))

    def rotate(self, events: Events, now: datetime) -> None:
        """Drop the partitions of events that are old enough."""
        walk = self.state.walks["events"] = Walk(started_at=now, is_over=True)
        dropped, walk.held = rotation.rotate(self._engine, events, self._stopping, self._renew)
        self.state.deleted["partitions"] = dropped

    def end(self, error: str | None) -> None:
        """Store that the pass is over, and give the lease back."""
        with transaction(self._engine) as connection:
            self.state.passed_at = connection.scalar(_NOW)
            self._advance(connection)
            lease.report(connection, NAME, self._token, error)
            lease.resign(connection, NAME, self._token)

    def _batch(self, table: Expiry, walk: Walk) -> bool:
        """Walk on by a batch in a transaction of its own; return whether the walk is over."""
        with transaction(self._engine) as connection:
            table.lock(connection)
            # Before anything is read, so that on SQLite nobody else writes from here on.
            lease.renew(connection, NAME, self._token, self._version, LEASE_SECONDS)
            batch = table.batch(connection, walk.cursor, self._pace.size)
            walk.cursor, walk.is_over, walk.held = batch.cursor, batch.is_over, batch.held
            self.state.deleted[table.table] = self.state.deleted.get(table.table, 0) + batch.deleted
            self._advance(connection)
        return batch.is_over

    def _renew(self) -> None:
        with transaction(self._engine) as connection:
            lease.renew(connection, NAME, self._token, self._version, LEASE_SECONDS)

    def _advance(self, connection: sa.Connection) -> None:
        stored = self.state.to_json()
        lease.advance(connection, NAME, self._token, self._version, stored, LEASE_SECONDS)
        self._version += 1


class Retention:
    """Makes passes on a thread of its own, whenever one is due on this database."""

    def __init__(self, engine: sa.Engine, settings: Settings, holder: str) -> None:
        """`holder` is the relay's name, as in the leases of its routes."""
        self._engine = engine
        self._settings = settings
        self._holder = holder
        self._stopping = threading.Event()
        self._told: str | None = None
        self._thread = threading.Thread(target=self._run, name="relay-retention")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run while a block lasts; at its end a batch that is under way is finished."""
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except (DatabaseUnavailableError, LeaseLostError) as exc:
                self._tell(logging.WARNING, "retention waits", exc)
            except ConfigurationError as exc:
                self._tell(logging.ERROR, "retention cannot work", exc)
            except Exception as exc:  # noqa: BLE001  # the routes go on without it
                self._tell(logging.ERROR, "retention broke off", exc)
            else:
                self._told = None
            self._stopping.wait(LOOK_SECONDS)

    def _look(self) -> None:
        """Make a pass if the last one, whoever made it, is long enough ago."""
        if not (self._settings.retention.is_on or _is_partitioned(self._engine)):
            return
        if not self._is_due():
            return
        state = sweep(self._engine, self._settings, self._holder, self._stopping)
        if isinstance(state, State) and any(state.deleted.values()):
            log.info("retention deleted rows", extra=dict(state.deleted))

    def _is_due(self) -> bool:
        query = sa.select(checkpoint.c.position, clock.now()).where(checkpoint.c.route == NAME)
        with transaction(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return True
        passed_at = State.read(row[0]).passed_at
        now: datetime = row[1]
        return passed_at is None or now >= passed_at + PASS

    def _tell(self, level: int, event: str, exc: Exception) -> None:
        """Log an error once, not at each look."""
        if str(exc) != self._told:
            facts = {"kind": type(exc).__name__, "error": str(exc)}
            log.log(level, event, extra=facts, exc_info=event == "retention broke off")
        self._told = str(exc)


def _is_partitioned(engine: sa.Engine) -> bool:
    if engine.dialect.name != "postgresql":
        return False
    with transaction(engine) as connection:
        return is_partitioned(connection)
