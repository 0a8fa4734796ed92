"""Cells of a table for spreadsheets (CSV), which take some texts for more than text."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from outbox.cli.output import visible

if TYPE_CHECKING:
    from collections.abc import Iterable


def csv_line(cells: Iterable[object]) -> str:
    """Return a line without its end: no cell is a formula, or acts upon a terminal."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([_cell(cell) for cell in cells])
    return line.getvalue()


def _cell(cell: object) -> object:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int | float):
        return cell
    text = visible(cell)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
