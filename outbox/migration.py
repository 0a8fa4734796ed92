"""Creates and upgrades the tables: `outbox migrate`, and the same for programs."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

if TYPE_CHECKING:
    import sqlalchemy as sa

VERSION_TABLE: Final = "outbox_alembic_version"
"""A table of its own: the application may have an Alembic history in the same schema."""


def upgrade(url: str | sa.URL, revision: str = "head") -> None:
    """Bring the tables of a database to a revision, by default the newest.

    A failure leaves no half of a revision behind. Running it again
    changes nothing, and processes that run it at the same time wait for each other. Raises
    `ConfigurationError` where the tables are there, but were made by somebody else.
    """
    command.upgrade(config(url), revision)


def print_sql(url: str | sa.URL, revision: str = "head") -> None:
    """Print the SQL that makes the tables, for someone else to run; it does not connect."""
    command.upgrade(config(url), revision, sql=True)


def include_object(object_: Any, name: str | None, type_: str, *_: object) -> bool:
    """Keep `alembic revision --autogenerate` from an index that MariaDB and MySQL do without.

    An application that has the outbox on one of them and its own Alembic hands this to
    `context.configure(include_object=…)`, or asks it in a function of its own.
    """
    del object_
    return (type_, name) != ("index", "outbox_event_transaction")


def current(engine: sa.Engine) -> str | None:
    """Return the revision that a database is at; None where it has no tables yet."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        return context.get_current_revision()


def head() -> str | None:
    """Return the newest revision that this program knows."""
    return ScriptDirectory(_folder()).get_current_head()


def config(url: str | sa.URL) -> Config:
    """Return Alembic's configuration for the migrations that come with this package."""
    made = Config()
    made.set_main_option("script_location", str(_folder()))
    made.attributes["url"] = url
    return made


def _folder() -> Path:
    """Find the migrations: inside the installed package, or beside it in a checkout."""
    package = Path(str(files("outbox")))
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
