"""`outbox forget` and `outbox personal`, and what the other commands show of personal data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import outbox
from outbox import dead_letter
from outbox.dead_letter import Failure
from outbox.errors import DatabaseUnavailableError
from outbox.event import catalogue
from outbox.keys import TableKeyStore
from outbox.opening import opener
from outbox.sealing import REDACTED, key_ids
from tests.acceptance.cli import Program
from tests.personal import MASTER, NAME, OTHER_MASTER, Registered, ada, stored, using

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa


@pytest.fixture(params=["postgres", "sqlite", "mariadb"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    """A database with an event about a person, which is a dead letter too."""
    found: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    with using(TableKeyStore(outbox.MasterKeys(MASTER))), found.begin() as connection:
        outbox.emit(connection, ada())
    (envelope,) = stored(found)
    with found.begin() as connection:
        failures = [Failure(envelope, "why", "dead", 1, None)]
        dead_letter.record(connection, "consumer", "c", failures)
    return found


@pytest.fixture
def program(tmp_path: Path, engine: sa.Engine) -> Program:
    url = engine.url.render_as_string(hide_password=False)
    return Program(tmp_path, {"OUTBOX_DATABASE_URL": url})


def names(engine: sa.Engine, *masters: str) -> list[str]:
    """Return the name in each event, as who has the master keys reads it."""
    with using(TableKeyStore(outbox.MasterKeys(masters[0], masters[1:]), engine)):
        envelopes = stored(engine)
        open_ = opener(envelopes)
        events = [catalogue.of(Registered).load(open_(each).data) for each in envelopes]
    return [event.name for event in events]


def test_a_person_is_forgotten_without_a_master_key(program: Program, engine: sa.Engine) -> None:
    assert names(engine, MASTER) == [NAME]
    done = program.call("forget", "c-1", "--yes")
    assert (done.returncode, done.stdout) == (0, "c-1 is forgotten: the key is deleted\n")
    assert names(engine, MASTER) == [REDACTED]
    done = program.call("forget", "c-1", "--yes")
    assert done.returncode == 1
    assert "there is no key of 'c-1'" in done.stderr


def test_nobody_is_forgotten_unasked(program: Program, engine: sa.Engine) -> None:
    done = program.call("forget", "c-1")
    assert (done.returncode, "add --yes" in done.stderr) == (2, True)
    assert names(engine, MASTER) == [NAME]


def test_keys_are_wrapped_anew(program: Program, engine: sa.Engine) -> None:
    settings = {
        "OUTBOX_PERSONAL__MASTER_KEY": OTHER_MASTER,
        "OUTBOX_PERSONAL__FORMER_MASTER_KEYS": json.dumps([MASTER]),
    }
    done = program.call("personal", "rewrap", **settings)
    assert (done.returncode, done.stdout) == (0, "1 key wrapped anew\n"), done.stderr
    assert names(engine, OTHER_MASTER) == [NAME]
    with pytest.raises(DatabaseUnavailableError, match="wrapped by the master key"):
        names(engine, MASTER)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "OUTBOX_PERSONAL__MASTER_KEY"),
        ({"OUTBOX_PERSONAL__MASTER_KEY": "c2hvcnQ="}, "32 bytes in base64"),
        ({"OUTBOX_PERSONAL__FORMER_MASTER_KEYS": json.dumps([MASTER])}, "no master_key"),
        ({"OUTBOX_PERSONAL__MASTER_KEY": OTHER_MASTER}, "none of personal.master_key"),
    ],
)
def test_a_wrong_master_key_is_told_and_not_shown(
    program: Program, settings: dict[str, str], told: str
) -> None:
    done = program.call("personal", "rewrap", **settings)
    assert done.returncode != 0
    assert told in done.stderr
    assert not any(MASTER in text or "c2hvcnQ" in text for text in (done.stdout, done.stderr))


def test_what_is_shown_of_an_event_or_a_letter_is_redacted(
    program: Program, engine: sa.Engine
) -> None:
    (envelope,) = stored(engine)
    (key,) = key_ids(envelope.data)
    for command in (
        ("events", "list"),
        ("events", "show", envelope.id),
        ("dead-letters", "show", "1"),
    ):
        done = program.call(*command, OUTBOX_PERSONAL__MASTER_KEY=MASTER)
        assert done.returncode == 0, done.stderr
        assert REDACTED in done.stdout
        assert key not in done.stdout
        assert "London" in done.stdout or command == ("events", "list")
