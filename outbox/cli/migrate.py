"""`outbox migrate`: create or upgrade the tables."""

from __future__ import annotations

from typing import Annotated

import typer

from outbox import migration
from outbox.cli.invocation import of
from outbox.settings import shown


def migrate(
    context: typer.Context,
    *,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL instead of running it.")
    ] = False,
) -> None:
    """Create the tables, or upgrade them."""
    run = of(context)
    if sql:
        migration.print_sql(run.settings.url)
        return
    before = migration.current(run.engine)
    migration.upgrade(run.settings.url)
    after = migration.current(run.engine)
    place = shown(run.settings.url)
    if before == after:
        run.output.line(f"{place} is at revision {after} already")
    else:
        run.output.line(f"{place} is now at revision {after} (was {before or 'without tables'})")
