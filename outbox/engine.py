"""Engines that this library makes of a URL.

On PostgreSQL they work behind a connection pooler; on SQLite beside an application that writes.

What stands in the URL wins over what stands here.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from outbox.dialect import MYSQL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncEngine

_ARGUMENTS: Final[dict[str, Any]] = {
    # A server that vanished is noticed within seconds, not when the system gives it up.
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "tcp_user_timeout": 10_000,
    # A connection pooler may give each transaction another session, where nothing is prepared.
    "prepare_threshold": None,
}
_ARGUMENTS_SQLITE: Final[dict[str, Any]] = {
    # Who writes takes turns with the application; the driver's own five seconds are soon over.
    "timeout": 30.0,
}
_ARGUMENTS_PYMYSQL: Final[dict[str, Any]] = {
    "connect_timeout": 10,
    # It has no other way to notice that a server vanished, and no statement of ours takes so long.
    "read_timeout": 60,
    "write_timeout": 60,
}
_TURNS: Final = 100
"""So many who write are waited for, one after the other, until a file gets its log."""


def make_engine(
    url: sa.URL, name: str, arguments: Mapping[str, Any] | None = None, **options: Any
) -> sa.Engine:
    """Make an engine; `name` is what the server shows of its connections.

    `arguments` are for the driver, beside those that stand here.
    """
    engine = sa.create_engine(url, connect_args=_arguments(url, name, arguments or {}), **options)
    _tame(engine)
    return engine


def make_async_engine(url: sa.URL, name: str) -> AsyncEngine:
    """Make an engine for asyncio, as above."""
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415  # needs greenlet

    engine = create_async_engine(url, connect_args=_arguments(url, name, {}))
    _tame(engine.sync_engine)
    return engine


_EXTRAS: Final = {
    "pymysql": "mariadb",
    "asyncmy": "asyncmy",
    "asyncpg": "asyncpg",
    "aiosqlite": "aiosqlite",
}


def missing_driver(error: ImportError) -> str:
    """Name a driver that is not installed, and how to get it."""
    extra = _EXTRAS.get(error.name or "")
    how = "" if extra is None else f": pip install 'outbox-relay[{extra}]'"
    return f"the driver {error.name!r}, which is not installed{how}"


def is_psycopg(url: sa.URL) -> bool:
    """Tell whether a URL leads to PostgreSQL by psycopg 3, sync or async."""
    return url.get_backend_name() == "postgresql" and url.get_driver_name() in {
        "psycopg",
        "psycopg_async",
    }


def is_pymysql(url: sa.URL) -> bool:
    """Tell whether a URL leads to MariaDB or MySQL by PyMySQL."""
    return url.get_backend_name() in MYSQL and url.get_driver_name() == "pymysql"


def _arguments(url: sa.URL, name: str, own: Mapping[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if is_psycopg(url):
        arguments = {"application_name": name, **_ARGUMENTS}
    elif is_pymysql(url):
        arguments = {"program_name": name, **_ARGUMENTS_PYMYSQL}
    elif url.get_backend_name() == "sqlite":
        arguments = _ARGUMENTS_SQLITE
    return {key: value for key, value in {**arguments, **own}.items() if key not in url.query}


def _tame(engine: sa.Engine) -> None:
    if is_psycopg(engine.url):
        sa.event.listen(engine, "connect", _expect_iso_dates)
    elif engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _write_ahead)


def _write_ahead(connection: Any, _record: object) -> None:
    """Have the file keep a write-ahead log, so that who reads and who writes do not wait.

    It is a property of the file, so the application's connections have it too. A file that cannot
    have it, in memory for instance, goes on as it was; and so does one that others write to for
    longer than this connection waits, until the next connection.
    """
    cursor = connection.cursor()
    try:
        for _ in range(_TURNS):
            if _begins_log(cursor):
                break
            # SQLite does not wait there for one who writes, whatever the time-out; here it does.
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("ROLLBACK")
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
    finally:
        cursor.close()


def _begins_log(cursor: Any) -> bool:
    """Ask for the log; return False where somebody writes at the moment."""
    try:
        cursor.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


def _expect_iso_dates(connection: Any, _record: object) -> None:
    """Have dates in ISO style, the only one that the driver reads, where the role has another.

    PgBouncer tracks this setting, so it stays with the client, whatever the session.
    """
    driver = getattr(connection, "driver_connection", connection)
    if not driver.info.parameter_status("DateStyle").startswith("ISO"):
        cursor = connection.cursor()
        cursor.execute("SET DateStyle TO ISO")
        cursor.close()
        connection.commit()
