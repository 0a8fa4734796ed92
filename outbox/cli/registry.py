"""`outbox registry`: put schemas into the registry that a route's events are written by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outbox import formats
from outbox.cli.errors import CommandLineError
from outbox.cli.invocation import Invocation, of, require_command
from outbox.cli.output import Column
from outbox.transports import receiving_transport_of, transport_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from outbox.formats.register import Registered
    from outbox.formats.settings import SchemaSettings

app = typer.Typer(
    help="Put schemas into the registry that a route's events are written by.",
    invoke_without_command=True,
    callback=require_command,
)
REGISTRY_SECONDS = 10.0
"""How long the registry may take to answer."""


@app.command("register")
def register(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|FOLDER…", help="For instance shop.order.placed.v1.avsc."),
    ],
    *,
    route: Annotated[
        str | None, typer.Option(metavar="NAME", help="The route; needed where several fit.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Register the schemas in files that are in the format the route writes their types in.

    A file is called TYPE.vVERSION with .avsc (Avro), .proto or .json (JSON Schema). What is there
    already stays, so it may be run by every deployment.
    """
    run = of(context)
    name, settings = _chosen(run, route)
    route_settings = run.settings.route(name)
    _, options = transport_of(name, route_settings)
    formats.check(name, settings, options)
    # Only now, because they need an extra.
    from outbox.formats import register as files  # noqa: PLC0415
    from outbox.formats.registry import Registry  # noqa: PLC0415

    found = files.find(paths)
    chosen = files.wanted(found, settings)
    if not chosen:
        known = ", ".join(sorted({each.event_type for each in found}))
        msg = f"routes.{name}.schemas writes none of {known} in the format of its file"
        raise CommandLineError(msg)
    registry = Registry(f"routes.{name}.schemas", settings, REGISTRY_SECONDS)
    try:
        topic_of = _topics(run, name, settings)
        results = [files.register(each, settings, registry, topic_of) for each in chosen]
    finally:
        registry.close()
    _show(run, results, as_json=as_json)


def _chosen(run: Invocation, name: str | None) -> tuple[str, SchemaSettings]:
    known = {
        each: settings.schemas
        for each, settings in run.settings.routes.items()
        if settings.schemas is not None
    }
    if name is not None:
        run.known_route(name)
        if name not in known:
            msg = f"the route {name} has no schemas: add [routes.{name}.schemas] with registry"
            raise CommandLineError(msg)
        return name, known[name]
    if len(known) != 1:
        names = f"several routes have schemas: {', '.join(known)}; choose one by --route"
        msg = names if known else "no route has schemas: add [routes.NAME.schemas] with registry"
        raise CommandLineError(msg)
    ((found, settings),) = known.items()
    return found, settings


def _topics(run: Invocation, name: str, settings: SchemaSettings) -> Callable[[str], str | None]:
    if settings.subject == "record":
        return lambda _event_type: None
    transport, options = receiving_transport_of(name, run.settings.route(name))
    return lambda event_type: transport.topic_of(options, event_type)


def _show(run: Invocation, results: list[Registered], *, as_json: bool) -> None:
    if as_json:
        run.output.json({"schemas": [_facts(each) for each in results]})
        return
    columns = [
        Column("type", shrinks=True),
        Column("version", right=True),
        Column("subject", shrinks=True),
        Column("schema id", right=True),
        Column(""),
    ]
    rows: list[tuple[Any, ...]] = [
        (each.file.event_type, each.file.version, each.subject, each.id, each.state)
        for each in results
    ]
    run.output.table(columns, rows)


def _facts(result: Registered) -> dict[str, Any]:
    return {
        "type": result.file.event_type,
        "version": result.file.version,
        "format": result.file.format,
        "subject": result.subject,
        "subject_version": result.version,
        "id": result.id,
        "state": result.state,
    }
