"""Each kind of user of MariaDB has the rights that it needs, and no more."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import outbox
from outbox.consumer import Consumer
from outbox.dead_letter import Filter, request
from outbox.dialect import DENIED_NUMBERS, mysql_number
from outbox.settings import Settings
from outbox.settlement import Counts
from outbox.transports.memory import MemoryBroker
from relay.daemon import Relay, Until
from tests.acceptance.cli import Program
from tests.fix_mariadb import PASSWORD, administer
from tests.integration.consuming import TYPE, Counted, consume, counted, letters
from tests.pages import block, page
from tests.personal import check_rights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from outbox.context import Context

NAMES = {"app": "shop", "relay": "relay", "worker": "billing", "read": "ops"}
"""What the page calls a user of each kind."""


@dataclass
class Users:
    """One user of each kind, in a database whose owner has run `outbox migrate --grant-…`."""

    url: sa.URL
    suffix: str = field(default_factory=lambda: f"-{uuid.uuid4().hex[:8]}")
    printed: str = ""

    def name(self, kind: str) -> str:
        return NAMES[kind] + self.suffix

    def url_of(self, kind: str) -> sa.URL:
        return self.url.set(username=self.name(kind), password=PASSWORD)

    def text(self, kind: str) -> str:
        return self.url_of(kind).render_as_string(hide_password=False)

    def __call__(self, kind: str) -> sa.Engine:
        return sa.create_engine(self.url_of(kind), poolclass=sa.NullPool)

    def options(self) -> list[str]:
        return [part for kind in NAMES for part in (f"--grant-{kind}", self.name(kind))]


@pytest.fixture
def program(tmp_path: Path, mariadb_url: str) -> Program:
    return Program(tmp_path, {"OUTBOX_DATABASE_URL": mariadb_url})


@pytest.fixture
def users(mariadb_url: str) -> Iterator[Users]:
    """Users who have no rights yet; their names have to be quoted."""
    made = Users(sa.make_url(mariadb_url))
    names = [f"`{made.name(kind)}`" for kind in NAMES]
    administer(made.url, *[f"CREATE USER {name} IDENTIFIED BY '{PASSWORD}'" for name in names])
    yield made
    administer(made.url, *[f"DROP USER {name}" for name in names])


@pytest.fixture
def granted(program: Program, users: Users) -> Users:
    """The same, once they have been granted what each needs; twice does no harm."""
    for _ in range(2):
        done = program.call("migrate", *users.options())
        assert done.returncode == 0, done.stderr
    users.printed = done.stdout
    return users


def test_the_page_shows_what_is_granted(granted: Users) -> None:
    shown_lines = block(page("guide/databases.md"), "sql", "GRANT").splitlines()
    shown = [line.removesuffix(";") for line in shown_lines if line.startswith("GRANT")]
    lines = granted.printed.replace("`", "").replace(granted.suffix, "").splitlines()
    assert lines[1:] == shown
    assert "warning" not in granted.printed


FORBIDDEN = [
    ("app", "SELECT type FROM outbox_event"),
    ("app", "INSERT INTO outbox_event (seq, type, data) VALUES (1, 't', '')"),
    ("app", "UPDATE outbox_event SET type = 'x'"),
    ("app", "DELETE FROM outbox_event"),
    ("app", "TRUNCATE outbox_event"),
    ("app", "ALTER TABLE outbox_event AUTO_INCREMENT = 1"),
    ("app", "SELECT route FROM outbox_checkpoint"),
    ("app", "UPDATE outbox_checkpoint SET position = NULL"),
    ("app", "SELECT id FROM outbox_dead_letter"),
    ("app", "SELECT event_id FROM outbox_inbox"),
    ("app", "UPDATE outbox_personal_key SET wrapped_key = NULL"),
    ("app", "DELETE FROM outbox_personal_key"),
    ("relay", "INSERT INTO outbox_event (type, data) VALUES ('t', '')"),
    ("relay", "UPDATE outbox_event SET type = 'x'"),
    ("relay", "TRUNCATE outbox_event"),
    ("relay", "DELETE FROM outbox_checkpoint"),
    ("relay", "INSERT INTO outbox_inbox (consumer) VALUES ('c')"),
    ("relay", "SELECT id FROM outbox_personal_key"),
    ("app", "SELECT position FROM outbox_audit"),
    ("app", "UPDATE outbox_audit SET actor = 'x'"),
    ("relay", "UPDATE outbox_audit SET actor = 'x'"),
    ("relay", "DELETE FROM outbox_audit"),
    ("relay", "TRUNCATE outbox_audit"),
    ("read", "DELETE FROM outbox_audit"),
    ("worker", "SELECT type FROM outbox_event"),
    ("worker", "INSERT INTO outbox_event (type, data) VALUES ('t', '')"),
    ("worker", "DELETE FROM outbox_inbox"),
    ("worker", "SELECT route FROM outbox_checkpoint"),
    ("worker", "UPDATE outbox_personal_key SET wrapped_key = NULL"),
    ("read", "INSERT INTO outbox_event (type, data) VALUES ('t', '')"),
    ("read", "DELETE FROM outbox_event"),
    ("read", "UPDATE outbox_checkpoint SET position = NULL"),
    ("read", "DELETE FROM outbox_dead_letter"),
    ("read", "DELETE FROM outbox_inbox"),
    ("read", "SELECT id FROM outbox_personal_key"),
]


def test_a_user_may_do_nothing_else(granted: Users) -> None:
    assert {kind for kind, _ in FORBIDDEN} == set(NAMES)
    for kind, statement in FORBIDDEN:
        with granted(kind).connect() as connection, pytest.raises(sa.exc.DBAPIError) as caught:
            connection.exec_driver_sql(statement)
        assert mysql_number(caught.value) in DENIED_NUMBERS, (kind, statement)


def test_an_application_and_a_relay_do_with_the_rights_of_the_page(
    granted: Users, program: Program
) -> None:
    with Session(granted("app")) as session, session.begin():
        session.execute(sa.select(1))
        outbox.emit(session, Counted(key="k", n=1))
        # No name of a topic: a dead letter is written, and the next one parked behind it.
        outbox.emit(session, Counted(key="bad", n=2), topic="no topic")
        outbox.emit(session, Counted(key="bad", n=3))
    with granted("app").begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO outbox_event (type, partition_key, data) VALUES ('plain.sql', 'p', '{}')"
        )
    name = uuid.uuid4().hex
    url = granted.text("relay")
    route = {"transport": "memory", "broker": name}
    settings = {"database_url": url, "routes": {"m": route}}
    summary = Relay(Settings.model_validate(settings)).run(until=Until.DRAINED).routes["m"]
    assert (summary.published, summary.dead, summary.parked, summary.error) == (2, 1, 1, None)
    assert len(MemoryBroker.named(name).messages(TYPE.rpartition(".")[0])) == 1
    program.environment["OUTBOX_ROUTES__M__TRANSPORT"] = "memory"
    done = program.call("retention", OUTBOX_DATABASE_URL=url, OUTBOX_RETENTION__EVENTS="0s")
    assert done.stdout == "4 events deleted\n", done.stderr
    done = program.call("doctor", OUTBOX_DATABASE_URL=url)
    assert done.returncode == 0, done.stdout


def test_an_application_makes_keys_and_a_worker_reads_them(granted: Users) -> None:
    check_rights(granted("app"), granted("worker"))


def test_one_who_looks_sees_status_and_events(granted: Users, program: Program) -> None:
    with granted("app").begin() as connection:
        outbox.emit(connection, Counted(key="k", n=1))
    route = {"transport": "memory", "broker": uuid.uuid4().hex}
    settings = {"database_url": granted.text("relay"), "routes": {"m": route}}
    Relay(Settings.model_validate(settings)).run(until=Until.DRAINED)
    program.environment["OUTBOX_ROUTES__M__TRANSPORT"] = "memory"
    program.environment["OUTBOX_DATABASE_URL"] = granted.text("read")
    done = program.call("status", "--json")
    assert json.loads(done.stdout)["routes"][0]["floor"] == 1, done.stderr
    assert TYPE in program.call("events", "list").stdout
    assert program.call("dead-letters", "list").returncode == 0


def test_a_worker_does_with_the_rights_of_the_page(
    granted: Users, mariadb_engine: sa.Engine
) -> None:
    is_broken = True
    consumer = Consumer("tests", database=granted("worker"))

    @consumer.on(Counted)
    def handle(event: Counted, _context: Context) -> None:
        if is_broken and event.n == 1:
            raise ValueError("broken")

    events = [counted("k", n) for n in range(3)]
    assert consume(consumer, events) == Counts(handled=1, dead=1, parked=1)
    is_broken = False
    with mariadb_engine.begin() as connection:
        request(connection, Filter())
    assert consume(consumer, []) == Counts(handled=2)
    assert letters(mariadb_engine) == []
    assert consume(consumer, events[:1]).handled == 0  # it is known: that is looked up as well


def test_a_user_that_can_do_more_by_another_way_is_told(program: Program, users: Users) -> None:
    app = users.name("app")
    administer(users.url, f"GRANT SELECT, DELETE ON {users.url.database}.* TO `{app}`")
    done = program.call("migrate", "--grant-app", app)
    assert f"warning: {app} may also DELETE, SELECT on outbox_event" in done.stdout


@pytest.mark.parametrize("mode", ["", "NO_AUTO_CREATE_USER"])
def test_a_user_that_is_not_there_is_not_made_and_nothing_changes(
    program: Program, users: Users, mode: str
) -> None:
    """Whatever the server is set to do with a GRANT to nobody."""
    url = users.url.update_query_dict({"init_command": f"SET sql_mode = '{mode}'"})
    given = url.render_as_string(hide_password=False)
    nobody = f"no`body{users.suffix}@10.%"
    arguments = [*users.options(), "--grant-read", nobody]
    done = program.call("migrate", *arguments, OUTBOX_DATABASE_URL=given)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: the server has no user {nobody!r}: make it first, by CREATE USER\n",
    )
    with pytest.raises(sa.exc.DBAPIError) as caught, users("app").connect():
        pass
    assert mysql_number(caught.value) in DENIED_NUMBERS  # nothing in this database


def test_a_user_of_some_machines_and_a_role_are_granted_too(
    program: Program, users: Users, mariadb_url: str
) -> None:
    role, local = f"role_{uuid.uuid4().hex[:8]}", f"local{users.suffix}"
    administer(users.url, f"CREATE ROLE {role}", f"CREATE USER `{local}`@`127.0.%`")
    try:
        options = ["--grant-app", role, "--grant-app", f"{local}@127.0.%"]
        printed = program.call("migrate", "--sql", *options).stdout
        done = program.call("migrate", *options)
        assert done.returncode == 0, done.stderr
        grants = done.stdout.splitlines()[1:]
        grantees = [grant.rpartition(" TO ")[2] for grant in grants]
        assert list(dict.fromkeys(grantees)) == [role, f"`{local}`@`127.0.%`"]
        assert all(f"{grant};" in printed for grant in grants)
        engine = sa.create_engine(users.url.set(username=local), poolclass=sa.NullPool)
        with engine.begin() as connection:
            outbox.emit(connection, Counted(key="k", n=1))
    finally:
        administer(users.url, f"DROP ROLE {role}", f"DROP USER `{local}`@`127.0.%`")
