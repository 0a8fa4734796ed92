"""Each kind of role has the rights that it needs, and no more."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

import outbox
from outbox.consumer import Consumer
from outbox.dead_letter import Filter, request
from outbox.settings import Settings
from outbox.settlement import Counts
from outbox.transports.memory import MemoryBroker
from relay.daemon import Relay, Until
from tests.acceptance.cli import Program
from tests.dumping import psql
from tests.integration.consuming import TYPE, Counted, consume, counted, letters
from tests.pages import block, page
from tests.personal import check_rights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from outbox.context import Context
    from outbox.grants import Kind

KINDS: tuple[Kind, ...] = ("app", "relay", "worker", "read")


@dataclass
class Roles:
    """One role of each kind, in a database whose owner has run `outbox migrate --grant-…`."""

    engine: sa.Engine
    suffix: str
    printed: str = ""

    def name(self, kind: str) -> str:
        return f"{kind}-{self.suffix}"

    def engine_of(self, kind: str) -> sa.Engine:
        url = self.engine.url.set(username=self.name(kind))
        return sa.create_engine(url, poolclass=sa.NullPool)

    def __call__(self, kind: str) -> sa.Engine:
        return self.engine_of(kind)

    def options(self) -> list[str]:
        return [part for kind in KINDS for part in (f"--grant-{kind}", self.name(kind))]


@pytest.fixture
def program(tmp_path: Path, postgres_url: str) -> Program:
    return Program(tmp_path, {"OUTBOX_DATABASE_URL": postgres_url})


@pytest.fixture
def roles(postgres_engine: sa.Engine) -> Iterator[Roles]:
    """Roles that have no rights yet; their names have to be quoted."""
    made = Roles(postgres_engine, uuid.uuid4().hex[:8])
    with postgres_engine.begin() as connection:
        for kind in KINDS:
            connection.exec_driver_sql(f'CREATE ROLE "{made.name(kind)}" LOGIN')
    yield made
    with postgres_engine.begin() as connection:
        for kind in KINDS:
            connection.exec_driver_sql(f'DROP OWNED BY "{made.name(kind)}"')
            connection.exec_driver_sql(f'DROP ROLE "{made.name(kind)}"')


@pytest.fixture
def as_role(program: Program, roles: Roles) -> Roles:
    """The same, once they have been granted what each needs; twice does no harm."""
    for _ in range(2):
        done = program.call("migrate", *roles.options())
        assert done.returncode == 0, done.stderr
    roles.printed = done.stdout
    return roles


def test_the_runbook_shows_what_is_granted(as_role: Roles) -> None:
    lines = block(page("operations/runbook.md"), "sql").splitlines()
    shown = [line.removesuffix(";") for line in lines if line.startswith("GRANT")]
    granted = as_role.printed.replace('"', "").replace(f"-{as_role.suffix}", "").splitlines()
    assert granted[1:] == shown
    assert "warning" not in as_role.printed


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("app", "SELECT FROM outbox_event"),
        ("app", "UPDATE outbox_event SET type = 'x'"),
        ("app", "DELETE FROM outbox_event"),
        ("app", "TRUNCATE outbox_event"),
        ("app", "SELECT nextval('outbox_event_seq_seq')"),
        ("app", "SELECT setval('outbox_event_seq_seq', 1)"),
        ("app", "SELECT FROM outbox_checkpoint"),
        ("app", "UPDATE outbox_checkpoint SET position = NULL"),
        ("app", "SELECT FROM outbox_dead_letter"),
        ("app", "SELECT FROM outbox_inbox"),
        ("app", "UPDATE outbox_personal_key SET wrapped_key = NULL"),
        ("app", "DELETE FROM outbox_personal_key"),
        ("relay", "INSERT INTO outbox_event (type, data) VALUES ('t', '')"),
        ("relay", "UPDATE outbox_event SET type = 'x'"),
        ("relay", "TRUNCATE outbox_event"),
        ("relay", "DELETE FROM outbox_checkpoint"),
        ("relay", "INSERT INTO outbox_inbox VALUES ('c', 's', 'e')"),
        ("relay", "UPDATE outbox_inbox SET event_id = 'x'"),
        ("relay", "SELECT FROM outbox_personal_key"),
        ("app", "SELECT FROM outbox_audit"),
        ("app", "INSERT INTO outbox_audit (position) VALUES (1)"),
        ("app", "UPDATE outbox_audit SET actor = 'x'"),
        ("app", "DELETE FROM outbox_audit"),
        ("app", "TRUNCATE outbox_audit"),
        ("relay", "UPDATE outbox_audit SET actor = 'x'"),
        ("relay", "DELETE FROM outbox_audit"),
        ("relay", "TRUNCATE outbox_audit"),
        ("worker", "SELECT FROM outbox_audit"),
        ("read", "INSERT INTO outbox_audit (position) VALUES (1)"),
        ("read", "DELETE FROM outbox_audit"),
        ("worker", "SELECT FROM outbox_event"),
        ("worker", "INSERT INTO outbox_event (type, data) VALUES ('t', '')"),
        ("worker", "DELETE FROM outbox_inbox"),
        ("worker", "SELECT FROM outbox_checkpoint"),
        ("worker", "UPDATE outbox_personal_key SET wrapped_key = NULL"),
        ("read", "INSERT INTO outbox_event (type, data) VALUES ('t', '')"),
        ("read", "DELETE FROM outbox_event"),
        ("read", "UPDATE outbox_checkpoint SET position = NULL"),
        ("read", "DELETE FROM outbox_dead_letter"),
        ("read", "DELETE FROM outbox_inbox"),
        ("read", "SELECT FROM outbox_personal_key"),
    ],
)
def test_a_role_may_do_nothing_else(as_role: Roles, kind: str, statement: str) -> None:
    with as_role(kind).connect() as connection, pytest.raises(sa.exc.ProgrammingError) as caught:
        connection.exec_driver_sql(statement)
    assert isinstance(caught.value.orig, psycopg.errors.InsufficientPrivilege)


def test_an_application_makes_keys_and_a_worker_reads_them(as_role: Roles) -> None:
    check_rights(as_role("app"), as_role("worker"))


def test_one_who_looks_sees_status_and_events(as_role: Roles, program: Program) -> None:
    with as_role("app").begin() as connection:
        outbox.emit(connection, Counted(key="k", n=1))
    url = as_role("relay").url.render_as_string(hide_password=False)
    route = {"transport": "memory", "broker": uuid.uuid4().hex}
    settings = {"database_url": url, "routes": {"m": route}, "retention": {"events": "0s"}}
    Relay(Settings.model_validate(settings)).run(until=Until.DRAINED)
    program.environment["OUTBOX_ROUTES__M__TRANSPORT"] = "memory"
    program.environment["OUTBOX_DATABASE_URL"] = as_role("read").url.render_as_string()
    done = program.call("status", "--json")
    assert json.loads(done.stdout)["routes"][0]["floor"] == 1, done.stderr
    assert TYPE in program.call("events", "list").stdout
    assert program.call("dead-letters", "list").returncode == 0
    done = program.call("retention", OUTBOX_DATABASE_URL=url, OUTBOX_RETENTION__EVENTS="0s")
    assert done.stdout == "1 event deleted\n", done.stderr


def test_a_schema_of_their_own_is_opened_too(
    program: Program, roles: Roles, postgres_empty_url: str
) -> None:
    """The search path says where the tables are; the SQL that is printed works there as well."""
    url = sa.make_url(postgres_empty_url)
    schema = "Own Schema"
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql(f'CREATE SCHEMA "{schema}"')
        connection.exec_driver_sql("REVOKE ALL ON SCHEMA public FROM public")
        database = url.database
        connection.exec_driver_sql(f'ALTER DATABASE "{database}" SET search_path = "{schema}"')
    printed = program.call(
        "migrate", "--sql", *roles.options(), OUTBOX_DATABASE_URL=postgres_empty_url
    ).stdout
    psql(postgres_empty_url, printed)
    done = program.call("migrate", *roles.options(), OUTBOX_DATABASE_URL=postgres_empty_url)
    assert done.returncode == 0, done.stderr
    app = sa.create_engine(url.set(username=roles.name("app")), poolclass=sa.NullPool)
    with app.begin() as connection:
        outbox.emit(connection, Counted(key="k", n=1))
    read = sa.create_engine(url.set(username=roles.name("read")), poolclass=sa.NullPool)
    with read.begin() as connection:
        query = sa.text(f'SELECT type FROM "{schema}".outbox_event')
        assert connection.scalars(query).all() == [TYPE]
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        for kind in KINDS:
            connection.exec_driver_sql(f'DROP OWNED BY "{roles.name(kind)}"')


def test_a_role_that_can_do_more_by_another_way_is_told(
    program: Program, roles: Roles, postgres_engine: sa.Engine
) -> None:
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql(
            f'GRANT DELETE, TRUNCATE ON outbox_event TO "{roles.name("app")}"'
        )
    done = program.call("migrate", "--grant-app", roles.name("app"))
    assert f"warning: {roles.name('app')} may also DELETE, TRUNCATE on outbox_event" in done.stdout


@pytest.mark.parametrize("kind", ["app", "relay", "read"])
def test_a_role_that_could_change_the_audit_trail_is_told(
    program: Program, roles: Roles, postgres_engine: sa.Engine, kind: str
) -> None:
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql(f'GRANT UPDATE, DELETE ON outbox_audit TO "{roles.name(kind)}"')
    done = program.call("migrate", f"--grant-{kind}", roles.name(kind))
    assert f"warning: {roles.name(kind)} may also UPDATE, DELETE on outbox_audit" in done.stdout


def test_a_role_that_is_not_there_changes_nothing(program: Program, roles: Roles) -> None:
    done = program.call("migrate", *roles.options(), "--grant-read", "no'body")
    assert (done.returncode, done.stderr) == (
        1,
        'error: the server has no role "no\'body": make it first, by CREATE ROLE\n',
    )
    with roles("app").connect() as connection, pytest.raises(sa.exc.ProgrammingError):
        connection.exec_driver_sql("INSERT INTO outbox_event (type, data) VALUES ('t', '')")


def test_a_database_without_roles_says_so(program: Program, sqlite_url: str) -> None:
    done = program.call("migrate", "--grant-app", "x", OUTBOX_DATABASE_URL=sqlite_url)
    assert (done.returncode, "leave --grant-… out" in done.stderr) == (2, True)


def test_an_application_and_a_relay_do_with_the_rights_of_the_runbook(
    as_role: Roles,
) -> None:
    with as_role("app").begin() as connection:
        outbox.emit(connection, Counted(key="k", n=1))
        # No name of a topic: a dead letter is written, and the next one parked behind it.
        outbox.emit(connection, Counted(key="bad", n=2), topic="no topic")
        outbox.emit(connection, Counted(key="bad", n=3))
    name = uuid.uuid4().hex
    broker = MemoryBroker.named(name)
    url = as_role("relay").url.render_as_string(hide_password=False)
    route = {"transport": "memory", "broker": name}
    settings = Settings.model_validate({"database_url": url, "routes": {"m": route}})
    summary = Relay(settings).run(until=Until.DRAINED).routes["m"]
    assert (summary.published, summary.dead, summary.parked, summary.error) == (1, 1, 1, None)
    assert len(broker.messages(TYPE.rpartition(".")[0])) == 1


def test_a_worker_does_with_the_rights_of_the_runbook(
    as_role: Roles, postgres_engine: sa.Engine
) -> None:
    is_broken = True
    consumer = Consumer("tests", database=as_role("worker"))

    @consumer.on(Counted)
    def handle(event: Counted, _context: Context) -> None:
        if is_broken and event.n == 1:
            raise ValueError("broken")

    assert consume(consumer, [counted("k", n) for n in range(3)]) == Counts(
        handled=1, dead=1, parked=1
    )
    is_broken = False
    with postgres_engine.begin() as connection:
        request(connection, Filter())
    assert consume(consumer, []) == Counts(handled=2)
    assert letters(postgres_engine) == []
