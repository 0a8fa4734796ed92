"""Retention on every kind of database: what goes, what stays, and that nobody is held up by it."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from outbox import clock, dead_letter, inbox
from outbox.dead_letter import Failure, Filter
from outbox.errors import DatabaseUnavailableError
from outbox.table import outbox_checkpoint, outbox_dead_letter, outbox_inbox
from relay import lease, retention
from relay.capture import open_capture
from relay.daemon import Relay, Until
from relay.expiry import expiries
from relay.lease import Grant, Held
from relay.rebase import rebase
from relay.retention import sweep
from relay.retention_state import NAME, State
from tests.acceptance.cli import envelope
from tests.capturing import connect, writers
from tests.retaining import OLD, broker_of, deliver, emit, settings, stored, swept
from tests.waiting import eventually


@pytest.fixture(params=["postgres", "sqlite", "mariadb_relay"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    found: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


# A route that begins anew on MariaDB waits a minute for the numbers of what is deleted.
@pytest.mark.parametrize("engine", ["postgres", "sqlite"], indirect=True)
def test_events_go_once_every_route_has_delivered_them_and_they_are_old(engine: sa.Engine) -> None:
    emit(engine, 5)
    emit(engine, 2, age=0)
    emit(engine, 1)
    given = settings(engine, "a", "b", events="50s")
    deliver(engine, "a")
    done = swept(engine, given)
    assert done.walks["events"].held == "route b never ran, and is to start with events of the past"
    deliver(engine, "b", count=3)
    done = swept(engine, given)
    assert stored(engine) == [4, 5, 6, 7, 8]
    assert done.deleted == {"events": 3}
    assert done.walks["events"].held == "route b has not delivered older events yet"
    deliver(engine, "b")
    done = swept(engine, given)
    assert stored(engine) == [6, 7]
    assert done.walks["events"].held is None


def test_a_route_of_another_relay_keeps_its_events_too(engine: sa.Engine) -> None:
    emit(engine, 3)
    deliver(engine, "a")
    deliver(engine, "elsewhere", count=1)
    swept(engine, settings(engine, "a", events="0s"))
    assert stored(engine) == [2, 3]


def test_nothing_is_deleted_that_has_no_age(engine: sa.Engine) -> None:
    emit(engine, 3)
    deliver(engine, "a")
    assert expiries(settings(engine, "a")) == []
    assert swept(engine, settings(engine, "a", dead_letters="0s")).deleted == {"dead_letters": 0}
    assert stored(engine) == [1, 2, 3]


def test_a_walk_goes_on_where_the_last_one_became_too_young(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in ("SMALLEST", "LARGEST"):
        monkeypatch.setattr(retention.Pace, size, 4)
    monkeypatch.setattr(retention.Pace, "__init__", lambda self: setattr(self, "size", 4))
    given = settings(engine, "a", events="50s")
    emit(engine, 2)
    emit(engine, 6, age=+1_000)  # a whole batch that says nothing of what follows
    emit(engine, 9)
    emit(engine, 9, age=0)
    emit(engine, 9)  # not reached before those are old
    deliver(engine, "a")
    done = swept(engine, given)
    assert stored(engine) == [*range(3, 9), *range(18, 36)]
    assert done.walks["events"].cursor == (17, 17)
    again = swept(engine, given, anew=False)
    assert again.walks["events"].cursor == (17, 17)
    assert again.deleted == {"events": 0}


def test_an_event_that_committed_late_stays_until_it_is_delivered(
    postgres_engine: sa.Engine, postgres_url: str
) -> None:
    given = settings(postgres_engine, "a", events="0s")
    with writers(postgres_url, 2) as (slow, quick):
        late = slow.emit()
        quick.emit()
        quick.commit()
        deliver(postgres_engine, "a")
        slow.commit()
    swept(postgres_engine, given)
    assert stored(postgres_engine) == [late]
    deliver(postgres_engine, "a")
    swept(postgres_engine, given)
    assert stored(postgres_engine) == []


def test_what_was_handled_is_forgotten_once_no_stored_event_can_come_again(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention.Pace, "LARGEST", 700)
    given = settings(engine, "a", events="50s", inbox="60s")
    with engine.begin() as connection:
        for consumer in ("c1", "c2"):
            inbox.claim(connection, consumer, [("/s", f"{n}") for n in range(1_500)])
        aged = outbox_inbox.c.event_id < "7"
        connection.execute(
            sa.update(outbox_inbox).where(aged).values(processed_at=clock.now_plus(OLD))
        )
        total = connection.scalar(sa.select(sa.func.count()).select_from(outbox_inbox))
        young = connection.scalar(sa.select(sa.func.count()).where(~aged))
    emit(engine, 1, age=OLD - 10)
    deliver(engine, "a", count=0)
    done = swept(engine, given)
    assert done.deleted == {"events": 0, "inbox": 0}
    assert done.walks["inbox"].held == "an older event is still stored, and could be sent again"
    deliver(engine, "a")
    done = swept(engine, given)
    assert done.deleted == {"events": 1, "inbox": (total or 0) - (young or 0)}
    assert done.walks["inbox"].held is None
    with engine.begin() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(outbox_inbox)) == young


def test_letters_go_once_they_are_resolved_and_old(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention.Pace, "__init__", lambda self: setattr(self, "size", 1))
    for size in ("SMALLEST", "LARGEST"):
        monkeypatch.setattr(retention.Pace, size, 1)
    with engine.begin() as connection:
        failures = [Failure(envelope(), "broken") for _ in range(6)]
        dead_letter.record(connection, "relay", "a", failures)
        dead_letter.discard(connection, Filter(ids=[1, 2, 3]), "no")
        old = sa.update(outbox_dead_letter).where(outbox_dead_letter.c.id.in_([1, 2]))
        connection.execute(old.values(resolved_at=clock.now_plus(OLD)))
        connection.execute(
            sa.update(outbox_dead_letter).values(first_failed_at=clock.now_plus(OLD))
        )
    assert swept(engine, settings(engine, "a", dead_letters="50s")).deleted == {"dead_letters": 2}
    with engine.begin() as connection:
        ids = connection.scalars(sa.select(outbox_dead_letter.c.id)).all()
    assert sorted(ids) == [3, 4, 5, 6]


def test_a_batch_is_no_larger_than_it_is_told(engine: sa.Engine) -> None:
    emit(engine, 5)
    deliver(engine, "a")
    with engine.begin() as connection:
        dead_letter.record(connection, "relay", "a", [Failure(envelope(), "b") for _ in range(5)])
        dead_letter.discard(connection, Filter(), "no")
        inbox.claim(connection, "c", [("/s", f"{n}") for n in range(5)])
    given = settings(engine, "a", events="0s", inbox="1s", dead_letters="0s")
    with engine.begin() as connection:
        connection.execute(sa.update(outbox_inbox).values(processed_at=clock.now_plus(2 * OLD)))
        deleted = [table.batch(connection, None, 2).deleted for table in expiries(given)]
        assert deleted == [2, 2, 2]


def test_what_a_dry_run_counts_is_what_goes(engine: sa.Engine) -> None:
    emit(engine, 5)
    emit(engine, 2, age=0)
    deliver(engine, "a", count=4)
    given = settings(engine, "a", events="50s", inbox="60s", dead_letters="1s")
    with engine.begin() as connection:
        inbox.claim(connection, "c", [("/s", "1")])
        connection.execute(sa.update(outbox_inbox).values(processed_at=clock.now_plus(2 * OLD)))
        counted = {table.table: table.count(connection) for table in expiries(given)}
    done = swept(engine, given)
    assert {table: count for table, (count, _) in counted.items()} == done.deleted
    assert {table: held for table, (_, held) in counted.items()} == {
        table: walk.held for table, walk in done.walks.items()
    }
    assert done.deleted == {"events": 4, "inbox": 1, "dead_letters": 0}


def test_only_one_relay_deletes_at_a_time(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert isinstance(lease.acquire(connection, NAME, "other", 60), Grant)
    given = settings(engine, "a", events="0s")
    assert sweep(engine, given, "me", threading.Event()) == Held("other")


def test_a_relay_deletes_by_itself_and_leaves_no_lease_behind(engine: sa.Engine) -> None:
    emit(engine, 3)
    deliver(engine, "m")
    with Relay(settings(engine, "m", events="0s"), engine=engine).running():
        eventually(lambda: stored(engine) == [])
    assert retention_row(engine).holder is None


def test_a_relay_that_is_to_finish_deletes_nothing(engine: sa.Engine) -> None:
    emit(engine, 3)
    deliver(engine, "m")
    Relay(settings(engine, "m", events="0s"), engine=engine).run(until=Until.DRAINED)
    assert stored(engine) == [1, 2, 3]


def retention_row(engine: sa.Engine) -> sa.Row[Any]:
    with engine.begin() as connection:
        query = sa.select(outbox_checkpoint).where(outbox_checkpoint.c.route == NAME)
        return connection.execute(query).one()


def test_it_waits_for_nobody_for_long_and_no_writer_waits_for_it(
    postgres_engine: sa.Engine, postgres_url: str
) -> None:
    emit(postgres_engine, 3)
    deliver(postgres_engine, "a")
    given = settings(postgres_engine, "a", events="0s")
    with connect(postgres_url) as other:
        other.execute("LOCK TABLE outbox_event IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailableError, match="lock timeout"):
            swept(postgres_engine, given)
    table = expiries(given)[0]
    with postgres_engine.begin() as connection:
        table.lock(connection)
        assert table.batch(connection, None, 100).deleted == 3
        with connect(postgres_url) as writer:
            writer.execute("SET lock_timeout = '1ms'")
            writer.execute("INSERT INTO outbox_event (type, data) VALUES ('t.t', '')")
    assert stored(postgres_engine) == [4]


def test_a_rebase_and_a_batch_take_their_locks_in_one_order(
    postgres_engine: sa.Engine, postgres_url: str
) -> None:
    """A batch locks the events first, so it never holds what a rebase comes to next."""
    emit(postgres_engine, 3)
    deliver(postgres_engine, "a")
    given = settings(postgres_engine, "a", events="0s", inbox="1s")
    with postgres_engine.begin() as connection:
        lease.acquire(connection, NAME, "me", 60)
    for table in expiries(given):
        with connect(postgres_url) as rebasing, postgres_engine.connect() as batch:
            rebasing.execute("LOCK TABLE outbox_event IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(sa.exc.OperationalError) as caught:
                table.lock(batch)
            assert isinstance(caught.value.orig, psycopg.errors.LockNotAvailable)
            # What it held by then hinders no rebase.
            rebasing.execute("SELECT FROM outbox_checkpoint FOR UPDATE NOWAIT")
    assert rebase(postgres_engine, "a").count == 0


def test_neither_a_batch_nor_a_page_walks_over_what_was_deleted(
    postgres_engine: sa.Engine, postgres_url: str
) -> None:
    """Until a vacuum, an index has an entry for every deleted row, here 100,000."""
    with connect(postgres_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE outbox_event SET (autovacuum_enabled = off)")
        connection.execute(
            "INSERT INTO outbox_event (type, data, time) SELECT 't.t', '', now() - interval '1 h'"
            " FROM generate_series(1, 101000)"
        )
    deliver(postgres_engine, "a", count=100_000)
    given = settings(postgres_engine, "a", events="1s")
    assert swept(postgres_engine, given).deleted == {"events": 100_000}
    blocks = sa.text("SELECT pg_stat_get_xact_blocks_fetched('outbox_event_pkey'::regclass)")
    (table,) = expiries(given)
    state = State.read(retention_row(postgres_engine).position)
    with postgres_engine.begin() as connection:
        before = connection.execute(blocks).scalar_one()
        assert table.batch(connection, state.walks["events"].cursor, 1_000).is_over
        assert connection.execute(blocks).scalar_one() - before < 20
    capture = open_capture(postgres_engine)
    with postgres_engine.begin() as connection:
        query = sa.select(outbox_checkpoint.c.position).where(outbox_checkpoint.c.route == "a")
        found = connection.execute(query).scalar_one()
    page = capture.next_page(capture.position(found), 100)
    assert len(page.envelopes) == 100
    capture.close()


def test_it_says_which_right_it_lacks_and_the_routes_go_on(
    postgres_engine: sa.Engine,
) -> None:
    role = f"nobody_{uuid.uuid4().hex[:8]}"
    emit(postgres_engine, 1)
    deliver(postgres_engine, "a")
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
        connection.exec_driver_sql(
            f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}"
        )
    url = postgres_engine.url.set(username=role)
    poor = sa.create_engine(url, poolclass=sa.NullPool)
    given = settings(poor, "a", events="0s")
    try:
        with Relay(given, engine=poor).running():
            eventually(lambda: retention_error(postgres_engine) is not None)
            error = retention_error(postgres_engine)
            assert "permission denied for table outbox_event" in (error or "")
            emit(postgres_engine, 1)
            broker = broker_of(given)
            eventually(lambda: len(broker.messages("t")) == 1)
    finally:
        with postgres_engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")


def retention_error(engine: sa.Engine) -> str | None:
    with engine.begin() as connection:
        query = sa.select(outbox_checkpoint.c.error).where(outbox_checkpoint.c.route == NAME)
        return connection.scalar(query)
