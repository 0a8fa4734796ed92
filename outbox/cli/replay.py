"""`outbox replay`: send chosen events again, beside the route that carries them."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from outbox.cli.errors import INTERRUPTED, CommandLineError, FailedError
from outbox.cli.events import KeyOption, TypeOption
from outbox.cli.invocation import Invocation, of
from outbox.cli.output import counted, visible
from outbox.cli.process import check_transports, refuse_memory
from outbox.cli.rewind import stored_position
from outbox.cli.times import parse_since
from outbox.selection import Selection
from relay.daemon import stopped_by_signals
from relay.replay import Progress, Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def replay(
    context: typer.Context,
    *,
    route: Annotated[
        str, typer.Option(metavar="NAME", help="The route whose events and destination it are.")
    ],
    since: Annotated[
        datetime | None,
        typer.Option(parser=parse_since, metavar="TIME", help="Not older; also 15m, 2h or 3d."),
    ] = None,
    after: Annotated[
        int | None, typer.Option(min=0, metavar="SEQ", help="Behind this sequence.")
    ] = None,
    beginning: Annotated[
        bool, typer.Option("--beginning", help="From the first event that is still stored.")
    ] = False,
    type_glob: TypeOption = None,
    key: KeyOption = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="N", help="At most so many events a second."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Send chosen events again, with a header that says so.

    The route and its relay go on meanwhile. Events come in order among themselves; consumers with
    an inbox know what they have handled. `outbox routes rewind` sends everything again instead.
    """
    run = of(context)
    run.known_route(route)
    if since is None and after is None and not beginning:
        msg = "say from where on: --since TIME, --after SEQ or --beginning"
        raise CommandLineError(msg)
    check_transports(run.settings, [route])
    refuse_memory(run.settings, [route])
    position, _ = stored_position(run.engine, route)
    # What lies behind the route's position it sends anyway.
    until = int(position["floor"])
    selection = Selection(type_glob=type_glob, key=key, since=since, after=after, until=until)
    settings = run.settings
    made = Replay(run.engine, route, settings.route(route), selection, rate, settings.source)
    count = made.count()
    what = f"{counted(count, 'event')} again, but for those that the route leaves out"
    if count == 0 or dry_run:
        run.output.line(f"route {route}: would send {what}")
        return
    if not yes:
        run.confirm(f"Route {route}: sends {what}. Go on?")
    stop = threading.Event()
    with stopped_by_signals(stop), _shown(count) as told:
        is_whole = made.run(stop, told)
    _report(run, route, made.progress, is_whole=is_whole)


@contextmanager
def _shown(count: int) -> Iterator[Callable[[Progress], None]]:
    """Show progress on standard error: a bar on a terminal, elsewhere only why it waits."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    waits_for: str | None = None
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=count)

        def told(progress: Progress) -> None:
            nonlocal waits_for
            error = None if progress.error is None else visible(progress.error)
            if error is not None and error != waits_for:
                if console.is_terminal:
                    bar.console.print(f"waits: {error}")
                else:
                    sys.stderr.write(f"waits: {error}\n")
            waits_for = error
            bar.update(task, completed=progress.looked_at)

        yield told


def _report(run: Invocation, route: str, progress: Progress, *, is_whole: bool) -> None:
    run.output.line(f"route {route}: {counted(progress.sent, 'event')} sent again")
    for envelope, error in progress.refused:
        run.output.line(f"not sent: {envelope.id} (sequence {envelope.sequence}): {error}")
    if not is_whole:
        run.output.line(f"stopped: the rest is sent with --after {progress.sequence}")
        raise typer.Exit(INTERRUPTED)
    if progress.refused:
        msg = f"{counted(len(progress.refused), 'event')} can never be sent to route {route}"
        raise FailedError(msg)
