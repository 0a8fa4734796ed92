"""Runs the migrations with a URL from `outbox.migration`, the settings or `alembic -x url=…`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from outbox import settings
from outbox.migration import VERSION_TABLE
from outbox.table import metadata


def url() -> str | sa.URL:
    """Return the database to migrate."""
    given: str | sa.URL | None = context.config.attributes.get("url")
    given = given or context.get_x_argument(as_dictionary=True).get("url")
    return given or settings.load().url


def run_offline() -> None:
    """Print the SQL instead of running it (`alembic upgrade head --sql`)."""
    context.configure(
        url=url(), target_metadata=metadata, literal_binds=True, version_table=VERSION_TABLE
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run each revision in a transaction of its own."""
    engine = sa.create_engine(url(), poolclass=sa.NullPool)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            version_table=VERSION_TABLE,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
