"""PostgreSQL: one server a session, a migrated database for each test.

The server is the one at OUTBOX_TEST_POSTGRES, or is started when the first test asks for it.
"""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox.migration import upgrade
from tests.absence import mark, skipped_unless_ci, whereabouts
from tests.pool import assert_all_given_back
from tools.servers import PgBouncerServer, PostgresServer, pgbouncer, postgres
from tools.servers.pgbouncer import find_pgbouncer
from tools.servers.postgres import find_binaries

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "OUTBOX_TEST_POSTGRES"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(
        items,
        frozenset({"postgres_server", "own_postgres", "counting_postgres", "pooler"}),
        "postgres",
    )


def pytest_report_header() -> str:
    given = os.environ.get(VARIABLE)
    shown = given and sa.make_url(given).render_as_string(hide_password=True)
    return whereabouts("postgres", shown, find_binaries)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[sa.URL]:
    """The session's server; tests share it, so none of them may stop it."""
    given = os.environ.get(VARIABLE)
    if given:
        yield sa.make_url(given)
        return
    with skipped_unless_ci():
        find_binaries()
    with postgres() as server:
        yield sa.make_url(server.url())


@pytest.fixture(scope="session")
def postgres_template(postgres_server: sa.URL) -> Iterator[str]:
    """The name of a migrated database that tests clone."""
    with _database(postgres_server, "outbox_template") as url:
        upgrade(url)
        yield url.database or ""


@pytest.fixture
def postgres_url(postgres_server: sa.URL, postgres_template: str) -> Iterator[str]:
    """The URL of a migrated database of the test's own."""
    with postgres_migrated(postgres_server, postgres_template) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def postgres_empty_url(postgres_server: sa.URL) -> Iterator[str]:
    """The URL of a database of the test's own that has no tables."""
    with _database(postgres_server, "outbox_empty") as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def postgres_engine(postgres_url: str) -> Iterator[sa.Engine]:
    """An engine on a migrated database; the test must give back every connection."""
    engine = sa.create_engine(postgres_url)
    yield engine
    assert_all_given_back(engine)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server of the test's own, to stop, kill and freeze; its `postgres` database is empty."""
    with skipped_unless_ci():
        find_binaries()
    with postgres() as server:
        yield server


@pytest.fixture
def counting_postgres() -> Iterator[PostgresServer]:
    """A server of the test's own that counts each statement, BEGIN and COMMIT too."""
    with skipped_unless_ci():
        find_binaries()
    with postgres(settings={"shared_preload_libraries": "pg_stat_statements"}) as server:
        yield server


@pytest.fixture(scope="session")
def pooler(postgres_server: sa.URL) -> Iterator[PgBouncerServer]:
    """The session's PgBouncer; each transaction gets the session that rested longest."""
    with skipped_unless_ci():
        find_pgbouncer()
    host, port = postgres_server.host or "127.0.0.1", postgres_server.port or 5432
    user = postgres_server.username or "postgres"
    with pgbouncer(host, port, user=user, settings={"server_round_robin": "1"}) as server:
        yield server


@pytest.fixture
def pooled_url(postgres_url: str, pooler: PgBouncerServer) -> str:
    """The URL of a migrated database of the test's own, through PgBouncer."""
    return pooler.through(postgres_url)


@pytest.fixture
def pooled_engine(pooled_url: str) -> Iterator[sa.Engine]:
    """An application's engine on a database behind PgBouncer, as the runbook says."""
    engine = sa.create_engine(pooled_url, connect_args={"prepare_threshold": None})
    yield engine
    assert_all_given_back(engine)


@contextmanager
def postgres_migrated(server: sa.URL, template: str) -> Iterator[sa.URL]:
    """Make a migrated database that is gone when the block ends."""
    with _database(server, "outbox_test", template=template) as url:
        yield url


@contextmanager
def _database(server: sa.URL, prefix: str, *, template: str = "template1") -> Iterator[sa.URL]:
    name = f"{prefix}_{uuid.uuid4().hex}"
    _administer(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield server.set(database=name)
    finally:
        _administer(server, f'DROP DATABASE "{name}" WITH (FORCE)')


def _administer(server: sa.URL, statement: str) -> None:
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
