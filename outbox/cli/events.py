"""`outbox events`: what is in the outbox table."""

from __future__ import annotations

import time
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Final

import sqlalchemy as sa
import typer

from outbox import stored
from outbox.cli import envelopes
from outbox.cli.errors import FailedError
from outbox.cli.invocation import of, require_command
from outbox.cli.output import json_text
from outbox.cli.times import parse_since
from outbox.codec import to_json
from outbox.columns import is_uuid
from outbox.selection import Selection
from outbox.table import outbox_event
from relay.capture import open_capture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.envelope import Envelope

app = typer.Typer(help="Look at events.", callback=require_command, invoke_without_command=True)

TAIL_PAGE: Final = 500
TAIL_SECONDS: Final = 0.2
MAX_SEQ: Final = 2**63 - 1

TypeOption = Annotated[
    str | None,
    typer.Option("--type", metavar="GLOB", help="Only these types, for instance 'shop.order.*'."),
]
KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Only this partition key.")
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="JSON Lines for scripts.")]


@app.command("list")
def list_events(
    context: typer.Context,
    *,
    type_glob: TypeOption = None,
    key: KeyOption = None,
    since: Annotated[
        datetime | None,
        typer.Option(parser=parse_since, metavar="TIME", help="Not older; also 15m, 2h or 3d."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 20,
    as_json: JsonLinesOption = False,
) -> None:
    """List the newest events, the newest last."""
    run = of(context)
    chosen = Selection(type_glob=type_glob, key=key, since=since)
    query = chosen.query().order_by(outbox_event.c.seq.desc()).limit(limit)
    with run.engine.connect() as connection:
        found = stored.read(connection, query)[::-1]
    if as_json:
        for envelope in found:
            run.output.json_line(to_json(envelope))
    elif found or not run.output.is_terminal:
        run.output.table(envelopes.COLUMNS, [envelopes.cells(envelope) for envelope in found])
    else:
        run.output.line("no events", "dim")


@app.command("show")
def show_event(
    context: typer.Context,
    which: Annotated[str, typer.Argument(metavar="ID|SEQ", help="Its id or its sequence.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Show one event in full."""
    run = of(context)
    with run.engine.connect() as connection:
        found = _find(connection, which)
    if as_json:
        run.output.json(to_json(found))
    else:
        run.output.fields(envelopes.fields(found))
        envelopes.show_data(run.output, found.data)


@app.command("tail")
def tail_events(
    context: typer.Context,
    *,
    type_glob: TypeOption = None,
    key: KeyOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="End after so many, not by Ctrl-C.")
    ] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Print events as they commit, until Ctrl-C.

    One that commits behind others with a larger sequence is printed as well.
    """
    run = of(context)
    count = 0
    try:
        for envelope in _committing(run.engine):
            if _matches(envelope, type_glob, key):
                text = json_text(to_json(envelope)) if as_json else envelopes.line(envelope)
                run.output.raw(text)
                count += 1
            if limit is not None and count >= limit:
                return
    except KeyboardInterrupt:
        return


def _matches(envelope: Envelope, type_glob: str | None, key: str | None) -> bool:
    return (type_glob is None or fnmatchcase(envelope.type, type_glob)) and (
        key is None or envelope.partition_key == key
    )


def _find(connection: sa.Connection, which: str) -> Envelope:
    query = Selection().query().where(_identity(connection, which))
    found = stored.read(connection, query.order_by(outbox_event.c.seq).limit(1))
    if not found:
        msg = f"there is no event {which!r}: give an id or a sequence from `outbox events list`"
        raise FailedError(msg)
    return found[0]


def _identity(connection: sa.Connection, which: str) -> sa.ColumnElement[bool]:
    """Take digits for a sequence; never compare what the column's type could not hold."""
    if which.isascii() and which.isdigit() and int(which) <= MAX_SEQ:
        return outbox_event.c.seq == int(which)
    if connection.dialect.name == "postgresql" and not is_uuid(which):
        return sa.false()
    return outbox_event.c.id == which


def _committing(engine: sa.Engine) -> Iterator[Envelope]:
    """Yield each event that commits from now on; never ends by itself."""
    capture = open_capture(engine)
    try:
        position = capture.now()
        while True:
            page = capture.next_page(position, TAIL_PAGE)
            yield from page.envelopes
            position = page.position()
            if page.is_last:
                time.sleep(TAIL_SECONDS)
    finally:
        capture.close()
