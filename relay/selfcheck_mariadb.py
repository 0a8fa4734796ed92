"""What settings of MariaDB mean for the relay (see `relay.selfcheck`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from relay.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OLDEST: Final = (10, 6)
"""The first one with SKIP LOCKED and JSON_TABLE, and the oldest that is still maintained."""
SHORT_SECONDS: Final = 30.0
"""A time-out below this may end what the relay does in earnest."""
FULL_SHARE: Final = 0.9
"""Of the connections that the server takes."""

_NAMES: Final = (
    "version",
    "innodb_flush_log_at_trx_commit",
    "innodb_doublewrite",
    "innodb_rollback_on_timeout",
    "max_statement_time",
    "wait_timeout",
    "read_only",
    "tx_read_only",
    "log_bin",
    "binlog_format",
    "max_connections",
)
_VARIABLES: Final = sa.text("SHOW VARIABLES WHERE Variable_name IN :names").bindparams(
    sa.bindparam("names", _NAMES, expanding=True)
)
_CONNECTIONS: Final = sa.text("SHOW GLOBAL STATUS LIKE 'Threads_connected'")


def look_at_server(connection: sa.Connection) -> list[Finding]:
    """Look at the server as the relay's session sees it."""
    variables = {row[0]: row[1] for row in connection.execute(_VARIABLES)}
    used = int(connection.execute(_CONNECTIONS).one()[1])
    return list(judge(variables, used))


def judge(variables: Mapping[str, str], used: int) -> Iterator[Finding]:
    """Say what variables of MariaDB mean for the relay, and so many connections in use."""
    yield _version(variables)
    yield _durability(variables)
    yield _limits(variables)
    yield _transactions(variables)
    yield _connections(variables, used)


def _version(variables: Mapping[str, str]) -> Finding:
    text = variables["version"]
    if "MariaDB" not in text:
        return Finding(
            "version", "failed", f"MySQL {text}", "the relay reads events from MariaDB only"
        )
    number, _, _ = text.partition("-")
    found = tuple(int(part) for part in re.findall(r"\d+", number)[:2])
    version = f"MariaDB {number}"
    if found >= OLDEST:
        return Finding("version", "ok", version)
    return Finding("version", "failed", version, "use MariaDB 10.6 or newer")


def _durability(variables: Mapping[str, str]) -> Finding:
    if variables["innodb_doublewrite"] == "OFF":
        return Finding(
            "durability",
            "degraded",
            "innodb_doublewrite is off: a power cut may destroy the database",
            "set innodb_doublewrite = ON",
        )
    flush = variables["innodb_flush_log_at_trx_commit"]
    if flush != "1":
        return Finding(
            "durability",
            "degraded",
            f"innodb_flush_log_at_trx_commit is {flush}: a crash may take back transactions whose"
            " events have been delivered",
            "set innodb_flush_log_at_trx_commit = 1",
        )
    return Finding("durability", "ok", "a commit survives a crash of the server")


def _limits(variables: Mapping[str, str]) -> Finding:
    short = {
        name: float(variables.get(name, 0))
        for name in ("max_statement_time", "wait_timeout")
        if 0 < float(variables.get(name, 0)) < SHORT_SECONDS
    }
    if not short:
        return Finding("time-outs", "ok", f"none is shorter than {SHORT_SECONDS:g} s")
    listed = ", ".join(f"{name} {seconds:g} s" for name, seconds in short.items())
    longer = " and ".join(f"{name} = {'0' if name[0] == 'm' else '28800'}" for name in short)
    return Finding(
        "time-outs",
        "degraded",
        f"{listed}: the server may cut the relay off while it reads a large page or rests",
        f"set {longer}",
    )


def _transactions(variables: Mapping[str, str]) -> Finding:
    for name in ("read_only", "tx_read_only"):
        if variables.get(name) == "ON":
            return Finding(
                "transactions",
                "failed",
                f"{name} is on, so no position can be stored",
                f"set {name} = OFF, or let database_url lead to the primary",
            )
    if variables["log_bin"] == "ON" and variables["binlog_format"] == "STATEMENT":
        return Finding(
            "transactions",
            "failed",
            "the binary log holds statements, so nothing can be written at READ COMMITTED, which"
            " relays and workers need",
            "set binlog_format = MIXED or ROW",
        )
    if variables["innodb_rollback_on_timeout"] == "ON":
        return Finding(
            "transactions",
            "degraded",
            "a lock that takes too long rolls the whole transaction back, and code that catches the"
            " error would commit the events that come after it",
            "set innodb_rollback_on_timeout = OFF",
        )
    return Finding("transactions", "ok", "read and write")


def _connections(variables: Mapping[str, str], used: int) -> Finding:
    most = int(variables["max_connections"])
    found = f"{used} of {most} connections of the server are in use"
    if used < FULL_SHARE * most:
        return Finding("connections", "ok", found)
    return Finding(
        "connections",
        "degraded",
        f"{found}: a relay that has to connect again may find none free",
        "raise max_connections",
    )
