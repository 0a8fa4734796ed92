"""Puts the commands together, and runs one of them to an exit code."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from outbox.cli import (
    asyncapi,
    audit,
    bench,
    consume,
    dead_letters,
    demo,
    doctor,
    events,
    migrate,
    personal,
    registry,
    relay,
    replay,
    retention,
    routes,
    schema,
    status,
    timeline,
)
from outbox.cli.errors import DONE, INTERRUPTED, USAGE, problem_of, report
from outbox.cli.invocation import Invocation, of

app = typer.Typer(
    name="outbox",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("migrate")(migrate.migrate)
app.command("relay")(relay.relay)
app.command("consume")(consume.consume)
app.command("status")(status.status)
app.add_typer(events.app, name="events")
app.add_typer(dead_letters.app, name="dead-letters")
app.command("replay")(replay.replay)
app.command("doctor")(doctor.doctor)
app.command("retention")(retention.retention)
app.add_typer(routes.app, name="routes")
app.command("forget")(personal.forget)
app.add_typer(personal.app, name="personal")
schema.app.command("asyncapi")(asyncapi.asyncapi)
schema.app.command("docs")(asyncapi.docs)
app.add_typer(schema.app, name="schema")
app.add_typer(registry.app, name="registry")
audit.app.command("timeline")(timeline.timeline)
app.add_typer(audit.app, name="audit")
app.add_typer(bench.app, name="bench")


def _print_version(asked: bool) -> None:  # noqa: FBT001  # typer passes the option's value
    if asked:
        sys.stdout.write(f"outbox {version('outbox-relay')}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    *,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings to use instead of outbox.toml."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show it."),
    ] = False,
) -> None:
    """Events that commit with your data, and reach the broker afterwards."""
    del show_version
    run = of(context)
    run.config, run.debug = config, debug
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")
        raise typer.Exit(USAGE)


def run(arguments: list[str] | None = None) -> int:
    """Run one command line, by default the process's own; returns the exit code."""
    invocation = Invocation()
    code = _run(arguments, invocation)
    try:
        invocation.output.flush()
    except typer.Exit as end:
        return code or end.exit_code
    return code


def _run(arguments: list[str] | None, invocation: Invocation) -> int:
    try:
        code = app(arguments, prog_name="outbox", standalone_mode=False, obj=invocation)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:  # noqa: BLE001  # the border: whatever it is, someone has to be told
        problem = problem_of(error, invocation)
        report(problem, error, debug=invocation.debug)
        return problem.exit_code
    return code if isinstance(code, int) else DONE
