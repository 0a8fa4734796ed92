"""The relay's side of the database: its engine, and the one place where errors become ours."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from outbox import engine as engines
from outbox.engine import is_psycopg
from outbox.errors import ConfigurationError, DatabaseUnavailableError
from outbox.settings import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME: Final = "outbox relay"

_WRONG: Final = ("42", "3F", "28", "3D")
"""Classes of SQLSTATE that waiting does not cure: no such table, right, role or database."""

IDLE_SECONDS: Final = 2.0
"""A relay that is frozen, or whose machine is gone, must not keep the locks of its transaction:
the next holder of its lease would wait for them, perhaps for hours."""
_ENDS_WHEN_IDLE: Final = (
    f"SET LOCAL idle_in_transaction_session_timeout = {round(IDLE_SECONDS * 1000)}"
)

_LIMITS: Final = {
    "57014": "statement_timeout",
    "57P05": "idle_session_timeout",
    "25P04": "transaction_timeout",
}
"""The settings of a role that end its statements or sessions, by the SQLSTATE that they cause."""


def make_engine(url: sa.URL) -> sa.Engine:
    """Make the relay's engine: as many connections as its routes need, none left hanging."""
    options: dict[str, Any] = {"poolclass": sa.QueuePool, "pool_size": 5, "max_overflow": -1}
    if not is_psycopg(url):
        return engines.make_engine(url, NAME, **options)
    # Its writes rest on their conditions; a stricter default would only fail some of them.
    engine = engines.make_engine(url, NAME, isolation_level="READ COMMITTED", **options)
    sa.event.listen(engine, "do_connect", _connect)
    return engine


def _connect(_dialect: object, _record: object, arguments: Any, options: Any) -> Any:
    from relay.silence import ListeningConnection  # noqa: PLC0415  # needs psycopg

    return ListeningConnection.connect(*arguments, **options)


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run a block in a transaction of its own.

    PostgreSQL ends one in which it hears nothing for `IDLE_SECONDS`. Raises what `errors` does;
    after `DatabaseUnavailableError` the block may have been committed or not.
    """
    with errors(engine), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(_ENDS_WHEN_IDLE)
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
    state: str | None = getattr(exc.orig, "sqlstate", None)
    code: int | None = getattr(exc.orig, "sqlite_errorcode", None)
    if state in {"42P01", "42703"} or code == sqlite3.SQLITE_ERROR:
        return ConfigurationError(
            f"the outbox tables of {_name(engine)} are missing or old ({exc.orig}): run"
            " `outbox migrate`"
        )
    if (state is not None and state.startswith(_WRONG)) or code == sqlite3.SQLITE_NOTADB:
        return ConfigurationError(f"{_name(engine)} refuses the relay: {exc.orig}")
    return unavailable(_name(engine), state, exc.orig)


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
