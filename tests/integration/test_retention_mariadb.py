"""Retention on MariaDB, which locks what a statement looks at: nobody waits for another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox import clock, dead_letter, inbox
from outbox.dead_letter import Failure, Filter
from outbox.table import outbox_dead_letter, outbox_event, outbox_inbox
from relay.expiry import expiries
from tests.acceptance.cli import envelope
from tests.retaining import OLD, deliver, emit, settings, stored

if TYPE_CHECKING:
    from outbox.settings import Settings

IMPATIENT = "SET SESSION innodb_lock_wait_timeout = 0"
"""Who would have to wait fails at once."""


@pytest.fixture
def given(mariadb_relay_engine: sa.Engine) -> Settings:
    """Old rows in each table, which are all to go, and younger ones beside them."""
    engine = mariadb_relay_engine
    emit(engine, 3)
    deliver(engine, "a")
    with engine.begin() as connection:
        inbox.claim(connection, "c", [("/s", each) for each in "bdf"])
        failures = [Failure(envelope(), "broken") for _ in range(6)]
        dead_letter.record(connection, "relay", "a", failures)
        dead_letter.discard(connection, Filter(ids=[1, 3, 5]), "no")
        connection.execute(sa.update(outbox_inbox).values(processed_at=clock.now_plus(2 * OLD)))
        columns = outbox_dead_letter.c
        old = sa.update(outbox_dead_letter).where(columns.resolved_at.is_not(None))
        connection.execute(old.values(resolved_at=clock.now_plus(OLD)))
    return settings(engine, "a", events="50s", inbox="60s", dead_letters="50s")


def write(connection: sa.Connection) -> None:
    """Write as applications, workers and relays do, between the old rows and behind them."""
    connection.execute(sa.insert(outbox_event).values(type="t", data=b""))
    inbox.claim(connection, "c", [("/s", each) for each in "aceg"])
    dead_letter.fail_again(connection, 2, "again")
    dead_letter.record(connection, "relay", "a", [Failure(envelope(), "new")])


def test_events_go_that_every_route_has_delivered(mariadb_relay_engine: sa.Engine) -> None:
    engine = mariadb_relay_engine
    emit(engine, 5)
    emit(engine, 2, age=0)
    deliver(engine, "a", count=4)
    table = expiries(settings(engine, "a", events="50s"))[0]
    with engine.begin() as connection:
        batch = table.batch(connection, None, 100)
    assert (batch.deleted, stored(engine)) == (4, [5, 6, 7])
    assert batch.held == "route a has not delivered older events yet"


def test_a_batch_waits_for_no_open_transaction(
    mariadb_relay_engine: sa.Engine, given: Settings
) -> None:
    with mariadb_relay_engine.connect() as writer:
        write(writer)
        with mariadb_relay_engine.begin() as connection:
            connection.exec_driver_sql(IMPATIENT)
            deleted = [table.batch(connection, None, 100).deleted for table in expiries(given)]
            connection.detach()
        assert deleted == [3, 3, 3]
        writer.commit()


def test_nobody_waits_for_a_batch(mariadb_relay_engine: sa.Engine, given: Settings) -> None:
    with mariadb_relay_engine.connect() as connection:
        deleted = [table.batch(connection, None, 100).deleted for table in expiries(given)]
        assert deleted == [3, 3, 3]
        with mariadb_relay_engine.begin() as writer:
            writer.exec_driver_sql(IMPATIENT)
            write(writer)
            writer.detach()
        connection.commit()


def test_a_letter_that_is_opened_again_meanwhile_stays(
    mariadb_relay_engine: sa.Engine, given: Settings
) -> None:
    letters = expiries(given)[2]
    with mariadb_relay_engine.connect() as other, mariadb_relay_engine.connect() as connection:
        assert letters.count(connection) == (3, None)
        dead_letter.request(other, Filter(ids=[3], statuses=["discarded"]))
        other.commit()
        assert letters.batch(connection, None, 100).deleted == 2
        connection.commit()


def test_a_batch_of_the_inbox_reads_what_it_walks_over(mariadb_relay_engine: sa.Engine) -> None:
    engine = mariadb_relay_engine
    with engine.begin() as connection:
        for source in ("/s1", "/s2", "/s3"):
            inbox.claim(connection, "c", [(source, f"{n:05}") for n in range(2_000)])
        connection.exec_driver_sql("ANALYZE TABLE outbox_inbox")
        table = expiries(settings(engine, "a", inbox="1h"))[0]
        before = rows_read(connection)
        batch = table.batch(connection, ["c", "/s2", "01899"], 200)
        assert batch.cursor == ["c", "/s3", "00099"]
        assert rows_read(connection) - before < 4 * 200


def rows_read(connection: sa.Connection) -> int:
    rows = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read_%%'")
    return sum(int(row[1]) for row in rows)
