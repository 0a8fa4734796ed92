"""Shows the tables of a report on standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from outbox.bench.tables import machine_line, tables

if TYPE_CHECKING:
    from collections.abc import Mapping


def show(report: Mapping[str, Any]) -> None:
    """Print the tables, and where the figures come from."""
    console = Console(highlight=False)
    for each in tables(report):
        shown = Table(box=None, pad_edge=False)
        for number, title in enumerate(each.titles):
            shown.add_column(title, justify="left" if number < each.left else "right")
        for row in each.rows:
            shown.add_row(*row)
        console.print(shown)
    console.print(machine_line(report))
