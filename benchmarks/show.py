"""Shows the tables of a report on standard output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table as Grid

from outbox.bench.tables import machine_line, tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outbox.bench.tables import Table

WIDTH: Final = 200


def show(report: Mapping[str, Any]) -> None:
    """Print the tables, and where the figures come from."""
    for each in tables(report):
        show_table(each)
    console().print(machine_line(report))


def tell(report: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a report for people, or for scripts."""
    if as_json:
        print(json.dumps(report))
    else:
        show(report)


def show_table(table: Table) -> None:
    """Print one table."""
    shown = Grid(box=None, pad_edge=False)
    for number, title in enumerate(table.titles):
        shown.add_column(title, justify="left" if number < table.left else "right")
    for row in table.rows:
        shown.add_row(*row)
    console().print(shown)


def console() -> Console:
    """Return standard output: as wide as the terminal, or wide enough for every table."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=WIDTH)
