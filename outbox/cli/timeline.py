"""`outbox audit timeline`: what happened to one key, told as a story."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from outbox.cli import timeline_rows, timeline_text
from outbox.cli.errors import CommandLineError, FailedError
from outbox.cli.files import write_whole
from outbox.cli.invocation import of
from outbox.cli.timeline_html import page
from relay.timeline import timeline as read

MOST: Final = 1_000_000
"""Events that a story is told of: all of them are in memory."""


def timeline(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The partition key.")],
    *,
    limit: Annotated[
        int,
        typer.Option(
            min=1, max=MOST, metavar="N", help="The newest N events, and as many effects."
        ),
    ] = 500,
    depth: Annotated[
        int, typer.Option(min=0, metavar="N", help="Effects of effects, so many steps far.")
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="A line for each thing that happened.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page for a browser.")
    ] = None,
) -> None:
    """Tell who did what to a key, what followed from it, and what became of each event."""
    if as_json + as_csv + (html is not None) > 1:
        raise CommandLineError("choose one of --json, --csv and --html")
    run = of(context)
    found = read(run.engine, run.settings, key, limit=limit, depth=depth)
    if not found.stories:
        raise FailedError(
            f"there is no event with the key {key!r}, neither in the log nor in the audit trail"
        )
    if as_json:
        run.output.json(timeline_rows.document(found))
    elif as_csv:
        for line in timeline_rows.csv_lines(found):
            run.output.raw(line)
    elif html is not None:
        write_whole(html, page(found))
        run.output.line(f"wrote {html}")
    else:
        timeline_text.show(run.output, found)
