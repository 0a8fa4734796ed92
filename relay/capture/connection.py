"""The connection that PostgreSQL is read on, and the one place where its errors become ours."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import ByteaBinaryLoader

from outbox.errors import ConfigurationError
from outbox.settings import shown
from relay.database import unavailable
from relay.sql import statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import sqlalchemy as sa

    from outbox.rows import Row

SQL: Final = statements("capture")


class ReadConnection:
    """One connection, opened when it is needed and again after it was lost.

    It is in autocommit mode, because a statement in a transaction with an id of its own does not
    see that id as ended. Where the session is the connection's own, a statement is planned once
    for all positions: to plan it takes six times as long as to find out that there is nothing.
    A connection pooler may give each statement another session, so there nothing is prepared.
    """

    def __init__(self, engine: sa.Engine) -> None:
        """Connect as the engine does, but outside its pool."""
        self._pool = engine.pool.recreate()
        self._name = shown(engine.url)
        self._connection: psycopg.Connection[Any] | None = None
        self._has_session = False
        """No pooler is between: settings and plans last."""

    def rows(
        self, name: str, parameters: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a named statement and return its rows; see `Capture` for what is raised."""
        with self._errors():
            return _rows(self._open(), name, parameters)

    def page(self, parameters: Mapping[str, object]) -> list[Row]:
        """Read a page, its text as the bytes that the server sends."""
        with self._errors(), self._open().cursor(binary=True) as cursor:
            cursor.adapters.register_loader("text", ByteaBinaryLoader)
            if self._has_session:
                return cursor.execute(SQL["next_page"], parameters).fetchall()
            with cursor.connection.pipeline():  # one transaction, one round trip
                cursor.connection.execute(SQL["lead_planner"], {"is_local": True})
                cursor.execute(SQL["next_page"], parameters)
            return cursor.fetchall()

    def run(self, name: str) -> None:
        """Run a named statement that returns no rows."""
        with self._errors():
            self._open().execute(SQL[name])

    def close(self) -> None:
        """Close the connection; the next statement opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = connect(self._pool, self._name)
            self._has_session = _has_session(self._connection)
            if self._has_session:
                plan_once(self._connection)
            self._check(self._connection)
        return self._connection

    def _check(self, connection: psycopg.Connection[Any]) -> None:
        """Raise `ConfigurationError` unless numbers on this server mean what the capture needs."""
        if _rows(connection, "is_standby")[0][0]:
            raise self._standby()
        for cache, increment, cycle, sequence in _rows(connection, "numbering"):
            if (cache, increment, cycle) != (1, 1, False):
                raise ConfigurationError(
                    f"events of {self._name} are not numbered one by one (cache {cache},"
                    f" increment {increment}, cycle {cycle}), so they could arrive out of order:"
                    f" run `ALTER SEQUENCE {sequence} CACHE 1 INCREMENT 1 NO CYCLE`"
                )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate, and give up the connection after any error: the next call opens another."""
        try:
            yield
        except psycopg.Error as exc:
            self.close()
            raise self._translated(exc) from exc
        except ConfigurationError:
            self.close()
            raise

    def _translated(self, exc: psycopg.Error) -> Exception:
        match exc:
            case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn():
                return ConfigurationError(
                    f"the outbox tables of {self._name} are missing or old"
                    f" ({exc.diag.message_primary}): run `outbox migrate`"
                )
            case psycopg.errors.InsufficientPrivilege():
                return ConfigurationError(
                    f"the relay's role may not read {self._name} ({exc.diag.message_primary}): it"
                    " needs SELECT on outbox_event, SELECT and INSERT on outbox_incarnation, and"
                    " EXECUTE on pg_control_system()"
                )
            case psycopg.errors.FeatureNotSupported() | psycopg.errors.ReadOnlySqlTransaction():
                return self._standby()
            case psycopg.OperationalError() | psycopg.InterfaceError():
                return unavailable(self._name, exc.sqlstate, exc)
            case _:
                return exc

    def _standby(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self._name} is a standby or read-only: let database_url point to the primary,"
            " because a standby does not tell which transactions are still running"
        )


def connect(pool: sa.Pool, name: str) -> psycopg.Connection[Any]:
    """Open a connection as a pool does that stays outside of it, in autocommit mode.

    Raises `psycopg.Error`, and `ConfigurationError` for another driver.
    """
    pooled = pool.connect()
    connection = pooled.driver_connection
    pooled.detach()
    if not isinstance(connection, psycopg.Connection):
        pooled.close()
        raise ConfigurationError(
            f"the relay reads PostgreSQL by psycopg 3, not by {type(connection).__module__}: let"
            f" the database_url of {name} start with postgresql+psycopg://"
        )
    connection.rollback()
    connection.autocommit = True
    connection.prepare_threshold = None
    return connection


def plan_once(connection: psycopg.Connection[Any]) -> None:
    """Have each statement of a session prepared, and run by one plan from then on."""
    connection.prepare_threshold = 0
    # By its value an integer would have one of three types, and each its own plan.
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    connection.execute(SQL["lead_planner"], {"is_local": False})


def _has_session(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server's session is this connection's own, and not lent by a pooler."""
    return _rows(connection, "session") == [(connection.info.backend_pid,)]


def _rows(
    connection: psycopg.Connection[Any], name: str, parameters: Mapping[str, object] | None = None
) -> list[tuple[Any, ...]]:
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(SQL[name], parameters).fetchall()
