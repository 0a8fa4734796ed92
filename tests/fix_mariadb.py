"""MariaDB: one server a session, a migrated database for each test.

The server is the one at OUTBOX_TEST_MARIADB, or is started when the first test asks for it.
"""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox.migration import upgrade
from relay.database import make_engine
from tests.absence import mark, skipped_unless_ci, whereabouts
from tests.pool import assert_all_given_back
from tools.servers import MariaDbServer, mariadb
from tools.servers.mariadb import find_programs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VARIABLE = "OUTBOX_TEST_MARIADB"
PASSWORD = "sesame"
"""Of the users that tests make; it may be printed nowhere."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, frozenset({"mariadb_server", "own_mariadb"}), "mariadb")


def pytest_report_header() -> str:
    given = os.environ.get(VARIABLE)
    shown = given and sa.make_url(given).render_as_string(hide_password=True)
    return whereabouts("mariadb", shown, lambda: find_programs().server)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[sa.URL]:
    """The session's server; tests share it, so none of them may stop it."""
    given = os.environ.get(VARIABLE)
    if given:
        yield sa.make_url(given)
        return
    with skipped_unless_ci():
        find_programs()
    with mariadb() as server:
        yield sa.make_url(server.url())


@pytest.fixture(scope="session")
def mariadb_template(mariadb_server: sa.URL) -> Iterator[Sequence[str]]:
    """The statements that make a migrated database; MariaDB cannot clone one."""
    with mariadb_database(mariadb_server, "outbox_template") as url:
        upgrade(url)
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            tables = connection.exec_driver_sql("SHOW TABLES").scalars().all()
            made = [
                connection.exec_driver_sql(f"SHOW CREATE TABLE {table}").one()[1]
                for table in tables
            ]
            version = connection.exec_driver_sql("SELECT * FROM outbox_alembic_version").scalar()
        yield [*made, f"INSERT INTO outbox_alembic_version VALUES ('{version}')"]


@pytest.fixture
def mariadb_url(mariadb_server: sa.URL, mariadb_template: Sequence[str]) -> Iterator[str]:
    """The URL of a migrated database of the test's own."""
    with mariadb_migrated(mariadb_server, mariadb_template) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def mariadb_empty_url(mariadb_server: sa.URL) -> Iterator[str]:
    """The URL of a database of the test's own that has no tables."""
    with mariadb_database(mariadb_server, "outbox_empty") as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def mariadb_engine(mariadb_url: str) -> Iterator[sa.Engine]:
    """An engine on a migrated database; the test must give back every connection."""
    engine = sa.create_engine(mariadb_url)
    yield engine
    assert_all_given_back(engine)


@pytest.fixture
def mariadb_relay_engine(mariadb_url: str) -> Iterator[sa.Engine]:
    """The engine that a relay makes of such a database; the test must give everything back."""
    engine = make_engine(sa.make_url(mariadb_url))
    yield engine
    assert_all_given_back(engine)


@pytest.fixture
def mariadb_user(mariadb_url: str) -> Iterator[sa.URL]:
    """The URL of such a database for a user who has a password and no right at all."""
    with without_rights(sa.make_url(mariadb_url)) as url:
        yield url


@pytest.fixture
def own_mariadb() -> Iterator[MariaDbServer]:
    """A server of the test's own, to stop, kill and freeze; it has no database."""
    with skipped_unless_ci():
        find_programs()
    with mariadb() as server:
        yield server


@contextmanager
def mariadb_migrated(server: sa.URL, template: Sequence[str]) -> Iterator[sa.URL]:
    """Make a migrated database that is gone when the block ends."""
    with mariadb_database(server, "outbox_test") as url:
        administer(url, *template)
        yield url


@contextmanager
def mariadb_database(server: sa.URL, prefix: str) -> Iterator[sa.URL]:
    """Make a database without tables that is gone when the block ends."""
    name = f"{prefix}_{uuid.uuid4().hex}"
    administer(server, f"CREATE DATABASE {name}")
    try:
        yield server.set(database=name)
    finally:
        _end_sessions(server, name)
        administer(server, f"DROP DATABASE {name}")


@contextmanager
def without_rights(url: sa.URL) -> Iterator[sa.URL]:
    """Make a user without rights, who is gone when the block ends; yield its URL."""
    name = f"u{url.database}"[:30]
    administer(url, f"CREATE USER {name} IDENTIFIED BY '{PASSWORD}'")
    try:
        yield url.set(username=name, password=PASSWORD)
    finally:
        administer(url, f"DROP USER {name}")


def _end_sessions(server: sa.URL, database: str) -> None:
    """End what is left of a test: DROP would wait for the locks of its transactions."""
    engine = sa.create_engine(server, poolclass=sa.NullPool)
    with engine.connect() as connection:
        query = sa.text("SELECT id FROM information_schema.processlist WHERE db = :db")
        left = connection.scalars(query, {"db": database}).all()
    for session in left:
        try:
            administer(server, f"KILL CONNECTION {session}")
        except sa.exc.DBAPIError as exc:
            if exc.orig is None or exc.orig.args[0] != NO_SUCH_THREAD:
                raise


NO_SUCH_THREAD = 1094
"""The session ended by itself meanwhile."""


def administer(url: sa.URL, *statements: str) -> None:
    """Run statements as the user of a URL, each by itself."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))
