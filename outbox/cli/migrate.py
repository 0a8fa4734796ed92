"""`outbox migrate`: create or upgrade the tables."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from outbox import grants, migration, partitions
from outbox.cli.errors import CommandLineError, FailedError
from outbox.cli.invocation import Invocation, of
from outbox.dialect import MYSQL, is_mysql
from outbox.grants import Kind
from outbox.settings import shown


def _role(kind: str, does: str) -> Any:
    return typer.Option(f"--grant-{kind}", metavar="ROLE", help=f"Let this role {does}.")


def migrate(
    context: typer.Context,
    *,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL instead of running it.")
    ] = False,
    partition_rows: Annotated[
        int | None,
        typer.Option(
            min=1_000, metavar="N", help="Divide the events into partitions of so many numbers."
        ),
    ] = None,
    app: Annotated[list[str] | None, _role("app", "insert events, and nothing else")] = None,
    relay: Annotated[list[str] | None, _role("relay", "run the relay")] = None,
    worker: Annotated[list[str] | None, _role("worker", "run workers")] = None,
    read: Annotated[list[str] | None, _role("read", "look at everything")] = None,
) -> None:
    """Create the tables, or upgrade them; then give roles the rights that they need.

    On MariaDB a ROLE is a user, `name` or `name@host`, or a role.
    """
    run = of(context)
    roles: dict[Kind, list[str]] = {
        "app": app or [],
        "relay": relay or [],
        "worker": worker or [],
        "read": read or [],
    }
    if any(roles.values()) and run.settings.url.get_backend_name() not in {"postgresql", *MYSQL}:
        place = shown(run.settings.url)
        msg = f"{place} has no roles that `outbox migrate` knows: leave --grant-… out"
        raise CommandLineError(msg)
    if partition_rows is not None and run.settings.url.get_backend_name() != "postgresql":
        place = shown(run.settings.url)
        msg = f"partitions are made on PostgreSQL, and not on {place}: leave --partition-rows out"
        raise CommandLineError(msg)
    if sql and partition_rows is not None:
        msg = "--partition-rows looks at the table first, so there is no SQL to print"
        raise CommandLineError(msg)
    if sql:
        migration.print_sql(run.settings.url)
        for statement in _grants(run, roles):
            run.output.raw(f"{statement};\n")
        return
    _upgrade(run)
    if partition_rows is not None:
        _divide(run, partition_rows)
    if any(roles.values()):
        _grant(run, roles)


def _upgrade(run: Invocation) -> None:
    before = migration.current(run.engine)
    migration.upgrade(run.settings.url)
    after = migration.current(run.engine)
    place = shown(run.settings.url)
    if before == after:
        run.output.line(f"{place} is at revision {after} already")
    else:
        run.output.line(f"{place} is now at revision {after} (was {before or 'without tables'})")


def _divide(run: Invocation, rows: int) -> None:
    with run.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
        if not partitions.is_partitioned(connection):
            partitions.convert(connection, rows)
            run.output.line(f"outbox_event is divided into partitions of {rows:,} numbers")
            return
        made = partitions.extend(connection, rows)
    if made:
        run.output.line(f"from number {made[0].lower:,} on a partition takes {rows:,} numbers")
    else:
        run.output.line(f"outbox_event is divided into partitions of {rows:,} numbers already")


def _grant(run: Invocation, roles: dict[Kind, list[str]]) -> None:
    with run.engine.begin() as connection:
        named = [role for names in roles.values() for role in names]
        missing = grants.missing_roles(connection, named)
        if missing:
            kind = "USER" if is_mysql(connection.dialect) else "ROLE"
            msg = (
                f"the server has no {kind.lower()} {missing[0]!r}: make it first, by CREATE {kind}"
            )
            raise FailedError(msg)
        for statement in _grants(run, roles):
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    for statement in _grants(run, roles):
        if statement.startswith("GRANT"):
            run.output.line(statement)
    others = {role for kind in ("relay", "worker", "read") for role in roles[kind]}
    checked = [(role, "outbox_event") for role in roles["app"] if role not in others]
    checked += [(role, "outbox_audit") for role in dict.fromkeys([*roles["app"], *others])]
    with run.engine.connect() as connection:
        for role, table in checked:
            found = grants.excess(connection, role, table)
            if found:
                run.output.line(
                    f"warning: {role} may also {', '.join(found)} on {table}, as its owner, as"
                    " a member of another role or by an earlier or a wider grant",
                    "yellow",
                )


def _grants(run: Invocation, roles: dict[Kind, list[str]]) -> list[str]:
    dialect = run.settings.url.get_dialect()()
    return [
        statement
        for kind, names in roles.items()
        for role in names
        for statement in grants.statements(kind, role, dialect)
    ]
