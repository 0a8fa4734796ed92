"""The relay's side of the database: its engine, and the one place where errors become ours."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from outbox import engine as engines
from outbox.dialect import CONFLICT_NUMBERS, MISSING_NUMBERS, REFUSED_NUMBERS, mysql_number
from outbox.engine import is_psycopg, is_pymysql
from outbox.errors import ConfigurationError, DatabaseUnavailableError
from outbox.settings import shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

NAME: Final = "outbox relay"

_WRONG: Final = ("42", "3F", "28", "3D")
"""Classes of SQLSTATE that waiting does not cure: no such table, right, role or database."""

IDLE_SECONDS: Final = 2.0
"""A relay that is frozen, or whose machine is gone, must not keep the locks of its transaction:
the next holder of its lease would wait for them, perhaps for hours."""
_ENDS_WHEN_IDLE: Final = (
    f"SET LOCAL idle_in_transaction_session_timeout = {round(IDLE_SECONDS * 1000)}"
)

SILENT_SECONDS: Final = 30.0
"""Far longer than any statement of the relay takes before its first row: a server that is silent
for so long is given up."""
LOCK_SECONDS: Final = 10
"""MariaDB waits 50 s for a row and a day for a table by default."""
_ARGUMENTS_PYMYSQL: Final[dict[str, Any]] = {
    "read_timeout": SILENT_SECONDS,
    "write_timeout": SILENT_SECONDS,
    # MySQL, which has no such limit, takes the end of it for a comment.
    "init_command": (
        f"SET time_zone = '+00:00', innodb_lock_wait_timeout = {LOCK_SECONDS},"
        f" lock_wait_timeout = {LOCK_SECONDS}"
        f" /*M!100300 , idle_transaction_timeout = {round(IDLE_SECONDS)} */"
    ),
}

_LIMITS: Final = {
    "57014": "statement_timeout",
    "57P05": "idle_session_timeout",
    "25P04": "transaction_timeout",
}
"""The settings of a role that end its statements or sessions, by the SQLSTATE that they cause."""


def make_engine(url: sa.URL) -> sa.Engine:
    """Make the relay's engine: as many connections as its routes need, none left hanging."""
    options: dict[str, Any] = {"poolclass": sa.QueuePool, "pool_size": 5, "max_overflow": -1}
    if not (is_psycopg(url) or is_pymysql(url)):
        return engines.make_engine(url, NAME, **options)
    # Its writes rest on their conditions; a stricter default would only fail some of them.
    options["isolation_level"] = "READ COMMITTED"
    if is_pymysql(url):
        return engines.make_engine(url, NAME, _ARGUMENTS_PYMYSQL, **options)
    engine = engines.make_engine(url, NAME, **options)
    sa.event.listen(engine, "do_connect", _connect)
    return engine


def _connect(_dialect: object, _record: object, arguments: Any, options: Any) -> Any:
    from relay.silence import ListeningConnection  # noqa: PLC0415  # needs psycopg

    return ListeningConnection.connect(*arguments, **options)


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run a block in a transaction of its own.

    PostgreSQL and MariaDB end one in which they hear nothing for `IDLE_SECONDS`. Raises what
    `errors` does; after `DatabaseUnavailableError` the block may have been committed or not.
    """
    with errors(engine), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(_ENDS_WHEN_IDLE)
        yield connection


def statement(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """Run a block of one statement, which is committed when it is done.

    Raises as `transaction` does. On PostgreSQL it is a quarter of the messages: no BEGIN, no
    COMMIT, and no time limit, which only an open transaction needs. Elsewhere it is one.
    """
    return autocommit(engine) if engine.dialect.name == "postgresql" else transaction(engine)


@contextmanager
def autocommit(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run a block of statements that are each committed when they are done.

    Raises as `transaction` does.
    """
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    with errors(engine), alone.connect() as connection:
        yield connection


@contextmanager
def errors(engine: sa.Engine) -> Iterator[None]:
    """Translate what a block on an engine raises.

    Raises `DatabaseUnavailableError` where waiting may help, and `ConfigurationError` where tables
    or rights are missing.
    """
    try:
        yield
    except DBAPIError as exc:
        raise _translated(engine, exc) from exc
    except PoolTimeoutError as exc:
        raise DatabaseUnavailableError(f"{_name(engine)}: no connection is free") from exc


def _translated(engine: sa.Engine, exc: DBAPIError) -> Exception:
    name, number = shown(engine.url), mysql_number(exc)
    if number is not None:
        return _translated_mysql(name, number, exc)
    state: str | None = getattr(exc.orig, "sqlstate", None)
    code: int | None = getattr(exc.orig, "sqlite_errorcode", None)
    if state in {"42P01", "42703"} or code == sqlite3.SQLITE_ERROR:
        return _tables_missing(name, exc.orig)
    if (state is not None and state.startswith(_WRONG)) or code == sqlite3.SQLITE_NOTADB:
        return ConfigurationError(f"{name} refuses the relay: {exc.orig}")
    return unavailable(name, state, exc.orig)


def _translated_mysql(name: str, number: int, exc: DBAPIError) -> Exception:
    # The text stands behind the number.
    reason = exc.orig.args[-1] if exc.orig is not None else number
    if number in MISSING_NUMBERS:
        return _tables_missing(name, reason)
    if number in REFUSED_NUMBERS:
        return ConfigurationError(
            f"{name} refuses the relay: {reason}; correct the user, the password or the database in"
            " database_url, or GRANT the user what is missing"
        )
    return unavailable(name, "55P03" if number in CONFLICT_NUMBERS else None, reason)


def _tables_missing(name: str, reason: object) -> ConfigurationError:
    return ConfigurationError(
        f"the outbox tables of {name} are missing or old ({reason}): run `outbox migrate`"
    )


def unavailable(name: str, state: str | None, reason: object) -> DatabaseUnavailableError:
    """Say what kept a statement from being done that may well be done later."""
    reason = " ".join(str(reason).split())
    setting = _LIMITS.get(state or "")
    if setting is not None:
        return DatabaseUnavailableError(
            f"{name} cut the relay off by its {setting} ({reason}): `ALTER ROLE … SET {setting} ="
            " 0` for the relay's role"
        )
    if state == "25P03":
        return DatabaseUnavailableError(
            f"{name} ended a transaction in which the relay was silent for {IDLE_SECONDS:g} s"
        )
    if state == "55P03":
        return DatabaseUnavailableError(f"{name}: another holds a lock that is needed: {reason}")
    return DatabaseUnavailableError(f"{name} does not answer: {reason}")


def _name(engine: sa.Engine) -> str:
    return shown(engine.url)
