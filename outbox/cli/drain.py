"""The bar that `outbox relay --drain` shows on a terminal while the backlog shrinks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from outbox.cli.invocation import Invocation
from outbox.errors import OutboxError
from relay.status import route_status

LOOK_SECONDS: Final = 0.5


@contextmanager
def progress(run: Invocation, names: list[str]) -> Iterator[None]:
    """Show how much of each route's backlog is delivered while the block runs."""
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    ]
    over = threading.Event()
    with Progress(*columns, console=run.output.console, transient=True) as bars:
        thread = threading.Thread(target=_follow, args=(run, names, bars, over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _follow(run: Invocation, names: list[str], bars: Progress, over: threading.Event) -> None:
    tasks = {name: bars.add_task(name, total=None) for name in names}
    totals: dict[str, int] = {}
    while not over.wait(LOOK_SECONDS if totals else 0):
        try:
            routes = route_status(run.engine, run.settings)
        except OutboxError:
            # The relay meets the same error, and says so.
            over.wait(LOOK_SECONDS)
            continue
        for route in routes:
            if route.route not in tasks or route.backlog_count is None:
                continue
            total = totals.setdefault(route.route, route.backlog_count)
            total = totals[route.route] = max(total, route.backlog_count)
            done = total - route.backlog_count
            bars.update(tasks[route.route], total=total, completed=done)
