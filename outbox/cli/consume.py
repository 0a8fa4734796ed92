"""`outbox consume`: run one worker of a consumer."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Annotated, Final

import typer

from outbox.cli import personal
from outbox.cli.application import load_module
from outbox.cli.errors import CommandLineError
from outbox.cli.invocation import Invocation, of
from outbox.cli.process import (
    LogFormat,
    LogFormatOption,
    LogLevel,
    LogLevelOption,
    check_transports,
    configure_logs,
    refuse_memory,
)
from outbox.consumer import Consumer
from outbox.errors import EventDefinitionError
from outbox.keys import use_key_store
from outbox.worker import open_worker, spare_collector
from relay.daemon import stopped_by_signals

if TYPE_CHECKING:
    from outbox.settlement import Counts

DRAIN_SECONDS: Final = 10.0
"""How long nothing may come before a worker that drains ends; joining a group takes seconds."""


def consume(
    context: typer.Context,
    which: Annotated[
        str, typer.Argument(metavar="MODULE:CONSUMER", help="For instance shop.billing:billing.")
    ],
    *,
    drain: Annotated[
        bool, typer.Option("--drain", help="End when nothing came for 10 seconds.")
    ] = False,
    until_idle: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="End when nothing came for so long."),
    ] = None,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Run one worker of a consumer, until SIGTERM or Ctrl-C.

    The module is imported from this folder, or from what is installed.
    """
    run = of(context)
    idle_timeout = until_idle or (DRAIN_SECONDS if drain else None)
    settings = run.settings
    threshold = gc.get_threshold()
    # Before the application is imported, which may bring a store of its own.
    use_key_store(personal.store_of(run))
    consumer = load(which)
    is_spared = gc.get_threshold() != threshold  # the application's own choice
    route = route_of(run, consumer)
    check_transports(settings, [route], receives=True)
    refuse_memory(settings, [route])
    configure_logs(log_format, log_level)
    worker = open_worker(consumer, settings)
    stop = threading.Event()
    if not is_spared:
        spare_collector()
    with stopped_by_signals(stop):
        counts = worker.run(stop, idle_timeout=idle_timeout)
    run.output.line(f"consumer {consumer.name}: {figures(counts)}")


def load(which: str) -> Consumer:
    """Import a consumer; raises `CommandLineError` that says which part of its name is wrong."""
    module_name, colon, attribute = which.partition(":")
    if not (module_name and colon and attribute):
        msg = f"{which!r} is no MODULE:CONSUMER, for instance shop.billing:billing"
        raise CommandLineError(msg)
    module = load_module(module_name)
    found = getattr(module, attribute, None)
    if isinstance(found, Consumer):
        _check(found, which)
        return found
    known = [name for name, value in vars(module).items() if isinstance(value, Consumer)]
    problem = "no consumer" if hasattr(module, attribute) else "not there"
    msg = f"{which}: {attribute!r} is {problem}; {module_name} has {_listed(known)}"
    raise CommandLineError(msg)


def _check(consumer: Consumer, which: str) -> None:
    try:
        consumer.handlers.check()
    except EventDefinitionError as exc:
        msg = f"{which} cannot be used: {exc}"
        raise CommandLineError(msg) from exc


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "no outbox.Consumer"


def route_of(run: Invocation, consumer: Consumer) -> str:
    """Return the name of the route that a consumer receives from."""
    own = run.settings.consumers.get(consumer.name)
    if own is not None and own.route is not None:
        return run.known_route(own.route)
    return run.route_names(None)[0]


def figures(counts: Counts) -> str:
    """Say what became of the events of a worker."""
    found = {
        "handled": counts.handled,
        "known already": counts.duplicate,
        "skipped": counts.skipped,
        "dead": counts.dead,
        "parked": counts.parked,
    }
    shown = [f"{count:,} {what}" for what, count in found.items() if count or what == "handled"]
    return ", ".join(shown)
