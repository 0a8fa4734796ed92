"""The relay's side of the database: its engine, and the one place where errors become ours."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from outbox.errors import ConfigurationError, DatabaseUnavailableError
from outbox.settings import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_POSTGRES_OPTIONS: Final[dict[str, Any]] = {
    "application_name": "outbox relay",
    # A server that vanished is noticed within seconds, not when the system gives it up.
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "tcp_user_timeout": 10_000,
    # A connection pooler may give each transaction another session, where nothing is prepared.
    "prepare_threshold": None,
}

_WRONG: Final = ("42", "3F", "28", "3D")
"""Classes of SQLSTATE that waiting does not cure: no such table, right, role or database."""


def make_engine(url: sa.URL) -> sa.Engine:
    """Make the relay's engine: as many connections as its routes need, none left hanging."""
    options: dict[str, Any] = {"poolclass": sa.QueuePool, "pool_size": 5, "max_overflow": -1}
    if (url.get_backend_name(), url.get_driver_name()) != ("postgresql", "psycopg"):
        return sa.create_engine(url, **options)
    own = {name: _POSTGRES_OPTIONS[name] for name in _POSTGRES_OPTIONS.keys() - url.query}
    # Its writes rest on their conditions; a stricter default would only fail some of them.
    engine = sa.create_engine(url, connect_args=own, isolation_level="READ COMMITTED", **options)
    sa.event.listen(engine, "do_connect", _connect)
    return engine


def _connect(_dialect: object, _record: object, arguments: Any, options: Any) -> Any:
    from relay.silence import ListeningConnection  # noqa: PLC0415  # needs psycopg

    return ListeningConnection.connect(*arguments, **options)


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run a block in a transaction of its own.

    Raises `DatabaseUnavailableError` where waiting may help: then the block may have been
    committed or not. Raises `ConfigurationError` where tables or rights are missing.
    """
    try:
        with engine.begin() as connection:
            yield connection
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
    return DatabaseUnavailableError(f"{_name(engine)} does not answer: {exc.orig}")


def _name(engine: sa.Engine) -> str:
    return shown(engine.url)
