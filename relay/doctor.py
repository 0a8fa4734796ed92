"""Everything that a relay needs, looked at one by one: what `outbox doctor` shows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from outbox import clock, formats, migration, table
from outbox.dialect import DENIED_NUMBERS, is_mysql, mysql_number
from outbox.errors import ConfigurationError, OutboxError
from outbox.grants import RIGHTS, RIGHTS_MYSQL
from outbox.settings import shown
from outbox.transports import probe, transport_of
from relay.capture import open_capture
from relay.database import errors, transaction
from relay.finding import Finding
from relay.selfcheck import SQL, look

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.settings import Settings

PROBE_SECONDS: Final = 5.0
"""How long a broker may take to let this machine in."""
CLOCK_SECONDS: Final = 2.0
"""A difference of clocks that people notice."""

_ON_NO_ROW: Final = {
    "SELECT": "SELECT {column} FROM {table} WHERE FALSE",
    "INSERT": "INSERT INTO {table} ({column}) SELECT NULL FROM DUAL WHERE FALSE",
    "UPDATE": "UPDATE {table} SET {column} = NULL WHERE FALSE",
    "DELETE": "DELETE FROM {table} WHERE FALSE",
}


def examine(settings: Settings, engine: sa.Engine) -> Iterator[Finding]:
    """Look at the database, then at each route; what needs another thing first may be left out."""
    yield from _database(engine)
    yield from _routes(settings)


def _database(engine: sa.Engine) -> Iterator[Finding]:
    name = shown(engine.url)
    try:
        offset = _clock_offset(engine)
    except OutboxError as exc:
        yield _unreachable(engine, exc)
        return
    yield Finding("database", "ok", f"{name} answers")
    yield _clock(offset)
    try:
        yield from look(engine)
        tables = _tables(engine)
        yield tables
        if tables.state == "ok":
            rights = _rights(engine)
            yield rights
            if rights.state == "ok":
                yield _capture(engine)
    except OutboxError as exc:
        yield _unreachable(engine, exc)


def _unreachable(engine: sa.Engine, error: OutboxError) -> Finding:
    advice = "check database_url and the server"
    if "options" in engine.url.query:
        advice += "; PgBouncer takes `options` only with ignore_startup_parameters = options"
    return Finding("database", "failed", " ".join(str(error).split()), advice)


def _clock_offset(engine: sa.Engine) -> float:
    """Return how many seconds the clock of this machine is ahead of the database's."""
    with transaction(engine) as connection:
        connection.scalar(sa.select(1))
        before = time.time()
        theirs = connection.scalar(sa.select(clock.now()))
        after = time.time()
    return 0.0 if theirs is None else (before + after) / 2 - theirs.timestamp()


def _clock(offset: float) -> Finding:
    if abs(offset) < CLOCK_SECONDS:
        return Finding("clock", "ok", "the clock of this machine agrees with the database's")
    side = "ahead of" if offset > 0 else "behind"
    return Finding(
        "clock",
        "degraded",
        f"the clock of this machine is {abs(offset):.0f} s {side} the database's: leases go by"
        " the database's, but the time of events is that of the machine that emits them",
        "let all machines take the time from the network (NTP)",
    )


def _tables(engine: sa.Engine) -> Finding:
    inspector = sa.inspect(engine)
    # Those that a relay uses: MariaDB shows no others to its user.
    for wanted in [each for each in table.metadata.sorted_tables if each.name in RIGHTS["relay"]]:
        found = inspector.has_table(wanted.name) and inspector.get_columns(wanted.name)
        names = {column["name"] for column in found or ()}
        missing = [column.name for column in wanted.columns if column.name not in names]
        if missing:
            what = "is missing" if not names else f"lacks {', '.join(missing)}"
            return Finding("tables", "failed", f"{wanted.name} {what}", "run `outbox migrate`")
    try:
        current = migration.current(engine)
    except DBAPIError:
        # The table of revisions is of no use to a relay, so its role need not read it.
        return Finding("tables", "ok", "all there; their revision may not be read by this role")
    if current == migration.head():
        return Finding("tables", "ok", f"all there, at revision {current}")
    return Finding(
        "tables",
        "failed",
        f"they are at revision {current}, and this program is made for {migration.head()}",
        "run `outbox migrate` of the newest version in use",
    )


def _rights(engine: sa.Engine) -> Finding:
    if engine.dialect.name == "postgresql":
        who, lacking = "role", _lacking(engine)
    elif is_mysql(engine.dialect):
        who, lacking = "user", _lacking_mysql(engine)
    else:
        return Finding("rights", "ok", "those of the file")
    if not lacking:
        return Finding("rights", "ok", f"the {who} may do all that the relay does")
    grants = [f"GRANT {', '.join(names)} ON {relation}" for relation, names in lacking.items()]
    return Finding(
        "rights",
        "failed",
        f"the {who} may not " + ", ".join(f"{'/'.join(n)} {r}" for r, n in lacking.items()),
        "; ".join(f"{grant} TO this {who}" for grant in grants),
    )


def _lacking(engine: sa.Engine) -> dict[str, list[str]]:
    """Return what the role lacks, by relation."""
    needed = [
        (relation, privilege)
        for relation, privileges in RIGHTS["relay"].items()
        for privilege in privileges
    ]
    relations, privileges = map(list, zip(*needed, strict=True))
    parameters = {"relations": relations, "privileges": privileges}
    lacking: dict[str, list[str]] = {}
    with transaction(engine) as connection:
        for relation, privilege in connection.exec_driver_sql(SQL["rights"], parameters):
            lacking.setdefault(relation, []).append(privilege)
    return lacking


def _lacking_mysql(engine: sa.Engine) -> dict[str, list[str]]:
    """Return what the user lacks, by table; tried on no row, as grants are of many kinds.

    MariaDB looks at the right before it looks at the rows, or at anything else.
    """
    lacking: dict[str, list[str]] = {}
    with errors(engine), engine.connect() as connection:
        for name, privileges in RIGHTS_MYSQL["relay"].items():
            column = next(iter(table.metadata.tables[name].columns)).name
            for privilege in privileges:
                statement = _ON_NO_ROW[privilege].format(table=name, column=column)
                try:
                    connection.exec_driver_sql(statement)
                except DBAPIError as exc:
                    if mysql_number(exc) in DENIED_NUMBERS:
                        lacking.setdefault(name, []).append(privilege)
        connection.rollback()
    return lacking


def _capture(engine: sa.Engine) -> Finding:
    """Read as the relay does at its start; that checks the server's part in it as well."""
    try:
        capture = open_capture(engine)
        try:
            capture.now()
        finally:
            capture.close()
    except ConfigurationError as exc:
        return Finding("capture", "failed", str(exc))
    return Finding("capture", "ok", "events can be read, numbered one by one")


def _routes(settings: Settings) -> Iterator[Finding]:
    if not settings.routes:
        yield Finding(
            "routes", "degraded", "there is no route, so nothing is delivered", "add [routes.NAME]"
        )
    for name, route in settings.routes.items():
        try:
            is_asked = probe(name, route, PROBE_SECONDS, settings.url)
            if route.schemas is not None:
                _, options = transport_of(name, route, settings.url)
                formats.probe(name, route.schemas, options, PROBE_SECONDS)
        except OutboxError as exc:
            yield Finding(f"route {name}", "failed", str(exc))
        else:
            answers = ", and the destination lets this client in" if is_asked else ""
            found = f"its settings for {route.transport} are valid{answers}"
            yield Finding(f"route {name}", "ok", found)
