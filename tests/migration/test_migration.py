"""The migrations make what `outbox.table` declares, once, whoever runs them at the same time."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.orm import Session

import outbox
from outbox import migration
from outbox.errors import ConfigurationError
from tests.dumping import dump, psql
from tests.emitting import emit, names
from tests.fix_mariadb import administer, mariadb_database, without_rights
from tests.waiting import eventually


@pytest.fixture(params=["postgres_empty_url", "sqlite_empty_url", "mariadb_empty_url"])
def empty_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def sqlite_empty_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'empty.db'}"


def tables(url: str) -> set[str]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    return set(sa.inspect(engine).get_table_names())


def test_postgres_is_upgraded_to_what_the_tables_declare(
    postgres_url: str, postgres_empty_url: str
) -> None:
    outbox.metadata.create_all(sa.create_engine(postgres_empty_url, poolclass=sa.NullPool))
    assert dump(postgres_url, "--schema-only") == dump(postgres_empty_url, "--schema-only")


def test_sqlite_is_upgraded_to_what_the_tables_declare(
    sqlite_url: str, sqlite_empty_url: str
) -> None:
    outbox.metadata.create_all(sa.create_engine(sqlite_empty_url, poolclass=sa.NullPool))

    def schema(url: str) -> list[str]:
        with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
            found = connection.exec_driver_sql(
                "SELECT sql FROM sqlite_master WHERE tbl_name <> 'outbox_alembic_version'"
                " AND sql IS NOT NULL ORDER BY name"
            )
            return [re.sub(r"\s+", " ", sql) for sql in found.scalars()]

    assert schema(sqlite_url) == schema(sqlite_empty_url)


@pytest.mark.parametrize("name", ["mariadb", "mysql"])
def test_mariadb_is_upgraded_to_what_the_tables_declare(
    mariadb_server: sa.URL, mariadb_empty_url: str, name: str
) -> None:
    def schema(url: sa.URL) -> list[str]:
        with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
            return [
                connection.exec_driver_sql(f"SHOW CREATE TABLE {table}").one()[1]
                for table in outbox.metadata.tables
            ]

    url = sa.make_url(mariadb_empty_url).set(drivername=f"{name}+pymysql")
    migration.upgrade(url)
    with mariadb_database(mariadb_server, "outbox_declared") as other:
        declared = other.set(drivername=f"{name}+pymysql")
        outbox.metadata.create_all(sa.create_engine(declared, poolclass=sa.NullPool))
        assert schema(url) == schema(declared)
    assert "outbox_event_transaction" not in schema(url)[0]


# SQLAlchemy stumbles over its own reflection of a NOT VALID constraint.
@pytest.mark.filterwarnings("ignore:Can't validate argument 'dialect_options'")
def test_an_upgraded_database_has_nothing_left_to_generate(empty_url: str) -> None:
    migration.upgrade(empty_url)
    with sa.create_engine(empty_url, poolclass=sa.NullPool).connect() as connection:
        options: dict[str, object] = {"version_table": migration.VERSION_TABLE}
        if connection.dialect.name == "mariadb":
            options["include_object"] = migration.include_object
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, outbox.metadata) == []


def test_the_second_upgrade_changes_nothing_and_a_downgrade_leaves_nothing(empty_url: str) -> None:
    migration.upgrade(empty_url)
    migration.upgrade(empty_url)
    engine = sa.create_engine(empty_url, poolclass=sa.NullPool)
    with Session(engine) as session, session.begin():
        emit(session, "a")
    assert migration.current(engine) == migration.head()
    assert set(outbox.metadata.tables) < tables(empty_url)
    command.downgrade(migration.config(empty_url), "base")
    assert tables(empty_url) == {migration.VERSION_TABLE} | tables(empty_url) & {"sqlite_sequence"}
    migration.upgrade(empty_url)
    assert names(engine) == []


def test_processes_that_upgrade_postgres_at_the_same_time_wait_for_each_other(
    postgres_empty_url: str,
) -> None:
    engine = sa.create_engine(postgres_empty_url, poolclass=sa.NullPool)
    waiting = sa.text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with engine.connect() as connection:
        # The number that migrations/env.py locks: `outbox` in ASCII.
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({int.from_bytes(b'outbox', 'big')})")
        running = start_upgrades(postgres_empty_url)
        eventually(lambda: connection.scalar(waiting) == len(running))
        assert tables(postgres_empty_url) == set()
    assert_upgraded_once(postgres_empty_url, running)


def test_processes_that_upgrade_mariadb_at_the_same_time_wait_for_each_other(
    mariadb_empty_url: str,
) -> None:
    engine = sa.create_engine(mariadb_empty_url, poolclass=sa.NullPool)
    waiting = sa.text(
        "SELECT count(*) FROM information_schema.processlist"
        " WHERE db = DATABASE() AND state = 'User lock'"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql("DO GET_LOCK(CONCAT('outbox migrate ', MD5(DATABASE())), 0)")
        running = start_upgrades(mariadb_empty_url)
        eventually(lambda: connection.scalar(waiting) == len(running))
        assert tables(mariadb_empty_url) == set()
    assert_upgraded_once(mariadb_empty_url, running)


def test_processes_that_upgrade_sqlite_at_the_same_time_wait_for_each_other(
    sqlite_empty_url: str,
) -> None:
    path = sa.make_url(sqlite_empty_url).database or ""

    def has_opened(process: subprocess.Popen[str]) -> bool:
        files = Path(f"/proc/{process.pid}/fd").iterdir()
        return any(file.is_symlink() and str(file.readlink()) == path for file in files)

    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        running = start_upgrades(sqlite_empty_url)
        eventually(lambda: all(map(has_opened, running)))
        connection.execute("ROLLBACK")
    assert_upgraded_once(sqlite_empty_url, running)


def start_upgrades(url: str) -> list[subprocess.Popen[str]]:
    code = "import sys; from outbox.migration import upgrade; upgrade(sys.argv[1])"
    command = [sys.executable, "-W", "error", "-c", code, url]
    return [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]


def assert_upgraded_once(url: str, running: list[subprocess.Popen[str]]) -> None:
    assert [process.communicate(timeout=60)[1] for process in running] == [""] * len(running)
    assert set(outbox.metadata.tables) < tables(url)


def test_tables_of_somebody_else_are_refused_by_name(empty_url: str) -> None:
    outbox.metadata.create_all(sa.create_engine(empty_url, poolclass=sa.NullPool))
    with pytest.raises(ConfigurationError, match=r"already has outbox_event, .*outbox_inbox"):
        migration.upgrade(empty_url)


@pytest.mark.parametrize("empty_url", ["postgres_empty_url", "sqlite_empty_url"], indirect=True)
def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    engine = sa.create_engine(empty_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE x (y int)")
        connection.exec_driver_sql("CREATE INDEX outbox_dead_letter_unresolved ON x (y)")
    with pytest.raises(sa.exc.DBAPIError):
        migration.upgrade(empty_url)
    assert tables(empty_url) - {"x", migration.VERSION_TABLE, "sqlite_sequence"} == set()


def test_a_migration_of_mariadb_that_fails_leaves_nothing_behind(
    mariadb_empty_url: str,
) -> None:
    url = sa.make_url(mariadb_empty_url)
    with without_rights(url) as user:
        # An index of the fourth of five tables is what it may not make.
        may = "CREATE, DROP, SELECT, INSERT"
        administer(url, f"GRANT {may} ON {url.database}.* TO {user.username}")
        with pytest.raises(sa.exc.DBAPIError, match="INDEX command denied"):
            migration.upgrade(user)
    assert tables(mariadb_empty_url) == {migration.VERSION_TABLE}
    migration.upgrade(url)


def test_the_history_of_an_application_is_left_alone(empty_url: str) -> None:
    engine = sa.create_engine(empty_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num varchar(32))")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('theirs')")
    migration.upgrade(empty_url)
    command.downgrade(migration.config(empty_url), "base")
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version")
        assert found.scalars().all() == ["theirs"]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://nobody@localhost/x",
        "sqlite://",
        "mariadb+pymysql://nobody@localhost/x",
    ],
)
def test_the_sql_can_be_printed_without_a_connection(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    migration.print_sql(url)
    printed = capsys.readouterr().out
    for table in outbox.metadata.tables:
        assert f"CREATE TABLE {table} " in printed
    assert ("ADD CONSTRAINT outbox_event_own" in printed) == url.startswith("postgresql")


def test_a_dump_of_events_can_be_restored(postgres_url: str, postgres_empty_url: str) -> None:
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    with Session(engine) as session, session.begin():
        for name in "abc":
            emit(session, name)
    psql(postgres_empty_url, dump(postgres_url))
    restored = sa.create_engine(postgres_empty_url, poolclass=sa.NullPool)
    assert names(restored) == ["a", "b", "c"]
    with Session(restored) as session, session.begin():
        emit(session, "d")
    assert names(restored) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE outbox_event SET type = 'other'",
        "INSERT INTO outbox_event (seq, type, data) OVERRIDING SYSTEM VALUE VALUES (99, 't', '')",
        "INSERT INTO outbox_event (transaction_id, type, data) VALUES ('3', 't', '')",
        "INSERT INTO outbox_event (transaction_id, type, data) VALUES (NULL, 't', '')",
    ],
)
def test_the_guard_refuses_rows_that_no_transaction_has_just_written(
    postgres_url: str, statement: str
) -> None:
    dsn = (
        sa.make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    )
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO outbox_event (type, data) VALUES ('t', '')")
        connection.commit()
        with pytest.raises(psycopg.errors.CheckViolation, match="outbox_event_own"):
            connection.execute(statement)
