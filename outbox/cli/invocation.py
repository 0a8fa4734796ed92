"""One run of the program: its settings and its database, read when a command asks for them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import typer

from outbox.cli.errors import USAGE, CommandLineError, FailedError
from outbox.cli.output import Output
from outbox.dialect import MYSQL
from outbox.engine import is_pymysql, make_engine, missing_driver
from outbox.errors import ConfigurationError
from outbox.settings import DEFAULT_FILE, Settings, load
from outbox.table import outbox_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Invocation:
    """What the options before the command say, and what follows from them."""

    config: Path | None = None
    debug: bool = False

    @cached_property
    def output(self) -> Output:
        """Standard output."""
        return Output()

    @cached_property
    def settings(self) -> Settings:
        """The settings; raises `CommandLineError` where they are missing or wrong."""
        if not self.has_settings:
            msg = (
                'there are no settings: set OUTBOX_DATABASE_URL, or write database_url = "…" into'
                f" {DEFAULT_FILE} here or into a file that --config names"
            )
            raise CommandLineError(msg)
        try:
            settings = load(self.config)
        except ConfigurationError as exc:
            raise CommandLineError(str(exc)) from exc
        _check_driver(settings.url)
        return settings

    @property
    def has_settings(self) -> bool:
        """Whether anything says what the settings are."""
        return (
            self.config is not None
            or bool({"OUTBOX_DATABASE_URL", "OUTBOX_CONFIG"} & os.environ.keys())
            or DEFAULT_FILE.exists()
        )

    @cached_property
    def engine(self) -> sa.Engine:
        """The database, with a connection for each use and none kept."""
        url = self.settings.url
        options: dict[str, Any] = {"poolclass": sa.NullPool}
        if is_pymysql(url):
            # Else it would lock whatever its statements look at, and workers would wait for it.
            options["isolation_level"] = "READ COMMITTED"
        return make_engine(url, "outbox", **options)

    def require_tables(self) -> None:
        """Raise what SQLAlchemy raises where the database or its tables cannot be used."""
        with self.engine.connect() as connection:
            connection.execute(sa.select(1).select_from(outbox_checkpoint).limit(1))

    def route_names(self, chosen: list[str] | None) -> list[str]:
        """Return the chosen routes, or all; raises `CommandLineError` for one there is not."""
        known = list(self.settings.routes)
        if not known:
            msg = 'the settings have no route: add [routes.NAME] with transport = "…"'
            raise CommandLineError(msg)
        names = [self.known_route(name) for name in chosen or ()]
        return list(dict.fromkeys(names)) or known

    def known_route(self, name: str) -> str:
        """Return the name of a route; raises `CommandLineError` where there is no such one."""
        try:
            self.settings.route(name)
        except ConfigurationError as exc:
            raise CommandLineError(str(exc)) from exc
        return name

    def confirm(self, question: str) -> None:
        """Ask on a terminal; raises `CommandLineError` where nobody can answer, or says no."""
        if not (sys.stdin.isatty() and self.output.is_terminal):
            msg = "nobody is there to confirm it: add --yes"
            raise CommandLineError(msg)
        if not typer.confirm(question):
            msg = "nothing was changed"
            raise FailedError(msg)


def of(context: typer.Context) -> Invocation:
    """Return the run that a command belongs to."""
    run = context.find_object(Invocation)
    if run is None:
        msg = "a command was called outside the program"
        raise RuntimeError(msg)
    return run


def require_command(context: typer.Context) -> None:
    """Show the commands of a group that was called without one."""
    if context.invoked_subcommand is None:
        of(context).output.raw(context.get_help())
        raise typer.Exit(USAGE)


def _check_driver(url: sa.URL) -> None:
    """Refuse a driver that is absent, async or untried before anything tries to connect."""
    try:
        is_async = url.get_dialect().is_async
        if not is_async:
            url.get_dialect().import_dbapi()
    except ModuleNotFoundError as exc:
        msg = f"database_url needs {missing_driver(exc)}"
        if url.get_backend_name() == "postgresql":
            msg += "; write postgresql+psycopg://…"
        elif url.get_backend_name() in MYSQL and not is_pymysql(url):
            msg += "; write mariadb+pymysql://…"
        raise CommandLineError(msg) from exc
    if is_async:
        msg = (
            f"database_url has the async driver {url.drivername}; the relay and this program use a"
            " sync one, for instance postgresql+psycopg://…, mariadb+pymysql://… or sqlite:///…"
        )
        raise CommandLineError(msg)
    if url.get_backend_name() in MYSQL and not is_pymysql(url):
        # Its time-outs and limits would not be set, and a relay that hangs would keep its locks.
        msg = f"database_url has the driver {url.get_driver_name()}; write mariadb+pymysql://…"
        raise CommandLineError(msg)
    if url.get_backend_name() in MYSQL and not url.database:
        msg = f"database_url names no database; write {url.drivername}://user@host/database"
        raise CommandLineError(msg)
