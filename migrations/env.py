"""Runs the migrations with a URL from `outbox.migration`, the settings or `alembic -x url=…`."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import context

from outbox import settings
from outbox.engine import make_engine
from outbox.migration import VERSION_TABLE
from outbox.table import metadata

LOCK = 0x6F7574626F78
"""The number of PostgreSQL's advisory lock: `outbox` in ASCII."""


def url() -> sa.URL:
    """Return the database to migrate."""
    given: str | sa.URL | None = context.config.attributes.get("url")
    given = given or context.get_x_argument(as_dictionary=True).get("url")
    return sa.make_url(given) if given else settings.load().url


def run_offline() -> None:
    """Print the SQL instead of running it (`alembic upgrade head --sql`)."""
    context.configure(
        url=url(), target_metadata=metadata, literal_binds=True, version_table=VERSION_TABLE
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run what is missing in one transaction; another process that does the same waits for it."""
    is_postgres = url().get_backend_name() == "postgresql"
    # Whoever waited for the lock has to see what was done meanwhile.
    options = {"isolation_level": "READ COMMITTED"} if is_postgres else {}
    engine = make_engine(url(), "outbox migrate", poolclass=sa.NullPool, **options)
    if engine.dialect.name == "sqlite":
        begin_by_hand(engine)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            version_table=VERSION_TABLE,
            transactional_ddl=True,
        )
        with context.begin_transaction():
            if is_postgres:
                # Of the transaction, not of a session: behind a pooler that would keep it.
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            context.run_migrations()


def begin_by_hand(engine: sa.Engine) -> None:
    """Let a transaction hold SQLite's write lock from its start, and DDL be part of it."""

    def connect(driver: Any, _record: object) -> None:
        driver.isolation_level = None

    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sa.event.listen(engine, "connect", connect)
    sa.event.listen(engine, "begin", begin)


if context.is_offline_mode():
    run_offline()
else:
    run_online()
