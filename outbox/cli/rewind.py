"""`outbox routes rewind`: move a route back, so that it sends everything from there on again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import sqlalchemy as sa
import typer

from outbox.cli.errors import CommandLineError, FailedError
from outbox.cli.invocation import of
from outbox.cli.output import counted
from outbox.cli.times import parse_since
from outbox.table import outbox_checkpoint as checkpoint
from relay.capture import Capture, Position, open_capture
from relay.capture.position import rewind
from relay.start import sequence_before

ATTEMPTS: Final = 100
"""How often to try again when a busy relay has moved the position meanwhile."""


def rewind_route(
    context: typer.Context,
    route: Annotated[str, typer.Argument(metavar="NAME", help="The route to move back.")],
    *,
    since: Annotated[
        datetime | None,
        typer.Option(parser=parse_since, metavar="TIME", help="To this time; also 15m, 2h or 3d."),
    ] = None,
    after: Annotated[
        int | None, typer.Option(min=0, metavar="SEQ", help="To behind this sequence.")
    ] = None,
    beginning: Annotated[
        bool, typer.Option("--beginning", help="To the first event that is still stored.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Move a route back, so that it sends everything from there on again, in order.

    A running relay goes on from there at once. Consumers with an inbox know what they have
    handled, and do nothing twice.
    """
    run = of(context)
    run.known_route(route)
    if [since is not None, after is not None, beginning].count(True) != 1:
        msg = "say how far back: --since TIME, --after SEQ or --beginning"
        raise CommandLineError(msg)
    capture = open_capture(run.engine)
    try:
        seq = after or 0 if since is None else sequence_before(run.engine, since)
        count = _count(run.engine, capture, route, seq)
        if count == 0 or dry_run:
            run.output.line(f"route {route}: {_announcement(count)}")
            return
        if not yes:
            run.confirm(f"Route {route}: {_announcement(count)}. Go on?")
        _move(run.engine, capture, route, seq)
    finally:
        capture.close()
    run.output.line(f"route {route}: {_announcement(count)}")


def _announcement(count: int) -> str:
    if count == 0:
        return "nothing was sent after that, so there is nothing to send again"
    return f"{counted(count, 'event')} will be sent again, but for those that it leaves out"


def _count(engine: sa.Engine, capture: Capture, route: str, seq: int) -> int:
    """Count the events that would be read a second time."""
    stored, _ = stored_position(engine, route)
    now: Any = capture.position(stored)
    return max(capture.backlog(rewind(now, seq)).count - capture.backlog(now).count, 0)


def stored_position(engine: sa.Engine, route: str) -> tuple[Mapping[str, Any], int]:
    """Return a route's position and its version; raises `FailedError` where it never ran."""
    query = sa.select(checkpoint.c.position, checkpoint.c.version)
    with engine.connect() as connection:
        row = connection.execute(query.where(checkpoint.c.route == route)).one_or_none()
    if row is None or row.position is None:
        msg = f"route {route} never ran, so it has sent nothing yet: start it by `outbox relay`"
        raise FailedError(msg)
    return row.position, row.version


def _move(engine: sa.Engine, capture: Capture, route: str, seq: int) -> None:
    """Store the position; a relay that holds the route sees the new version and starts there."""
    for _ in range(ATTEMPTS):
        stored, version = stored_position(engine, route)
        now: Any = capture.position(stored)
        position: Position = rewind(now, seq)
        statement = (
            sa.update(checkpoint)
            .where(checkpoint.c.route == route, checkpoint.c.version == version)
            .values(position=position.to_json(), version=version + 1)
        )
        with engine.begin() as connection:
            if connection.execute(statement).rowcount == 1:
                return
    msg = f"the relay moves route {route} too quickly: stop it, and try again"
    raise FailedError(msg)
