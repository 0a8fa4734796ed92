"""Finds out, without any right, whether a pooler stands between the relay and PostgreSQL.

PostgreSQL tells each client at login the process id that would have to be named to cancel its
query. A pooler makes that up, because it belongs to a client, and its sessions do not.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlalchemy as sa

LOOKS: Final = 3
"""So often two connections look at their sessions before they are taken to keep them."""


class Pooling(Enum):
    """What a connection's session is."""

    NONE = "none"
    """It is the connection's own: no pooler is there."""
    SESSION = "session"
    """A pooler lends one for as long as the connection lasts."""
    TRANSACTION = "transaction"
    """A pooler lends one for a transaction; the next may be in another."""


def find_pooling(engine: sa.Engine) -> Pooling:
    """Tell what is between an engine on PostgreSQL by psycopg and its server.

    Two connections that see one session, or one that sees two, are in transaction mode. A pool
    lends the session that was used last, so that both see one; or the one that has rested
    longest, so that one sees two in a row; other clients only mix this up further.
    """
    # Each is taken out of the engine's pool, which may have room for one only.
    with _apart(engine) as first, _apart(engine) as second:
        driver: Any = first.connection.dbapi_connection
        firsts = {_session(first)}
        if firsts == {driver.info.backend_pid}:
            return Pooling.NONE
        seconds: set[int] = set()
        for _ in range(LOOKS):
            firsts.add(_session(first))
            seconds.add(_session(second))
            firsts.add(_session(first))
            if len(firsts) > 1 or len(seconds) > 1 or firsts & seconds:
                return Pooling.TRANSACTION
    return Pooling.SESSION


def _apart(engine: sa.Engine) -> sa.Connection:
    connection = engine.connect()
    connection.detach()
    return connection


def _session(connection: sa.Connection) -> int:
    """Return the process id of the session that a transaction is given."""
    found: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    connection.rollback()
    return found
