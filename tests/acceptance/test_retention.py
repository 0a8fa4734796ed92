"""Retention as an operator meets it: settings, `outbox retention`, `status`, `routes forget`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox import clock
from outbox.dead_letter import Failure
from outbox.table import outbox_checkpoint
from relay import lease
from relay.capture import open_capture
from tests.acceptance.cli import Program, envelope, insert, set_aside

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def program(tmp_path: Path, url: str) -> Program:
    """One route, which has delivered the three events that there are."""
    insert(url, 3)
    deliver(url, "kafka")
    return Program(
        tmp_path,
        {
            "OUTBOX_DATABASE_URL": url,
            "OUTBOX_ROUTES__KAFKA__TRANSPORT": "kafka",
            "OUTBOX_ROUTES__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9",
        },
    )


def deliver(url: str, route: str, limit: int = 1_000) -> None:
    """Let a route, if only it existed, deliver everything."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    capture = open_capture(engine)
    position = capture.next_page(capture.beginning(), limit).position().to_json()
    capture.close()
    with engine.begin() as connection:
        lease.acquire(connection, route, "test", 60)
        lease.resign(connection, route, 1)
        statement = sa.update(outbox_checkpoint).where(outbox_checkpoint.c.route == route)
        connection.execute(statement.values(position=position))


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_old_enough_is_counted_then_deleted_then_shown(program: Program) -> None:
    program.environment["OUTBOX_RETENTION__EVENTS"] = "0s"
    assert "retention has not run yet" in printed(program.call("status"))
    assert printed(program.call("retention", "--dry-run")) == "3 events would be deleted\n"
    assert printed(program.call("retention")) == "3 events deleted\n"
    assert printed(program.call("events", "list", "--json")) == ""
    assert "retention deleted 3 events when it last ran, " in printed(program.call("status"))
    found = json.loads(printed(program.call("status", "--json")))["retention"]
    assert found["deleted"] == {"events": 3}
    assert found["held"] == {}
    assert found["error"] is None


def test_without_an_age_nothing_is_deleted(program: Program) -> None:
    done = program.call("retention")
    assert done.returncode == 2
    assert done.stderr == (
        'error: nothing has an age: add [retention] with for instance events = "30d"\n'
    )
    assert json.loads(printed(program.call("status", "--json")))["retention"] is None
    assert "retention" not in printed(program.call("status"))


def test_a_wrong_age_is_told(program: Program) -> None:
    done = program.call("status", OUTBOX_RETENTION__EVENTS="a week")
    assert done.returncode == 2
    assert 'retention.events: is no age such as "90s", "15m", "2h" or "30d"' in done.stderr


def test_a_route_that_is_gone_holds_events_until_it_is_forgotten(
    program: Program, url: str
) -> None:
    program.environment["OUTBOX_RETENTION__EVENTS"] = "0s"
    deliver(url, "archive")
    insert(url, 2)
    deliver(url, "kafka")
    set_aside(url, Failure(envelope(), "broken"))
    told = "older events are kept: route archive has not delivered older events yet\n"
    assert printed(program.call("retention", "--dry-run")).endswith(told)
    assert printed(program.call("retention")) == f"3 events deleted\n{told}"
    shown = printed(program.call("status"))
    assert told in shown
    assert (
        "events are kept for route archive, which is not in these settings; if no relay has it any"
        " more: `outbox routes forget archive`\n"
    ) in shown
    assert json.loads(printed(program.call("status", "--json")))["retention"]["unknown_routes"] == [
        "archive"
    ]
    assert "nobody is there to confirm it" in program.call("routes", "forget", "archive").stderr
    forgotten = printed(program.call("routes", "forget", "archive", "--yes"))
    assert forgotten == "route archive is forgotten\n"
    assert printed(program.call("retention")) == "2 events deleted\n"


def test_a_forgotten_route_leaves_its_letters_to_the_operator(program: Program, url: str) -> None:
    set_aside(url, Failure(envelope(), "broken"))
    for name in ("TRANSPORT", "BOOTSTRAP_SERVERS"):
        del program.environment[f"OUTBOX_ROUTES__KAFKA__{name}"]
    done = program.call("routes", "forget", "kafka", "--yes")
    assert "it leaves 1 dead letter: look at `outbox dead-letters list`" in printed(done)


def test_a_route_that_is_in_use_is_not_forgotten(program: Program, url: str) -> None:
    done = program.call("routes", "forget", "kafka", "--yes")
    assert (done.returncode, "take it out of there" in done.stderr) == (2, True)
    for name in ("unheard-of", "@retention"):
        done = program.call("routes", "forget", name, "--yes")
        assert (done.returncode, done.stderr) == (
            1,
            f"error: the database knows no route {name!r}\n",
        )
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        values = {"route": "busy", "holder": "x", "expires_at": clock.now_plus(60)}
        connection.execute(sa.insert(outbox_checkpoint).values(values))
    done = program.call("routes", "forget", "busy", "--yes")
    assert (done.returncode, "a relay runs route busy" in done.stderr) == (1, True)


def test_a_paused_route_that_is_no_longer_there_is_forgotten(program: Program) -> None:
    printed(program.call("routes", "pause", "kafka"))
    for name in ("TRANSPORT", "BOOTSTRAP_SERVERS"):
        del program.environment[f"OUTBOX_ROUTES__KAFKA__{name}"]
    assert printed(program.call("routes", "forget", "kafka", "--yes")) == (
        "route kafka is forgotten\n"
    )


def test_two_cannot_delete_at_the_same_time(program: Program, url: str) -> None:
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        lease.acquire(connection, "@retention", "app-1:7:abc", 60)
    done = program.call("retention", OUTBOX_RETENTION__EVENTS="0s")
    assert (done.returncode, done.stderr) == (1, "error: app-1:7:abc is at it already\n")


def test_events_are_divided_into_partitions_which_go_as_a_whole(
    tmp_path: Path, postgres_empty_url: str
) -> None:
    program = Program(tmp_path, {"OUTBOX_DATABASE_URL": postgres_empty_url})
    done = printed(program.call("migrate", "--partition-rows", "1000"))
    assert done.endswith("outbox_event is divided into partitions of 1,000 numbers\n")
    again = printed(program.call("migrate", "--partition-rows", "1000"))
    assert again.endswith("outbox_event is divided into partitions of 1,000 numbers already\n")
    wider = printed(program.call("migrate", "--partition-rows", "5000"))
    assert wider.endswith("from number 11,001 on a partition takes 5,000 numbers\n")
    insert(postgres_empty_url, 1_001)
    deliver(postgres_empty_url, "kafka", 2_000)
    program.environment |= {
        "OUTBOX_RETENTION__EVENTS": "0s",
        "OUTBOX_ROUTES__KAFKA__TRANSPORT": "kafka",
        "OUTBOX_ROUTES__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9",
    }
    assert printed(program.call("retention", "--dry-run")) == "1 partition would be deleted\n"
    assert printed(program.call("retention")) == "1 partition deleted\n"
    assert len(printed(program.call("events", "list", "--json")).splitlines()) == 1
    shown = printed(program.call("status"))
    assert "retention deleted 1 partition when it last ran, " in shown
    assert "11 partitions with room for 14,999 events more\n" in shown
    assert json.loads(printed(program.call("status", "--json")))["partitions"] == {
        "count": 11,
        "room_count": 14_999,
        "is_short": False,
    }


def test_partitions_that_cannot_be_are_refused(program: Program, url: str) -> None:
    done = program.call("migrate", "--partition-rows", "1000")
    if not url.startswith("postgresql"):
        assert (done.returncode, "leave --partition-rows out" in done.stderr) == (2, True)
    else:
        assert (done.returncode, "outbox_event has rows" in done.stderr) == (1, True)
        done = program.call("migrate", "--partition-rows", "1000", "--sql")
        assert (done.returncode, "there is no SQL to print" in done.stderr) == (2, True)
