"""The page's example of a transport with both sides."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from tests.pages import block, page

if TYPE_CHECKING:
    from pathlib import Path

PAGE: Final = "guide/transports.md"
MODULE: Final = "outbox_table"


def code() -> str:
    return block(page(PAGE), "python", "class TableSubscriber")


def example() -> Any:
    """Return the page's module."""
    module = ModuleType(MODULE)
    exec(compile(code(), MODULE, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  # a page of ours
    return module


def make_tables(file: Path) -> None:
    """Make the file as the page says."""
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(block(page(PAGE), "sql", "CREATE TABLE progress"))
