"""Runs the migrations with a URL from `outbox.migration`, the settings or `alembic -x url=…`."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import context

from outbox import settings
from outbox.dialect import MYSQL
from outbox.engine import is_pymysql, make_engine
from outbox.migration import VERSION_TABLE, include_object
from outbox.table import metadata

LOCK = 0x6F7574626F78
"""The number of PostgreSQL's advisory lock: `outbox` in ASCII."""
LOCK_MYSQL = "SELECT GET_LOCK(CONCAT('outbox migrate ', MD5(DATABASE())), 31536000)"
"""MariaDB's locks have names, for the whole server; it is given back when the connection ends."""
PATIENT = {"read_timeout": None, "write_timeout": None}
"""To wait for that, and for what takes its time on a large table."""


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
    backend = url().get_backend_name()
    # Whoever waited for the lock has to see what was done meanwhile.
    options = {"isolation_level": "READ COMMITTED"} if backend != "sqlite" else {}
    arguments = PATIENT if is_pymysql(url()) else {}
    engine = make_engine(url(), "outbox migrate", arguments, poolclass=sa.NullPool, **options)
    if engine.dialect.name == "sqlite":
        begin_by_hand(engine)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            version_table=VERSION_TABLE,
            include_object=include_object,
            transactional_ddl=True,
        )
        with context.begin_transaction():
            if backend == "postgresql":
                # Of the transaction, not of a session: behind a pooler that would keep it.
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            elif backend in MYSQL:
                # Of the session, because there each statement that makes a table commits.
                connection.exec_driver_sql(LOCK_MYSQL)
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
