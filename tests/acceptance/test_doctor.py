"""`outbox doctor` looks at what the relay needs, and says what to do."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.absence import skipped_unless_ci
from tests.acceptance.cli import Program
from tests.fix_mariadb import PASSWORD, administer
from tools.servers.clock import find_faketime, wrong_clock

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tools.servers import PgBouncerServer

LOCAL = {"OUTBOX_ROUTES__LOCAL__TRANSPORT": "memory"}


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path, LOCAL)


def states(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the state of each check that a plain run printed."""
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    words = [line.partition(":")[0].split(maxsplit=1) for line in lines]
    return {check: state for state, check in words}


def advice(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.strip() for line in done.stdout.splitlines() if line.startswith(" ")]


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {each["check"]: each for each in json.loads(done.stdout)["checks"]}


@pytest.fixture
def role(postgres_engine: sa.Engine) -> Iterator[str]:
    """A role that owns nothing and may do nothing."""
    name = f"outbox_test_{uuid.uuid4().hex[:8]}"
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN")
    yield name
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {name}")
        connection.exec_driver_sql(f"DROP ROLE {name}")


def test_all_is_well_on_postgres(program: Program, postgres_url: str) -> None:
    done = program.run("doctor", OUTBOX_DATABASE_URL=postgres_url)
    assert done.returncode == 0, done.stderr
    found = states(done)
    assert found.pop("durability") == "degraded"  # servers of tests have fsync off
    assert found == dict.fromkeys(
        (
            "database",
            "clock",
            "version",
            "time-outs",
            "transactions",
            "connections",
            "pooler",
            "tables",
            "rights",
            "capture",
            "route local",
        ),
        "ok",
    )
    assert advice(done) == ["→ set fsync = on in postgresql.conf"]


def test_all_is_well_on_mariadb(program: Program, mariadb_url: str) -> None:
    done = program.run("doctor", OUTBOX_DATABASE_URL=mariadb_url)
    assert done.returncode == 0, done.stderr
    found = states(done)
    assert found.pop("durability") == "degraded"  # servers of tests do not flush each commit
    server = ("database", "clock", "version", "time-outs", "transactions", "connections")
    rest = ("tables", "rights", "capture", "route local")
    assert found == dict.fromkeys([*server, *rest], "ok")
    assert advice(done) == ["→ set innodb_flush_log_at_trx_commit = 1"]


def test_a_user_of_mariadb_without_rights_is_told_what_to_do(
    program: Program, mariadb_user: sa.URL
) -> None:
    text = mariadb_user.render_as_string(hide_password=False)
    done = program.run("doctor", OUTBOX_DATABASE_URL=text)
    assert done.returncode == 1
    assert "GRANT the user what is missing" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr


def test_the_rights_that_a_user_of_mariadb_lacks_are_told_as_grants_that_are_enough(
    program: Program, mariadb_url: str, mariadb_user: sa.URL
) -> None:
    user = mariadb_user.username
    assert user is not None
    done = program.call("migrate", "--grant-read", user, OUTBOX_DATABASE_URL=mariadb_url)
    assert done.returncode == 0, done.stderr
    text = mariadb_user.render_as_string(hide_password=False)
    done = program.call("doctor", "--json", OUTBOX_DATABASE_URL=text)
    assert done.returncode == 1
    rights = checks(done)["rights"]
    assert rights["state"] == "failed"
    assert "DELETE outbox_event, " in rights["found"]
    grants = rights["advice"].replace("this user", user).split("; ")
    administer(sa.make_url(mariadb_url), *grants)
    done = program.call("doctor", "--json", OUTBOX_DATABASE_URL=text)
    assert done.returncode == 0, done.stdout
    assert checks(done)["rights"]["state"] == "ok"


def test_all_is_well_on_sqlite(program: Program, sqlite_url: str) -> None:
    done = program.call("doctor", OUTBOX_DATABASE_URL=sqlite_url)
    assert done.returncode == 0
    names = ("database", "clock", "journal", "tables", "rights", "capture", "route local")
    assert states(done) == dict.fromkeys(names, "ok")


def test_a_pooler_is_told_and_is_no_failure(
    program: Program, postgres_url: str, pooler: PgBouncerServer
) -> None:
    url = pooler.through(postgres_url)
    done = program.run("doctor", "--json", OUTBOX_DATABASE_URL=url)
    assert done.returncode == 0
    found = checks(done)["pooler"]
    assert found["state"] == "degraded"
    assert "transaction mode" in found["found"]
    assert found["advice"]
    assert pooler.password not in done.stdout


def test_a_startup_parameter_that_a_pooler_refuses_is_told_with_what_to_set(
    program: Program, postgres_url: str, pooler: PgBouncerServer
) -> None:
    url = pooler.through(postgres_url) + "?options=-c%20geqo%3Doff"
    done = program.call("doctor", "--json", OUTBOX_DATABASE_URL=url)
    assert done.returncode == 1
    assert "ignore_startup_parameters = options" in checks(done)["database"]["advice"]
    assert pooler.password not in done.stdout + done.stderr


def test_a_database_that_does_not_answer_fails_and_routes_are_still_checked(
    program: Program,
) -> None:
    done = program.call("doctor", OUTBOX_DATABASE_URL="postgresql+psycopg://me@127.0.0.1:9/db")
    assert done.returncode == 1
    assert states(done) == {"database": "failed", "route local": "ok"}
    assert done.stderr == "error: 1 check failed: database\n"


@pytest.mark.parametrize("kind", ["postgres", "mariadb", "sqlite"])
def test_missing_tables_fail(
    program: Program, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    if kind != "sqlite":
        url = request.getfixturevalue(f"{kind}_empty_url")
    done = program.call("doctor", OUTBOX_DATABASE_URL=url)
    assert done.returncode == 1
    assert states(done)["tables"] == "failed"
    assert "→ run `outbox migrate`" in advice(done)
    assert "capture" not in states(done)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("ALTER TABLE outbox_dead_letter DROP COLUMN reason", "outbox_dead_letter lacks reason"),
        ("UPDATE outbox_alembic_version SET version_num = '0000'", "at revision 0000"),
    ],
)
def test_old_tables_fail(
    program: Program, postgres_engine: sa.Engine, change: str, words: str
) -> None:
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql(change)
    url = postgres_engine.url.render_as_string(hide_password=False)
    done = program.call("doctor", "--json", OUTBOX_DATABASE_URL=url)
    assert done.returncode == 1
    tables = checks(done)["tables"]
    assert tables["state"] == "failed"
    assert words in tables["found"]


def test_the_rights_that_a_role_lacks_are_told_as_grants_that_are_enough(
    program: Program, postgres_engine: sa.Engine, role: str
) -> None:
    url = postgres_engine.url.set(username=role).render_as_string(hide_password=False)
    done = program.call("doctor", "--json", OUTBOX_DATABASE_URL=url)
    assert done.returncode == 1
    rights = checks(done)["rights"]
    assert rights["state"] == "failed"
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql(rights["advice"].replace("this role", role))
    done = program.call("doctor", "--json", OUTBOX_DATABASE_URL=url)
    assert done.returncode == 0, done.stdout
    assert checks(done)["capture"]["state"] == "ok"
    assert "may not be read" in checks(done)["tables"]["found"]


def test_numbers_that_are_cached_fail(program: Program, postgres_engine: sa.Engine) -> None:
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql("ALTER SEQUENCE outbox_event_seq_seq CACHE 20")
    url = postgres_engine.url.render_as_string(hide_password=False)
    done = program.call("doctor", "--json", OUTBOX_DATABASE_URL=url)
    assert done.returncode == 1
    assert "ALTER SEQUENCE" in checks(done)["capture"]["found"]


def test_each_route_is_checked(program: Program, sqlite_url: str) -> None:
    done = program.call(
        "doctor",
        OUTBOX_DATABASE_URL=sqlite_url,
        OUTBOX_ROUTES__ARCHIVE__TRANSPORT="kafak",
        OUTBOX_ROUTES__COPY__TRANSPORT="kafka",
        OUTBOX_ROUTES__COPY__BOOTSTRAP_SERVER="localhost:9092",
    )
    assert done.returncode == 1
    found = states(done)
    assert {name: found[f"route {name}"] for name in ("archive", "copy", "local")} == {
        "archive": "failed",
        "copy": "failed",
        "local": "ok",
    }


def test_a_broker_that_does_not_answer_fails(program: Program, sqlite_url: str) -> None:
    done = program.call(
        "doctor",
        OUTBOX_DATABASE_URL=sqlite_url,
        OUTBOX_ROUTES__KAFKA__TRANSPORT="kafka",
        OUTBOX_ROUTES__KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:9",
    )
    assert done.returncode == 1
    assert states(done)["route kafka"] == "failed"
    assert "no broker of bootstrap_servers (127.0.0.1:9) answers" in done.stdout


def test_settings_without_a_route_deliver_nothing(tmp_path: Path, sqlite_url: str) -> None:
    done = Program(tmp_path).call("doctor", OUTBOX_DATABASE_URL=sqlite_url)
    assert done.returncode == 0
    assert states(done)["routes"] == "degraded"


@pytest.mark.parametrize(("offset", "words"), [("+1d", "ahead of"), ("-1h", "behind")])
def test_a_clock_that_differs_from_the_database_s_is_told(
    program: Program, postgres_url: str, offset: str, words: str
) -> None:
    with skipped_unless_ci():
        find_faketime()
    done = program.run("doctor", "--json", OUTBOX_DATABASE_URL=postgres_url, **wrong_clock(offset))
    assert done.returncode == 0, done.stderr
    clock = checks(done)["clock"]
    assert clock["state"] == "degraded"
    assert words in clock["found"]
