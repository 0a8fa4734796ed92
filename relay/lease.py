"""The lease: the time-limited right to run one route, by the database's clock.

A relay that holds it has a fencing token, which grows with each lease. Every write of the holder
names its token and the version of the position that it knows, so a holder that was replaced, or
whose position was moved by an operator, changes no row and learns that it lost. Functions work
inside the caller's transaction.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from outbox.clock import now, now_plus
from outbox.dialect import insert_unless_there
from outbox.errors import LeaseLostError
from outbox.table import outbox_checkpoint as checkpoint
from outbox.table import outbox_incarnation as incarnation

if TYPE_CHECKING:
    from collections.abc import Mapping

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that goes on while the machine sleeps, where there is one."""

PAUSED: Final = "(paused)"
"""What the holder of a paused route's lease begins with; no relay is called so."""
_FOR_GOOD: Final = 100 * 365 * 86_400.0
"""Seconds."""


# Made once, because a busy route writes some twenty times a second.
_RENEW: Final = (
    sa.update(checkpoint)
    .where(
        checkpoint.c.route == sa.bindparam("known_route"),
        checkpoint.c.token == sa.bindparam("known_token"),
        checkpoint.c.version == sa.bindparam("known_version"),
        checkpoint.c.expires_at > now(),
    )
    .values(expires_at=now_plus(sa.bindparam("seconds", type_=sa.Float)))
)
_ADVANCE: Final = _RENEW.values(
    position=sa.bindparam("position"), version=sa.bindparam("version"), advanced_at=now()
)
_ADVANCE_ALIVE: Final = _ADVANCE.where(
    sa.select(incarnation.c.id).where(incarnation.c.id == sa.bindparam("alive")).exists()
)


@dataclass(frozen=True, slots=True)
class Grant:
    """The lease, as it was given."""

    route: str
    identity: str
    """What tells the route apart from those that are called the same in other databases."""
    token: int
    version: int
    position: Mapping[str, Any] | None
    """None where the route never ran."""
    error: str | None
    """Why the route stood still when it was last run."""


@dataclass(frozen=True, slots=True)
class Held:
    """Another relay has the lease, or an operator who has paused the route."""

    holder: str

    @property
    def is_paused(self) -> bool:
        """Nobody gets it before the operator resumes the route."""
        return self.holder.startswith(PAUSED)


class Trust:
    """How long a holder may believe that it still holds the lease, without asking."""

    def __init__(self, seconds: float, asked_at: float) -> None:
        """Take the length of the lease, and the time before it was asked for."""
        self._seconds = seconds
        self._until = asked_at + seconds

    @staticmethod
    def clock() -> float:
        """Return the local time; take it before the request that it is meant for is sent."""
        return time.clock_gettime(_CLOCK)

    def extend(self, asked_at: float) -> None:
        """Count anew from before a request that renewed the lease."""
        self._until = asked_at + self._seconds

    def seconds_left(self) -> float:
        """Return how long it lasts; negative once it is over."""
        return self._until - self.clock()


def acquire(connection: sa.Connection, route: str, holder: str, seconds: float) -> Grant | Held:
    """Take the lease if nobody has it, or this very holder in an earlier term that is over.

    The route's row is made where there is none. A holder's name is never used twice at a time.
    """
    free = sa.or_(
        checkpoint.c.expires_at.is_(None),
        checkpoint.c.expires_at <= now(),
        checkpoint.c.holder == holder,
    )
    query = sa.select(checkpoint.c.holder, free).where(checkpoint.c.route == route)
    found = connection.execute(query).one_or_none()
    if found is None:
        _create(connection, route)
    elif not found[1]:
        return Held(found[0] or "")
    taken = connection.execute(
        sa.update(checkpoint)
        .where(checkpoint.c.route == route, free)
        .values(holder=holder, token=checkpoint.c.token + 1, expires_at=now_plus(seconds))
    )
    # The row is locked now, so what is read is what was written.
    row = connection.execute(sa.select(checkpoint).where(checkpoint.c.route == route)).one()
    if taken.rowcount != 1:
        return Held(row.holder or "")
    return Grant(route, row.identity, row.token, row.version, row.position, row.error)


def _create(connection: sa.Connection, route: str) -> None:
    insert = insert_unless_there(checkpoint, connection.dialect, ["route"])
    connection.execute(insert.values(route=route))


def renew(connection: sa.Connection, route: str, token: int, version: int, seconds: float) -> None:
    """Hold the lease for longer; raises `LeaseLostError` where it is over or the position moved."""
    _write(connection, _RENEW, route, token, version, {"seconds": seconds})


def advance(
    connection: sa.Connection,
    route: str,
    token: int,
    version: int,
    position: Mapping[str, Any],
    seconds: float,
) -> None:
    """Store a position and hold the lease for longer; the version grows by one.

    Raises `LeaseLostError` where the lease is over, the position was moved by someone else, or
    the server is no longer the incarnation that the position was made on: then the position may
    be ahead of the rows that survived.
    """
    values = {"position": position, "version": version + 1, "seconds": seconds}
    server = position.get("server")
    if server is None:
        _write(connection, _ADVANCE, route, token, version, values)
    else:
        values["alive"] = server["incarnation"]
        _write(connection, _ADVANCE_ALIVE, route, token, version, values)


def resign(connection: sa.Connection, route: str, token: int) -> bool:
    """Give the lease back, so that another relay need not wait; False where it was lost before."""
    statement = (
        sa.update(checkpoint)
        .where(checkpoint.c.route == route, checkpoint.c.token == token)
        .values(holder=None, expires_at=None)
    )
    return connection.execute(statement).rowcount == 1


def pause(connection: sa.Connection, route: str, name: str, reason: str) -> bool:
    """Take the lease for good, from whoever has it; False where the route is paused already.

    A relay that has it learns so by its next write, and publishes nothing more then.
    """
    _create(connection, route)
    statement = (
        sa.update(checkpoint)
        .where(checkpoint.c.route == route, sa.not_(is_paused()))
        .values(
            holder=f"{PAUSED} {name}",
            token=checkpoint.c.token + 1,
            expires_at=now_plus(_FOR_GOOD),
            error=reason,
            error_at=now(),
        )
    )
    return connection.execute(statement).rowcount == 1


def resume(connection: sa.Connection, route: str) -> bool:
    """Let relays have the lease of a paused route again; False where it is not paused."""
    statement = (
        sa.update(checkpoint)
        .where(checkpoint.c.route == route, is_paused())
        .values(holder=None, expires_at=None, error=None, error_at=None)
    )
    return connection.execute(statement).rowcount == 1


def is_paused() -> sa.ColumnElement[bool]:
    """Tell of a row whether its route is paused."""
    return sa.func.coalesce(checkpoint.c.holder, "").startswith(PAUSED)


def report(connection: sa.Connection, route: str, token: int, error: str | None) -> None:
    """Say for `outbox status` why the route stands still, or that it no longer does."""
    connection.execute(
        sa.update(checkpoint)
        .where(checkpoint.c.route == route, checkpoint.c.token == token)
        .values(error=error, error_at=sa.null() if error is None else now())
    )


def _write(
    connection: sa.Connection,
    statement: sa.Update,
    route: str,
    token: int,
    version: int,
    values: Mapping[str, Any],
) -> None:
    known = {"known_route": route, "known_token": token, "known_version": version}
    if connection.execute(statement, known | dict(values)).rowcount != 1:
        raise LeaseLostError(
            f"route {route}: the lease is over, or its position was moved by someone else, or the"
            " database server was replaced; going on from the stored position"
        )
