"""An audit route appends each event once to one chain, whoever is killed, frozen or replaced."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from outbox.audit.chain import verified
from outbox.audit.store import TableChain
from outbox.errors import (
    ConfigurationError,
    DestinationRefusedError,
)
from outbox.migration import upgrade
from outbox.settings import RouteSettings, Settings
from outbox.table import outbox_event
from outbox.testing import envelope
from outbox.transport import PUBLISHED, Retry
from outbox.transports import audit as transport
from outbox.transports import transport_of
from outbox.transports.audit.publishing import AuditPublisher
from relay.daemon import Relay, Until
from relay.timeline import timeline
from tests.auditing import events
from tests.killed_audit import PLACES, ROUTES
from tests.killed_relay import FROZEN
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from outbox.audit.record import Record
    from tools.servers import PostgresServer

COUNT = 95


@pytest.fixture(params=["postgres_engine", "sqlite_engine", "mariadb_engine"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    made: sa.Engine = request.getfixturevalue(request.param)
    return made


def text_of(engine: sa.Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def commit(engine: sa.Engine, count: int = COUNT) -> None:
    row = {"type": "shop.order.placed", "partition_key": "o-1", "data": b"{}"}
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox_event), [row] * count)


def drain(engine: sa.Engine) -> int:
    """Relay all there is; return how many events the route took for published."""
    settings = Settings.model_validate(
        {"database_url": text_of(engine), "source": "/test", "routes": ROUTES}
    )
    summary = Relay(settings).run(until=Until.DRAINED).routes["audit"]
    assert summary.error is None
    assert (summary.dead, summary.parked) == (0, 0)
    return summary.published


def trail(engine: sa.Engine) -> list[Record]:
    """The records there are, once they were verified."""
    return [record for page in verified(TableChain(engine)) for record in page]


def assert_all_are_there_once(engine: sa.Engine) -> None:
    records = trail(engine)
    with engine.connect() as connection:
        query = sa.select(outbox_event.c.seq, outbox_event.c.id).order_by(outbox_event.c.seq)
        rows = [(seq, str(event_id)) for seq, event_id in connection.execute(query)]
    assert [(record.sequence, record.event_id) for record in records] == rows
    assert [record.position for record in records] == list(range(1, len(rows) + 1))


@contextmanager
def started(engine: sa.Engine, step: str, count: int, end: str) -> Iterator[Life]:
    """Run a relay in a process of its own, and kill it in the end."""
    command = [sys.executable, "-m", "tests.killed_audit", text_of(engine), step, str(count), end]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)
        yield Life(process)


class Life:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def await_frozen(self) -> None:
        eventually(lambda: any(FROZEN in line for line in self.lines), why=lambda: self.lines)

    def await_end(self) -> int:
        code = self.process.wait(60)
        self._thread.join()
        return code


KILLED = [
    *(("postgres_engine", step) for step in PLACES),
    *(
        (name, step)
        for name in ("sqlite_engine", "mariadb_engine")
        for step in ("insert", "settle")
    ),
]
FROZEN_AT = [
    ("postgres_engine", "insert"),
    ("postgres_engine", "inserted"),
    ("mariadb_engine", "insert"),
]


@pytest.mark.parametrize(("name", "step"), KILLED)
def test_an_event_is_there_once_however_often_the_relay_is_killed(
    request: pytest.FixtureRequest, name: str, step: str
) -> None:
    engine: sa.Engine = request.getfixturevalue(name)
    for _ in range(2):
        commit(engine, 30)
        with started(engine, step, 1, "die") as life:
            assert life.await_end() == -signal.SIGKILL, life.lines
        trail(engine)
    drain(engine)
    assert_all_are_there_once(engine)


@pytest.mark.parametrize(("name", "step"), FROZEN_AT)
def test_a_frozen_relay_that_wakes_behind_another_one_forks_nothing(
    request: pytest.FixtureRequest, name: str, step: str
) -> None:
    """It has records in its hands that were made behind a head which is none any more."""
    engine: sa.Engine = request.getfixturevalue(name)
    commit(engine, 10)
    with started(engine, step, 2, "freeze") as frozen:
        eventually(lambda: trail(engine), why=lambda: frozen.lines)
        commit(engine, 30)
        frozen.await_frozen()
        drain(engine)
        commit(engine, 20)
        drain(engine)
        assert_all_are_there_once(engine)
        os.kill(frozen.process.pid, signal.SIGCONT)
        commit(engine, 20)
        eventually(lambda: len(trail(engine)) == 80, why=lambda: frozen.lines)
        assert frozen.process.poll() is None
    assert_all_are_there_once(engine)


@pytest.fixture
def two(engine: sa.Engine) -> Iterator[tuple[AuditPublisher, AuditPublisher]]:
    with (
        closing(AuditPublisher(engine.url, 20)) as one,
        closing(AuditPublisher(engine.url, 20)) as other,
    ):
        yield one, other


def test_two_relays_that_append_by_turns_leave_one_chain(
    engine: sa.Engine, two: tuple[AuditPublisher, AuditPublisher]
) -> None:
    """The script: each knows a head that the other has moved, and events that it has appended."""
    zombie, successor = two
    batch = events(40)
    for publisher, first, last in [
        (zombie, 0, 10),
        (successor, 5, 15),  # it began where the position was stored
        (zombie, 10, 20),  # behind a head that it remembers
        (successor, 15, 25),
        (successor, 25, 30),
        (zombie, 20, 30),  # nothing of that is new
        (zombie, 20, 40),
        (successor, 30, 40),
    ]:
        assert publisher.publish(batch[first:last]) == [PUBLISHED] * (last - first)
    assert [record.sequence for record in trail(engine)] == list(range(1, 41))


def test_many_who_append_at_the_same_time_leave_one_chain(engine: sa.Engine) -> None:
    batch = events(120)
    rng = random.Random(1)
    starts = [[rng.randrange(0, 110) for _ in range(6)] for _ in range(3)]

    def append(mine: list[int]) -> None:
        with closing(AuditPublisher(engine.url, 30)) as publisher:
            for start in [*mine, *range(0, 120, 10)]:
                part = batch[start : start + 10]
                while any(isinstance(each, Retry) for each in publisher.publish(part)):
                    pass

    threads = [threading.Thread(target=append, args=(mine,)) for mine in starts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    found = [record.sequence for record in trail(engine)]
    assert sorted(found) == list(range(1, 121))


def test_a_route_that_is_moved_back_appends_nothing_again(engine: sa.Engine) -> None:
    commit(engine)
    drain(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE outbox_checkpoint SET position = NULL"))
        connection.execute(sa.text("UPDATE outbox_checkpoint SET version = version + 1"))
    assert drain(engine) == COUNT
    assert_all_are_there_once(engine)


def test_two_rows_with_one_id_are_both_recorded(engine: sa.Engine) -> None:
    """An application cannot hide an event behind another one's id."""
    first = envelope("t", sequence=1)
    second = replace(first, sequence=2, data=b"another")
    with closing(AuditPublisher(engine.url, 20)) as publisher:
        assert publisher.publish([first]) == [PUBLISHED]
        assert publisher.publish([first, second]) == [PUBLISHED] * 2
    assert [record.event_id for record in trail(engine)] == [first.id] * 2
    assert len(TableChain(engine).with_id(first.id)) == 2


def test_all_attributes_come_back_as_they_were_hashed(engine: sa.Engine) -> None:
    """Verifying reads the columns; whatever they make of a text or a time breaks the chain."""
    evil = "a\t\"\\\r\n' é ✓ 😀 \x7f\x1b[31m" + "x" * 300
    batch = [
        envelope(
            "t",
            evil[:200],
            subject=evil,
            actor=evil,
            correlation_id=evil,
            causation_id=" ",
            sequence=1,
        ),
        envelope("t", None, subject="", actor="", sequence=2),
        envelope("t", "", sequence=2**62, version=2**31 - 1),
    ]
    with closing(AuditPublisher(engine.url, 20)) as publisher:
        assert publisher.publish(batch) == [PUBLISHED] * 3
    found = trail(engine)
    assert [record.subject for record in found] == [evil, "", None]
    assert [record.actor for record in found] == [evil, "", None]
    assert [record.partition_key for record in found] == [evil[:200], None, ""]


def test_what_the_log_has_is_what_was_recorded(engine: sa.Engine) -> None:
    """A timeline compares them; whatever a database makes of a value is no difference."""
    evil = "a\t\"\\\r\n' é ✓ 😀 \x7f\x1b[31m "
    headers = {"actor": evil, "correlationid": "", "causationid": 12, "tenant": "x"}
    row: dict[str, object] = {
        "type": f"t.{evil}",
        "partition_key": evil,
        "subject": "",
        "content_type": "text/plain; charset=utf-8",
        "data": b"\x00\xff" + evil.encode(),
        "headers": headers,
    }
    plain = row | {"type": "t", "subject": None, "headers": {"actor": 1.5}, "data": b""}
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox_event), [row, plain])
    assert drain(engine) == 2
    url, routes = text_of(engine), {"audit": {"transport": "audit"}}
    given = Settings.model_validate({"database_url": url, "source": "/test", "routes": routes})
    told = [story.event for story in timeline(engine, given, evil).stories]
    assert [(event.position, event.differences) for event in told] == [(1, []), (2, [])]


@pytest.mark.parametrize(
    "moment",
    [
        "0001-01-03T00:00:00+00:00",
        "9999-12-30T23:59:59.999999+00:00",
        "2026-05-01T12:00:00.100000+00:00",
        "2026-05-01T12:00:00+00:00",
        "2026-10-25T02:30:00+02:00",
    ],
)
def test_a_time_comes_back_to_the_microsecond(engine: sa.Engine, moment: str) -> None:
    event = envelope("t", time=datetime.fromisoformat(moment), sequence=1)
    with closing(AuditPublisher(engine.url, 20)) as publisher:
        assert publisher.publish([event]) == [PUBLISHED]
    assert len(trail(engine)) == 1


def test_a_trail_without_a_table_waits_and_says_what_to_do(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE outbox_audit RENAME TO away"))
    with closing(AuditPublisher(engine.url, 20)) as publisher:
        (outcome,) = publisher.publish(events(1))
        assert isinstance(outcome, Retry)
        assert isinstance(outcome.error, DestinationRefusedError)
        assert "run `outbox migrate`" in str(outcome.error)
        with pytest.raises(DestinationRefusedError):
            publisher.probe()
        with engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE away RENAME TO outbox_audit"))
        assert publisher.publish(events(1)) == [PUBLISHED]
        publisher.probe()


REFUSALS = {
    "sqlite": [
        "CREATE TRIGGER no BEFORE INSERT ON outbox_audit BEGIN SELECT RAISE(ABORT, 'no'); END"
    ],
    "postgresql": ["ALTER TABLE outbox_audit ADD CONSTRAINT no CHECK (sequence < 3)"],
    "mysql": ["ALTER TABLE outbox_audit ADD CONSTRAINT no CHECK (sequence < 3)"],
}


def test_a_table_that_refuses_the_records_is_told_at_once(engine: sa.Engine) -> None:
    name = "mysql" if engine.dialect.name == "mariadb" else engine.dialect.name
    with closing(AuditPublisher(engine.url, 30)) as publisher:
        assert publisher.publish(events(2)) == [PUBLISHED] * 2
        with engine.begin() as connection:
            for statement in REFUSALS[name]:
                connection.exec_driver_sql(statement)
        begun = time.monotonic()
        outcomes = publisher.publish(events(2, first=3))
        assert time.monotonic() - begun < 10
    for outcome in outcomes:
        assert isinstance(outcome, Retry)
        assert isinstance(outcome.error, DestinationRefusedError)
        assert "refuses the" in str(outcome.error)


def test_whoever_holds_the_table_holds_the_route_up_and_repeats_nothing(
    engine: sa.Engine,
) -> None:
    """What was asked for and not answered in time may still be done: then it is there already."""
    batch = events(10)
    with closing(AuditPublisher(engine.url, 3)) as publisher:
        assert publisher.publish(batch[:5]) == [PUBLISHED] * 5
        with engine.connect() as other:
            values = "SELECT 6, event_id || 'x', source, type, version, NULL, NULL, NULL, NULL,"
            if other.dialect.name == "mariadb":
                values = values.replace("event_id || 'x'", "CONCAT(event_id, 'x')")
            values += " NULL, time, 6, data_digest, previous_hash, hash, recorded_at"
            other.execute(sa.text(f"INSERT INTO outbox_audit {values} FROM outbox_audit LIMIT 1"))
            assert all(isinstance(each, Retry) for each in publisher.publish(batch))
            other.rollback()
        eventually(lambda: publisher.publish(batch) == [PUBLISHED] * 10)
    assert [record.sequence for record in trail(engine)] == list(range(1, 11))


def test_the_trail_may_be_kept_in_another_database(
    sqlite_engine: sa.Engine, postgres_engine: sa.Engine
) -> None:
    commit(sqlite_engine, 20)
    url = text_of(postgres_engine)
    routes = {"trail": {"transport": "audit", "database_url": url}}
    settings = Settings.model_validate({"database_url": text_of(sqlite_engine), "routes": routes})
    assert Relay(settings).run(until=Until.DRAINED).routes["trail"].published == 20
    assert len(trail(postgres_engine)) == 20
    assert trail(sqlite_engine) == []


def test_no_secret_of_the_route_is_shown(tmp_path: Path) -> None:
    options: dict[str, Any] = {"database_url": "postgresql+psycopg://u:sesame@h/d"}
    route = RouteSettings.model_validate({"transport": "audit", **options})
    _, made = transport_of("audit", route, sa.make_url("sqlite://"))
    assert isinstance(made, transport.Options)
    assert "sesame" not in repr(made) + repr(route)
    assert transport.database_of("audit", made).host == "h"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"database_url": "nonsense"}, "routes.audit.database_url: is no SQLAlchemy URL"),
        ({"topic": "x"}, "routes.audit.topic"),
    ],
)
def test_a_wrong_setting_is_told(options: dict[str, str], message: str) -> None:
    route = RouteSettings.model_validate({"transport": "audit", **options})
    with pytest.raises(ConfigurationError, match=message):
        transport_of("audit", route)


def test_a_server_that_hangs_is_given_up_in_time(own_postgres: PostgresServer) -> None:
    upgrade(own_postgres.url())
    with closing(AuditPublisher(sa.make_url(own_postgres.url()), 3)) as publisher:
        batch = events(10)
        assert publisher.publish(batch[:5]) == [PUBLISHED] * 5
        own_postgres.pause()
        try:
            outcomes = publisher.publish(batch)
        finally:
            own_postgres.resume()
        assert all(isinstance(each, Retry) for each in outcomes)
        eventually(lambda: publisher.publish(batch) == [PUBLISHED] * 10)
        engine = sa.create_engine(own_postgres.url(), poolclass=sa.NullPool)
        assert len(trail(engine)) == 10
