"""`outbox routes`: let a route rest, move it back, and forget one that is no longer there."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Annotated

import sqlalchemy as sa
import typer

from outbox import clock, dead_letter
from outbox.cli.errors import CommandLineError, FailedError
from outbox.cli.invocation import of, require_command
from outbox.cli.output import counted
from outbox.cli.rewind import rewind_route
from outbox.dead_letter import Filter
from outbox.settings import RESERVED
from outbox.table import outbox_checkpoint as checkpoint
from relay import lease

app = typer.Typer(
    help="Pause a route, resume it, move it back, forget one that is no longer there.",
    invoke_without_command=True,
    callback=require_command,
)
app.command("rewind")(rewind_route)


@app.command("pause")
def pause(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The route.")],
    *,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why, for `outbox status`.")
    ] = "no reason was given",
) -> None:
    """Let a route rest, whichever relay runs it, until it is resumed.

    Its events wait, and other routes go on. It survives restarts of relays. A publish that is under
    way is finished; at least once, its events are sent again later.
    """
    run = of(context)
    run.known_route(name)
    with run.engine.begin() as connection:
        if not lease.pause(connection, name, f"{_user()}@{socket.gethostname()}", reason):
            msg = f"route {name} is paused already"
            raise FailedError(msg)
    run.output.line(f"route {name} is paused: `outbox routes resume {name}` lets it go on")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user needs no name
        return f"user {os.getuid()}"


@app.command("resume")
def resume(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The route.")],
) -> None:
    """Let a paused route go on, from where it was."""
    run = of(context)
    run.known_route(name)
    with run.engine.begin() as connection:
        if not lease.resume(connection, name):
            msg = f"route {name} is not paused"
            raise FailedError(msg)
    run.output.line(f"route {name} goes on as soon as a relay runs")


@app.command("forget")
def forget(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The route.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Forget how far a route came, so that no events are kept for it any more.

    Should the route come back, it starts as one that never ran.
    """
    run = of(context)
    if name in run.settings.routes:
        msg = f"route {name} is in the settings: take it out of there, on every relay, first"
        raise CommandLineError(msg)
    held = sa.and_(
        sa.func.coalesce(checkpoint.c.expires_at > clock.now(), sa.false()),
        sa.not_(lease.is_paused()),
    )
    query = sa.select(held).where(checkpoint.c.route == name)
    with run.engine.connect() as connection:
        found = connection.execute(query).one_or_none()
    if found is None or name.startswith(RESERVED):
        msg = f"the database knows no route {name!r}"
        raise FailedError(msg)
    if found[0]:
        msg = f"a relay runs route {name} at this moment: stop it first"
        raise FailedError(msg)
    if not yes:
        run.confirm(f"Forget route {name}? What it has not delivered yet may then be deleted.")
    with run.engine.begin() as connection:
        statement = sa.delete(checkpoint).where(checkpoint.c.route == name, sa.not_(held))
        gone = connection.execute(statement).rowcount
        letters = dead_letter.count(connection, Filter(stage="relay", owner=name))
    if not gone:
        msg = f"a relay has just taken route {name}: stop it first"
        raise FailedError(msg)
    run.output.line(f"route {name} is forgotten")
    if letters:
        run.output.line(
            f"it leaves {counted(letters, 'dead letter')}: look at `outbox dead-letters list`, and"
            " discard them by their ids"
        )
