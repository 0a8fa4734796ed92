"""What the two long-running commands share: logs, and which transports they can serve."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from outbox import log
from outbox.cli.errors import CommandLineError
from outbox.errors import ConfigurationError
from outbox.transports import receiving_transport_of, transport_of

if TYPE_CHECKING:
    from outbox.settings import Settings


class LogFormat(StrEnum):
    """What `--log-format` takes."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """What `--log-level` takes."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LogFormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="Lines for people, or one JSON object each.")
]
LogLevelOption = Annotated[LogLevel, typer.Option("--log-level", help="The least to be shown.")]


def configure_logs(log_format: LogFormat, level: LogLevel) -> None:
    """Show logs on standard error."""
    levels = logging.getLevelNamesMapping()
    log.configure(log_format.value, levels[level.value.upper()])


def check_transports(settings: Settings, routes: list[str], *, receives: bool = False) -> None:
    """Raise `CommandLineError` where what a route says of its transport is wrong.

    With `receives`, also where a worker cannot receive by it.
    """
    check = receiving_transport_of if receives else transport_of
    for name in routes:
        try:
            check(name, settings.route(name))
        except ConfigurationError as exc:
            raise CommandLineError(str(exc)) from exc


def refuse_memory(settings: Settings, routes: list[str]) -> None:
    """Raise `CommandLineError` for a route whose broker would be alone in this process."""
    for name in routes:
        if settings.route(name).transport == "memory":
            msg = (
                f"route {name!r} is on the memory transport, whose broker no other process can"
                " reach: run relay and worker in one, by `outbox relay --consume MODULE:CONSUMER`"
            )
            raise CommandLineError(msg)
