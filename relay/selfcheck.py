"""What about the database makes the relay slower or less safe than it could be, and what to do.

A relay tells it once when it starts; `outbox doctor` tells it with all the rest.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from outbox.engine import is_psycopg, is_pymysql
from outbox.errors import DatabaseUnavailableError, OutboxError
from outbox.retry import BackOff
from relay.database import errors
from relay.finding import Finding
from relay.pooler import Pooling, find_pooling
from relay.selfcheck_mariadb import look_at_server
from relay.sql import statements

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping

    import sqlalchemy as sa

log = logging.getLogger(__name__)

SQL: Final = {name: text.decode() for name, text in statements("selfcheck").items()}

OLDEST: Final = 130_000
"""PostgreSQL 13: the first one with transaction ids of 64 bits in SQL."""
SHORT_SECONDS: Final = 30.0
"""A time-out below this may end what the relay does in earnest."""
FULL_SHARE: Final = 0.9
"""Of the connections that the server takes."""
RETRY_SECONDS: Final = 10.0

_LIMITS: Final = (
    "statement_timeout",
    "lock_timeout",
    "transaction_timeout",
    "idle_session_timeout",
)
_DURABLE: Final = ("fsync", "full_page_writes")


def look(engine: sa.Engine) -> list[Finding]:
    """Look at the server as the relay's role sees it, or at the file of SQLite.

    Raises `DatabaseUnavailableError` and `ConfigurationError`.
    """
    if engine.dialect.name == "sqlite":
        with errors(engine), engine.connect() as connection:
            return [judge_journal(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())]
    if is_pymysql(engine.url):
        with errors(engine), engine.connect() as connection:
            return look_at_server(connection)
    if not is_psycopg(engine.url):
        return []
    with errors(engine):
        with engine.begin() as connection:
            rows = connection.exec_driver_sql(SQL["settings"])
            settings: dict[str, str] = {row.name: row.setting for row in rows}
            used: int = connection.exec_driver_sql(SQL["connections"]).scalar_one()
        pooling = find_pooling(engine)
    return [*judge(settings, used), judge_pooling(pooling)]


def judge(settings: Mapping[str, str], used: int) -> Iterator[Finding]:
    """Say what settings of PostgreSQL mean for the relay, and so many connections in use."""
    yield _version(settings)
    yield _durability(settings)
    yield _limits(settings)
    yield _transactions(settings)
    yield _connections(settings, used)


def judge_pooling(pooling: Pooling) -> Finding:
    """Say what a pooler means for the relay."""
    match pooling:
        case Pooling.NONE:
            return Finding("pooler", "ok", "no pooler between the relay and its database")
        case Pooling.SESSION:
            return Finding("pooler", "ok", "a pooler that lends a session for each connection")
        case Pooling.TRANSACTION:
            return Finding(
                "pooler",
                "degraded",
                "a pooler in transaction mode: nothing can be notified through it, so the doorbell"
                " does not reach the relay, which only polls",
                "let database_url of the relay lead to the server itself, if a fifth of a second"
                " matters",
            )


def judge_journal(mode: str) -> Finding:
    """Say what the journal mode of a SQLite file means for the application beside the relay."""
    if mode == "wal":
        return Finding("journal", "ok", "a write-ahead log: nobody waits for who reads")
    return Finding(
        "journal",
        "degraded",
        f"journal_mode is {mode}, so the relay and the application lock each other out",
        "keep the file where it can have a write-ahead log, not on a network's file system",
    )


def tell(engine: sa.Engine, stop: threading.Event) -> None:
    """Log once what is degraded, as soon as the database answers."""
    back_off = BackOff(RETRY_SECONDS)
    while not stop.is_set():
        try:
            findings = look(engine)
        except DatabaseUnavailableError:
            # The routes wait for it as well, and say so.
            stop.wait(back_off.next())
        except OutboxError as exc:
            log.warning("the database was not checked", extra={"error": str(exc)})
            return
        else:
            for finding in findings:
                if finding.state != "ok":
                    facts = {"check": finding.check, "found": finding.found, "do": finding.advice}
                    log.warning("the database is not at its best", extra=facts)
            return


def _version(settings: Mapping[str, str]) -> Finding:
    version = f"PostgreSQL {settings['server_version']}"
    if int(settings["server_version_num"]) >= OLDEST:
        return Finding("version", "ok", version)
    return Finding("version", "failed", version, "use PostgreSQL 13 or newer")


def _durability(settings: Mapping[str, str]) -> Finding:
    off = [name for name in _DURABLE if settings[name] == "off"]
    if off:
        return Finding(
            "durability",
            "degraded",
            f"{' and '.join(off)} off: a power cut may destroy the database",
            f"set {' and '.join(f'{name} = on' for name in off)} in postgresql.conf",
        )
    if settings["synchronous_commit"] == "off":
        return Finding(
            "durability",
            "degraded",
            "synchronous_commit is off: a crash of the server may take back transactions whose"
            " events have been delivered",
            "set synchronous_commit = on for the roles that emit",
        )
    return Finding("durability", "ok", "a commit survives a crash of the server")


def _limits(settings: Mapping[str, str]) -> Finding:
    short = {
        name: int(settings[name]) / 1000
        for name in _LIMITS
        if 0 < int(settings.get(name, 0)) < SHORT_SECONDS * 1000
    }
    if not short:
        return Finding("time-outs", "ok", f"none is shorter than {SHORT_SECONDS:g} s")
    listed = ", ".join(f"{name} {seconds:g} s" for name, seconds in short.items())
    return Finding(
        "time-outs",
        "degraded",
        f"{listed}: the server may cut the relay off while it reads a large page or rests",
        "; ".join(f"ALTER ROLE … SET {name} = 0" for name in short) + " for the relay's role",
    )


def _transactions(settings: Mapping[str, str]) -> Finding:
    if settings["default_transaction_read_only"] == "on":
        return Finding(
            "transactions",
            "failed",
            "transactions are read-only by default, so no position can be stored",
            "ALTER ROLE … SET default_transaction_read_only = off for the relay's role; on a"
            " standby let database_url lead to the primary",
        )
    isolation = settings["default_transaction_isolation"]
    if isolation == "serializable":
        return Finding(
            "transactions",
            "degraded",
            "pages are read in serializable transactions, which every writer pays for",
            "ALTER ROLE … SET default_transaction_isolation = 'read committed' for the relay's"
            " role",
        )
    return Finding("transactions", "ok", f"read and write, {isolation} by default")


def _connections(settings: Mapping[str, str], used: int) -> Finding:
    most = int(settings["max_connections"]) - int(settings["superuser_reserved_connections"])
    found = f"{used} of {most} connections of the server are in use"
    if used < FULL_SHARE * most:
        return Finding("connections", "ok", found)
    return Finding(
        "connections",
        "degraded",
        f"{found}: a relay that has to connect again may find none free",
        "raise max_connections, or put a pooler before the applications",
    )
