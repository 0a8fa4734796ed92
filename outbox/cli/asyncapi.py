"""`outbox schema asyncapi` and `outbox schema docs`: what an application publishes and receives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outbox.asyncapi import document
from outbox.asyncapi.broker import Outlet, outlet
from outbox.asyncapi.landscape import Landscape, landscape
from outbox.cli.application import consumers_in, load_catalogue
from outbox.cli.docs_html import page
from outbox.cli.errors import CommandLineError
from outbox.cli.files import write_whole
from outbox.cli.invocation import Invocation, of
from outbox.cli.output import json_text
from outbox.errors import ConfigurationError
from outbox.settings import Settings

AppOption = Annotated[
    list[str],
    typer.Option(
        "--app",
        metavar="MODULE",
        help="Whose events and consumers, for instance shop.billing; repeat it.",
    ),
]
TitleOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="By default it names the first module.")
]


def asyncapi(
    context: typer.Context,
    *,
    apps: AppOption,
    path: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="By default it is printed."),
    ] = None,
    title: TitleOption = None,
    document_version: Annotated[
        str, typer.Option(metavar="TEXT", help="What the document calls its own version.")
    ] = "1.0.0",
) -> None:
    """Write an AsyncAPI 3.0 document (JSON) of events, routes and consumers.

    Routes are those of the settings, where there are any. No secret of theirs is in it.
    """
    run = of(context)
    found, outlets = _look(run, apps)
    info = document.Info(title or f"Events of {apps[0]}", document_version)
    converting = {
        each.route: each.settings.schemas for each in outlets if each.settings.schemas is not None
    }
    text = json_text(document.asyncapi(found, info, converting), indent=True)
    if path is None:
        run.output.raw(text)
        return
    write_whole(path, text + "\n")
    run.output.line(f"wrote {path}")


def docs(
    context: typer.Context,
    *,
    apps: AppOption,
    path: Annotated[Path, typer.Option("--to", metavar="FILE.html")],
    title: TitleOption = None,
) -> None:
    """Write a page about events, topics and consumers, for a browser.

    It is one file that needs no network. No secret of the settings is in it.
    """
    run = of(context)
    found, _ = _look(run, apps)
    write_whole(path, page(found, title or f"Events of {apps[0]}"))
    run.output.line(f"wrote {path}")


def _look(run: Invocation, apps: list[str]) -> tuple[Landscape, list[Outlet]]:
    """Import the application, and read the settings where there are any."""
    event_types = load_catalogue(apps)
    consumers = consumers_in(apps)
    settings = run.settings if run.has_settings else None
    if settings is None:
        source = str(Settings.model_fields["source"].default)
        return landscape(source, event_types, [], consumers, {}), []
    try:
        outlets = [outlet(name, route) for name, route in settings.routes.items()]
        _check_routes(settings)
    except ConfigurationError as exc:
        raise CommandLineError(str(exc)) from exc
    return landscape(settings.source, event_types, outlets, consumers, settings.consumers), outlets


def _check_routes(settings: Settings) -> None:
    for each in settings.consumers.values():
        if each.route is not None:
            settings.route(each.route)
