"""`outbox relay`: run the routes."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Annotated

import typer

from outbox.cli import personal
from outbox.cli.consume import figures, load, route_of
from outbox.cli.drain import progress
from outbox.cli.errors import CommandLineError, FailedError
from outbox.cli.invocation import Invocation, of
from outbox.cli.output import counted
from outbox.cli.process import (
    LogFormat,
    LogFormatOption,
    LogLevel,
    LogLevelOption,
    check_transports,
    configure_logs,
    refuse_memory,
)
from outbox.cli.workers import Workers
from outbox.keys import use_key_store
from outbox.worker import open_worker
from relay.daemon import (
    DRAIN_SECONDS,
    Relay,
    RouteSummary,
    Summary,
    Until,
    spare_collector,
    stopped_by_signals,
)


def relay(
    context: typer.Context,
    *,
    route: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this route; may be repeated.")
    ] = None,
    drain: Annotated[
        bool, typer.Option("--drain", help="Deliver what is there, then end.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Deliver one page of each route, then end.")
    ] = False,
    drain_timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="Fail after so long without progress."),
    ] = DRAIN_SECONDS,
    rebase: Annotated[
        bool,
        typer.Option("--rebase", help="First move positions of another server to this one."),
    ] = False,
    consume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:CONSUMER",
            help="Run a worker of it in this process too, as memory routes need; may be repeated.",
        ),
    ] = None,
    log_format: LogFormatOption = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Move events from the outbox to brokers, until SIGTERM or Ctrl-C."""
    run = of(context)
    if drain and once:
        msg = "give --drain or --once, not both"
        raise CommandLineError(msg)
    until = Until.DRAINED if drain else Until.ONCE if once else Until.FOREVER
    names = run.route_names(route)
    check_transports(run.settings, names)
    if consume:
        use_key_store(personal.store_of(run))
    consumers = {consumer.name: consumer for consumer in map(load, consume or ())}
    received = [route_of(run, consumer) for consumer in consumers.values()]
    check_transports(run.settings, received, receives=True)
    refuse_memory(run.settings, [name for name in names if name not in received])
    # A relay that runs waits for its database; one that starts says that it cannot reach it.
    run.require_tables()
    if rebase:
        _rebase(run, names)
    stop = threading.Event()
    # Before the relay runs: from then on their groups miss nothing.
    workers = {name: open_worker(consumer, run.settings) for name, consumer in consumers.items()}
    spare_collector()
    with ExitStack() as stack:
        if drain and run.output.is_terminal:
            stack.enter_context(progress(run, names))
        configure_logs(log_format, log_level)
        stack.enter_context(stopped_by_signals(stop))
        # They end after the relay, which waits until events in memory are processed.
        stack.enter_context(Workers(workers, on_failure=stop.set))
        summary = Relay(run.settings, names, drain_timeout=drain_timeout).run(stop, until)
    for name, worker in workers.items():
        run.output.line(f"consumer {name}: {figures(worker.counts)}")
    _report(run, summary)


def _rebase(run: Invocation, names: list[str]) -> None:
    from relay.rebase import rebase as rebase_route  # noqa: PLC0415  # needs PostgreSQL's driver

    for name in names:
        for moved, count in rebase_route(run.engine, name).counts.items():
            run.output.line(
                f"route {moved} is moved here; it sends {counted(count, 'event')} again"
            )


def _report(run: Invocation, summary: Summary) -> None:
    """Print what each route did; raises `FailedError` where the relay failed."""
    for name, route in summary.routes.items():
        run.output.line(f"route {name}: {_figures(route)}")
    if summary.exit_code:
        errors = [route.error for route in summary.routes.values() if route.error is not None]
        raise FailedError("; ".join(errors))


def _figures(route: RouteSummary) -> str:
    figures = {"published": route.published, "dead": route.dead, "parked": route.parked}
    shown = [f"{count:,} {what}" for what, count in figures.items() if count or what == "published"]
    return ", ".join(shown)
