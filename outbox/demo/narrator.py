"""Tells the story: a bar while a step runs, one line when it is done, and the table at the end."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from outbox.demo.story import Comparison

ROWS: Final = (
    ("orders committed", "orders_committed", None),
    ("events delivered", "events_delivered", None),
    ("events lost", "events_lost", 0),
    ("doubled effects", "doubled_effects", 0),
    ("effects of rolled-back orders", "phantom_effects", 0),
    ("effects out of order", "out_of_order", 0),
)
"""Label, figure, and what it should be where that is known."""


class Narrator:
    """Standard output; silent where only the figures are wanted."""

    def __init__(self, *, is_quiet: bool = False) -> None:
        self._console = Console(quiet=is_quiet, highlight=False, markup=False, emoji=False)
        self._step = 0

    def say(self, text: str, style: str = "") -> None:
        """Print one line."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """Show a numbered step while the block runs; yields what to call for each unit done."""
        self._step += 1
        columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        bar = [BarColumn(bar_width=12), MofNCompleteColumn()] if total else []
        is_shown = self._console.is_terminal
        with Progress(
            *columns, *bar, console=self._console, transient=True, disable=not is_shown
        ) as progress:
            task = progress.add_task(title, total=total)
            yield lambda: progress.advance(task)
        self._console.print(
            Text.assemble((f"{self._step:>2}", "bold cyan"), f"  {title}"), soft_wrap=True
        )

    def note(self, text: str) -> None:
        """Print a remark below a step."""
        self.say(f"    {text}", "dim")

    def compare(self, comparison: Comparison) -> None:
        """Print the two shops' figures side by side."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
        table.add_column("counted from the two databases")
        table.add_column("commit, then publish", justify="right")
        table.add_column("outbox", justify="right")
        sides = (comparison.naive, comparison.outbox)
        for label, name, wanted in ROWS:
            cells = [_cell(getattr(side, name), wanted) for side in sides]
            table.add_row(label, *cells)
        self._console.print()
        self._console.print(table)
        if comparison.outbox.is_perfect:
            self.say("With the outbox each order has exactly one invoice, in order.", "bold green")


def _cell(value: int, wanted: int | None) -> Text:
    if wanted is None:
        return Text(f"{value:,}")
    return Text(f"{value:,}", style="green" if value == wanted else "bold red")
