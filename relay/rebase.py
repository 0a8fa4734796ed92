"""The way out after a dump was restored into another server: `outbox relay --rebase`.

Transaction ids of the old server mean nothing on the new one. What the old positions say about the
restored rows still holds by value, though: an id is below or above another. So, in one transaction
that keeps every writer out:

1. For each route with a position of another server, find the first row that it has not delivered.
   A position of another kind of database says nothing about these rows: its route begins anew.
2. Stamp the rows whose transaction has not ended here, although they are visible, with an id that
   has: they would be read again for ever. Only now, because step 1 needs the ids as they were.
3. Set each such route to the row before its first undelivered one, as of now. Nothing is lost;
   what was delivered above is sent again, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg
import sqlalchemy as sa

from outbox.errors import ConfigurationError, DatabaseUnavailableError, ForeignPositionError
from outbox.table import GUARD, outbox_checkpoint, outbox_event
from relay.capture import open_capture
from relay.capture.position import (
    KINDS,
    SNAPSHOT,
    LatePass,
    Server,
    SnapshotPosition,
    read_snapshot,
)
from relay.database import transaction
from relay.lease import is_paused
from relay.sql import statements

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relay.capture import Position

_SQL: Final = {name: sa.text(text.decode()) for name, text in statements("rebase").items()}
_GUARD_NAME: Final = "outbox_event_own"


@dataclass(frozen=True, slots=True)
class Rebased:
    """What a rebase did."""

    counts: Mapping[str, int]
    """Events that will be sent again, for each route that was moved."""

    @property
    def count(self) -> int:
        """Events that will be sent again, on all routes together."""
        return sum(self.counts.values())


def rebase(engine: sa.Engine, route: str) -> Rebased:
    """Move a route whose position was made on another server to this one.

    Every other route in the same case is moved with it, because the rows lose the ids that their
    positions speak of. A route that is at home here, or has no position yet, is left alone. It
    waits for open writers, and keeps new ones out until it is done: one walk through the table
    for each route.

    On SQLite and MariaDB numbers hold wherever the rows are, so only this route is moved, and only
    where its position is of another kind of database, or ahead of the numbers that are drawn now:
    to the beginning.
    """
    if engine.dialect.name != "postgresql":
        return _rebase_by_number(engine, route)
    here = _server(engine)
    try:
        engine = engine.execution_options(isolation_level="READ COMMITTED")
        with engine.begin() as connection:
            return _rebase(connection, route, here)
    except sa.exc.OperationalError as exc:
        raise DatabaseUnavailableError(f"the database does not answer: {exc.orig}") from exc
    except sa.exc.ProgrammingError as exc:
        if isinstance(exc.orig, psycopg.errors.InsufficientPrivilege):
            raise ConfigurationError(
                f"the role may not rebase ({exc.orig.diag.message_primary}): use the owner of"
                " outbox_event"
            ) from exc
        raise


def _server(engine: sa.Engine) -> Server:
    capture = open_capture(engine)
    try:
        now = capture.now()
    finally:
        capture.close()
    assert isinstance(now, SnapshotPosition)  # noqa: S101  # the dialect is PostgreSQL
    return now.server


def _rebase_by_number(engine: sa.Engine, route: str) -> Rebased:
    capture = open_capture(engine)
    try:
        with transaction(engine) as connection:
            stored = _stored(connection).get(route)
            if stored is None or stored.get("kind") not in KINDS:
                return Rebased({})
            try:
                capture.position(stored)
            except ForeignPositionError:
                _store(connection, route, capture.beginning())
                return Rebased({route: _event_count(connection)})
            return Rebased({})
    finally:
        capture.close()


def _rebase(connection: sa.Connection, route: str, here: Server) -> Rebased:
    connection.execute(_SQL["keep_writers_out"])
    foreign = _foreign(connection, route, here)
    floors = {name: _floor(connection, position) for name, position in foreign.items()}
    if foreign:
        _stamp(connection)
        snapshot = connection.scalar(_SQL["snapshot"])
        for name, (floor, _) in floors.items():
            _store(connection, name, SnapshotPosition(floor, snapshot, None, here))
    return Rebased({name: count for name, (_, count) in floors.items()})


def _stored(connection: sa.Connection) -> dict[str, dict[str, Any]]:
    """Return the positions by route, and keep relays from writing them meanwhile."""
    columns = outbox_checkpoint.c
    rows = connection.execute(sa.select(columns.route, columns.position).with_for_update())
    return {row.route: row.position for row in rows if row.position is not None}


def _foreign(
    connection: sa.Connection, route: str, here: Server
) -> dict[str, SnapshotPosition | None]:
    """Return the positions that say nothing about this server; None for one of another kind."""
    stored = _stored(connection)
    if route not in stored:
        return {}
    foreign: dict[str, SnapshotPosition | None] = {}
    for name, each in stored.items():
        if each.get("kind") == SNAPSHOT:
            position = read_snapshot(each)
            if position.server.system != here.system:
                foreign[name] = position
        elif each.get("kind") in KINDS:
            foreign[name] = None
    return foreign


def _event_count(connection: sa.Connection) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(outbox_event)) or 0


def _floor(connection: sa.Connection, position: SnapshotPosition | None) -> tuple[int, int]:
    """Return the number below the first undelivered row, and how many delivered ones are above."""
    if position is None:
        return 0, _event_count(connection)
    late = position.late or LatePass(position.snapshot, (), cursor=0)
    parameters = {
        "floor": position.floor,
        "snapshot": position.snapshot,
        "cursor": late.cursor,
        "transactions": [str(x) for x in late.transactions],
    }
    floor, count = connection.execute(_SQL["delivered"], parameters).one()
    return floor, count


def _stamp(connection: sa.Connection) -> None:
    connection.execute(sa.text(f"ALTER TABLE outbox_event DROP CONSTRAINT IF EXISTS {_GUARD_NAME}"))
    connection.execute(_SQL["stamp"])
    connection.execute(sa.text(GUARD))


def _store(connection: sa.Connection, route: str, position: Position) -> None:
    """Set the position; the new token turns away a relay that may still hold the route.

    A paused route stays paused.
    """
    columns = outbox_checkpoint.c
    holder, expires_at = (
        sa.case((is_paused(), column), else_=sa.null())
        for column in (columns.holder, columns.expires_at)
    )
    connection.execute(
        sa.update(outbox_checkpoint)
        .where(columns.route == route)
        .values(
            position=position.to_json(),
            version=columns.version + 1,
            token=columns.token + 1,
            holder=holder,
            expires_at=expires_at,
        )
    )
