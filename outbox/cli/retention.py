"""`outbox retention`: delete what is old enough, now and by hand."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from typing import Annotated

import typer

from outbox.cli.errors import CommandLineError, FailedError
from outbox.cli.invocation import Invocation, of
from outbox.cli.output import counted
from outbox.cli.status import NOUNS
from outbox.partitions import is_partitioned
from relay import rotation
from relay.daemon import stopped_by_signals
from relay.database import make_engine, transaction
from relay.expiry import Events, expiries
from relay.lease import Held
from relay.retention import sweep


def retention(
    context: typer.Context,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what it would delete.")
    ] = False,
) -> None:
    """Delete what is older than the ages of [retention]; a relay does so by itself."""
    run = of(context)
    if not run.settings.retention.is_on:
        msg = 'nothing has an age: add [retention] with for instance events = "30d"'
        raise CommandLineError(msg)
    run.require_tables()
    if dry_run:
        _count(run)
        return
    stopping = threading.Event()
    engine = make_engine(run.settings.url)
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    try:
        with stopped_by_signals(stopping):
            state = sweep(engine, run.settings, holder, stopping, anew=True)
    finally:
        engine.dispose()
    if isinstance(state, Held):
        msg = f"{state.holder} is at it already"
        raise FailedError(msg)
    for table, deleted in state.deleted.items():
        run.output.line(f"{counted(deleted, NOUNS[table])} deleted")
    for table, walk in state.walks.items():
        _say_held(run, table, walk.held)


def _count(run: Invocation) -> None:
    engine = make_engine(run.settings.url)
    try:
        with transaction(engine) as connection:
            rotates = is_partitioned(connection)
        for table in expiries(run.settings):
            if rotates and isinstance(table, Events):
                count, held = rotation.count(engine, table)
                run.output.line(f"{counted(count, NOUNS['partitions'])} would be deleted")
            else:
                with transaction(engine) as connection:
                    count, held = table.count(connection)
                run.output.line(f"{counted(count, NOUNS[table.table])} would be deleted")
            _say_held(run, table.table, held)
    finally:
        engine.dispose()


def _say_held(run: Invocation, table: str, held: str | None) -> None:
    if held is not None:
        run.output.line(f"older {NOUNS[table]}s are kept: {held}")
