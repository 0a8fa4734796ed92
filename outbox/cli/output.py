"""What commands print: tables on a terminal, plain text in a pipe, JSON for scripts.

Events come from anywhere, so nothing of them reaches a terminal as markup or as an escape
sequence: `visible` and `json_text` write control characters out.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final, NoReturn

import orjson
import typer
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from rich.console import JustifyMethod

CONTROLS: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f"
    r"\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)
"""What a terminal acts upon, and what nobody sees: C0 and C1 controls, line separators, and
Unicode's format characters (Cf), by which two texts that look alike may differ."""

GAP: Final = 3
"""What Rich puts between two columns."""
NARROW: Final = 8
"""No column is cut to less."""
READER_GONE: Final = 128 + 13
"""What shells report of a program that ended by SIGPIPE."""


def visible(text: object) -> str:
    r"""Return a text in one line with its control characters written out (`\x1b`)."""
    return CONTROLS.sub(lambda match: ascii(match[0])[1:-1], str(text))


def json_text(value: object, *, indent: bool = False) -> str:
    """Return a JSON document that is as harmless on a terminal as in a script."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None).decode()
    except orjson.JSONEncodeError:  # it knows no integer of more than 64 bits
        separators = (",", ": " if indent else ":")
        text = json.dumps(
            value, indent=2 if indent else None, ensure_ascii=False, separators=separators
        )
    return "\n".join(CONTROLS.sub(_escaped, line) for line in text.split("\n"))


def _escaped(match: re.Match[str]) -> str:
    """Write a character out as JSON does: in two parts where it is beyond U+FFFF."""
    units = match[0].encode("utf-16-be").hex(" ", 2).split()
    return "".join(f"\\u{unit}" for unit in units)


def moment(value: datetime | None) -> str:
    """Write a moment for people, in UTC and to the second."""
    return "" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def duration(seconds: float) -> str:
    """Write a duration in its two largest units, for instance `3 h 12 min`."""
    whole = max(round(seconds), 0)
    units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")]
    parts = []
    for size, name in units:
        count, whole = divmod(whole, size)
        parts.append((count, name))
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {name}" for count, name in parts[first : first + 2] if count) or "0 s"


def counted(count: int, noun: str) -> str:
    """Write a number with its noun, for instance `1 event`, `1,200 events`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    right: bool = False
    """Numbers stand to the right."""
    shrinks: bool = False
    """On a terminal that is too narrow it is cut."""


class Output:
    """Standard output of one run."""

    def __init__(self) -> None:
        """Look once whether it is a terminal."""
        self.console = Console(highlight=False, markup=False, emoji=False)
        self.is_terminal = self.console.is_terminal

    def line(self, text: str = "", style: str = "") -> None:
        """Print one line, control characters written out."""
        if self.is_terminal:
            self.console.print(Text(visible(text), style=style), soft_wrap=True)
        else:
            self._write(visible(text) + "\n")

    def raw(self, text: str) -> None:
        """Print a text of our own that may have several lines, and pass it on at once."""
        self._write(text + "\n")
        self.flush()

    def json(self, value: object) -> None:
        """Print one JSON document: laid out on a terminal, in one line elsewhere."""
        self.raw(json_text(value, indent=self.is_terminal))

    def json_line(self, value: object) -> None:
        """Print one line of JSON Lines."""
        self.raw(json_text(value))

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
        """Print a table; in a pipe its columns are padded with spaces and never cut."""
        texts = [[visible("" if cell is None else cell) for cell in row] for row in rows]
        if self.is_terminal:
            self.console.print(_rich_table(columns, texts, self.console.width))
        else:
            for line in plain_lines(columns, texts):
                self._write(line + "\n")

    def fields(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Print names and values under each other, leaving out what has no value."""
        shown = [(name, visible(value)) for name, value in pairs if value not in (None, "")]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            if self.is_terminal:
                text = Text.assemble((f"{name:<{width}}", "bold"), "  ", value)
                self.console.print(text, soft_wrap=True)
            else:
                self._write(f"{name:<{width}}  {value}\n")

    def flush(self) -> None:
        """Pass on what was printed; ends the program where nobody reads it any more."""
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _reader_is_gone()

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
        except BrokenPipeError:
            _reader_is_gone()


def _reader_is_gone() -> NoReturn:
    """End quietly, as whoever is ended by SIGPIPE: a reader has had enough (`… | head`).

    Not with 0, because the reader may have missed a verdict.
    """
    # What is still buffered would fail again when the interpreter closes standard output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(READER_GONE)


def plain_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay a table out with spaces alone."""
    table = [[column.title for column in columns], *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    return [
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in table
    ]


def _rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    needed = [
        max(cell_len(text) for text in (column.title, *(row[index] for row in rows)))
        for index, column in enumerate(columns)
    ]
    widths = fitted(columns, needed, width - GAP * (len(columns) - 1))
    for column, size in zip(columns, widths, strict=True):
        justify: JustifyMethod = "right" if column.right else "left"
        table.add_column(Text(column.title), justify=justify, no_wrap=True, width=size)
    for row in rows:
        table.add_row(*[_cut(text, size) for text, size in zip(row, widths, strict=True)])
    return table


def fitted(columns: Sequence[Column], needed: Sequence[int], room: int) -> list[int]:
    """Return the columns' widths: the widest of those that may shrink are cut until all fit."""
    widths = list(needed)
    least = [max(len(column.title), NARROW) for column in columns]
    for _ in range(sum(widths) - room):
        cuttable = [
            index
            for index, column in enumerate(columns)
            if column.shrinks and widths[index] > least[index]
        ]
        if not cuttable:
            break
        widths[max(cuttable, key=widths.__getitem__)] -= 1
    return widths


def _cut(cell: str, width: int) -> Text:
    text = Text(cell)
    text.truncate(width, overflow="ellipsis")
    return text
