"""The one place where an exception becomes a sentence on standard error and an exit code."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
import typer
from rich.console import Console
from rich.text import Text
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from outbox.cli.output import visible
from outbox.dialect import (
    DENIED_NUMBERS,
    MISSING_NUMBERS,
    NO_DATABASE_NUMBERS,
    OUTAGE_NUMBERS,
    REFUSED_NUMBERS,
    mysql_number,
)
from outbox.errors import OutboxError
from outbox.settings import shown
from outbox.table import outbox_event

if TYPE_CHECKING:
    from outbox.cli.invocation import Invocation

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

CLICK_ERROR: Final = typer.BadParameter.__mro__[2]
"""What typer raises for a wrong command line; it has had several names, but one place."""

TABLES_MISSING: Final = "the database has no outbox tables, or old ones: run `outbox migrate`"


class CommandLineError(OutboxError):
    """What was typed or set is wrong; exit code 2."""


class FailedError(OutboxError):
    """It was tried and did not work; exit code 1."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What to say about an exception."""

    sentence: str
    exit_code: int = FAILED


def problem_of(error: Exception, run: Invocation) -> Problem:
    """Say what an exception means to whoever typed the command."""
    if isinstance(error, CLICK_ERROR):
        return _mistyped(error)
    if isinstance(error, CommandLineError):
        return Problem(str(error), USAGE)
    if isinstance(error, OutboxError):
        return Problem(str(error))
    if isinstance(error, SQLAlchemyError):
        return _database(error, run)
    return _unexpected(error)


def report(problem: Problem, error: BaseException, *, debug: bool) -> None:
    """Write one line to standard error, below the traceback if that was asked for."""
    if debug:
        traceback.print_exception(error)
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    text = Text.assemble(("error:", "bold red"), " ", visible(" ".join(problem.sentence.split())))
    if console.is_terminal:
        console.print(text, soft_wrap=True)
    else:
        sys.stderr.write(text.plain + "\n")


def _mistyped(error: Exception) -> Problem:
    message = str(getattr(error, "message", error)) or type(error).__name__
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        message = format_message()
    context = getattr(error, "ctx", None)
    command = "outbox" if context is None else context.command_path
    sentence = message[:1].lower() + message[1:].rstrip(".")
    return Problem(f"{sentence} (see `{command} --help`)", USAGE)


def _database(error: SQLAlchemyError, run: Invocation) -> Problem:
    if isinstance(error, NoSuchModuleError):
        return Problem(
            "database_url names a database that SQLAlchemy does not know; write for instance"
            " postgresql+psycopg://user@host/database, mariadb+pymysql://user@host/database or"
            " sqlite:///file.db",
            USAGE,
        )
    if not isinstance(error, DBAPIError):
        return _unexpected(error)
    place = shown(run.settings.url)
    number = mysql_number(error)
    if number is not None:
        return _mysql(error, number, place)
    return _coded(error, place, run)


def _coded(error: DBAPIError, place: str, run: Invocation) -> Problem:
    reason = str(error.orig)
    if _sqlstate(error) in {"42P01", "42703", "3F000"} or _lacks_tables(error, run):
        return Problem(TABLES_MISSING)
    if _sqlstate(error) == "42501":
        return Problem(f"{place} refuses this: {reason}; grant its role what is missing")
    if isinstance(error, OperationalError | InterfaceError) and _sqlstate(error) is None:
        return Problem(f"cannot use {place}: {reason}; check database_url and the server")
    return Problem(f"{place} reports: {reason}")


def _mysql(error: DBAPIError, number: int, place: str) -> Problem:
    # The text stands behind the number.
    reason = error.orig.args[-1] if error.orig is not None else number
    if number in MISSING_NUMBERS:
        return Problem(TABLES_MISSING)
    if number in DENIED_NUMBERS:
        return Problem(f"{place} refuses this: {reason}; GRANT its user what is missing")
    if number in NO_DATABASE_NUMBERS:
        advice = "correct database_url, or make the database by CREATE DATABASE"
        return Problem(f"cannot use {place}: {reason}; {advice}")
    if number in REFUSED_NUMBERS | OUTAGE_NUMBERS:
        return Problem(f"cannot use {place}: {reason}; check database_url and the server")
    return Problem(f"{place} reports: {reason}")


def _sqlstate(error: DBAPIError) -> str | None:
    state: str | None = getattr(error.orig, "sqlstate", None)
    return state


def _lacks_tables(error: DBAPIError, run: Invocation) -> bool:
    """Tell for a database whose errors have no codes of their own for it."""
    if _sqlstate(error) is not None or not isinstance(error, OperationalError):
        return False
    if run.settings.url.get_backend_name() != "sqlite":
        return False
    try:
        return not sa.inspect(run.engine).has_table(outbox_event.name)
    except DBAPIError:
        return False


def _unexpected(error: Exception) -> Problem:
    name = type(error).__name__
    return Problem(f"unexpected {name}: {error} (`outbox --debug …` shows where)")
