"""What partitions can do to those who write, each with an application that commits all the time.

Decision 0007 lists these traps.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

from outbox import partitions
from outbox.errors import ConfigurationError, DatabaseUnavailableError
from relay import rotation
from relay.capture import open_capture
from relay.capture.snapshot import SnapshotCapture
from relay.pooler import Pooling, find_pooling
from relay.retention_state import partition_status
from tests.capturing import connect, writers
from tests.committing import committing
from tests.dumping import dump, psql
from tests.partitioning import fill, is_pending, names, retain, run
from tests.retaining import deliver, settings, stored, swept
from tests.sessions import many_sessions
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.capturing import Writer
    from tests.committing import Committer

ROWS = 2_000
GUARDS = "SELECT convalidated FROM pg_constraint WHERE conname = 'outbox_event_own'"


@pytest.fixture
def engine(postgres_engine: sa.Engine) -> sa.Engine:
    """A database whose events are in partitions of 2,000."""
    with postgres_engine.begin() as connection:
        partitions.convert(connection, ROWS)
    return postgres_engine


@pytest.fixture
def busy(engine: sa.Engine, postgres_url: str) -> Iterator[Committer]:
    """An application that commits all the time, and is hindered by nothing that a test does."""
    with committing(postgres_url) as application:
        yield application
        application.goes_on()
    application.assert_undisturbed()


@pytest.fixture
def writer(postgres_url: str) -> Iterator[Writer]:
    """A session whose transaction a test begins and ends."""
    with writers(postgres_url, 1) as (made,):
        yield made


@pytest.fixture
def reader(postgres_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A session that has read events and leaves its transaction open."""
    with closing(connect(postgres_url)) as connection:
        connection.execute("SELECT FROM outbox_event LIMIT 1")
        yield connection


def test_partitions_are_made_ahead_past_readers_and_writers_that_create_would_stop_at(
    engine: sa.Engine,
    reader: psycopg.Connection[tuple[object, ...]],
    writer: Writer,
    busy: Committer,
) -> None:
    writer.emit()
    run(engine, fill(4 * ROWS))
    before = names(engine)
    rotation.make_ahead(engine)
    assert len(names(engine)) >= len(before) + 4
    busy.goes_on()
    with engine.begin() as connection:
        partitions.extend(connection)
        busy.goes_on()  # while an uncommitted ATTACH holds its lock
    create = "CREATE TABLE x PARTITION OF outbox_event FOR VALUES FROM (9000001) TO (9000002)"
    with ThreadPoolExecutor(1) as pool:
        creating = pool.submit(run, engine, create)
        eventually(lambda: busy.waits(engine))
        for each in (reader, writer.connection):
            each.rollback()
        creating.result(30)


def test_an_event_that_is_not_committed_yet_keeps_its_partition(
    engine: sa.Engine, writer: Writer, busy: Committer
) -> None:
    late = writer.emit()
    run(engine, fill(ROWS))
    deliver(engine, "a")
    with pytest.raises(DatabaseUnavailableError, match="lock timeout"):
        retain(engine)
    # Were it pending by now, the event could not be read until it came back.
    assert not is_pending(engine)
    busy.goes_on()
    writer.commit()
    state = retain(engine)
    assert state.walks["events"].held == "an event that committed late is still to be delivered"
    assert late in stored(engine)
    deliver(engine, "a")
    assert retain(engine).deleted == {"partitions": 1}


def test_a_detach_that_was_broken_off_is_finished_later(
    engine: sa.Engine, writer: Writer, busy: Committer, postgres_url: str
) -> None:
    """A transaction that knows the partition holds up the detaching, not the other way round."""
    run(engine, fill(ROWS))
    deliver(engine, "a")
    with closing(connect(postgres_url)) as reader:
        reader.execute("SELECT FROM outbox_event LIMIT 1")
        with pytest.raises(DatabaseUnavailableError, match="lock timeout"):
            retain(engine)
        assert is_pending(engine)
        busy.goes_on()
        writer.emit()
        writer.commit()
        assert stored(engine)[0] == ROWS + 1  # nobody sees it any more
        rotation.make_ahead(engine)
    assert retain(engine).deleted == {"partitions": 1}
    assert names(engine)[0] == f"outbox_event_p{ROWS + 1}"


@pytest.mark.parametrize("is_delivered", [True, False])
def test_what_a_crash_left_detached_is_dropped_or_comes_back(
    engine: sa.Engine, *, is_delivered: bool, writer: Writer, busy: Committer
) -> None:
    if not is_delivered:
        writer.emit()
    run(engine, fill(ROWS))
    deliver(engine, "a")
    writer.commit()
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    with alone.connect() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE outbox_event DETACH PARTITION outbox_event_p1 CONCURRENTLY"
        )
    run(engine, "CREATE TABLE outbox_event_p7 (of int)")  # somebody else's
    busy.goes_on()
    retain(engine)
    assert ("outbox_event_p1" in names(engine)) is not is_delivered
    found = run(engine, "SELECT to_regclass('outbox_event_p1') IS NULL").scalar()
    assert found is is_delivered
    assert run(engine, "SELECT to_regclass('outbox_event_p7') IS NULL").scalar() is False


def test_running_out_of_partitions_is_told_before_producers_fail(
    postgres_engine: sa.Engine, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A relay whose role may make none looks again and again; then the owner makes some."""
    engine, rows = postgres_engine, 500
    with engine.begin() as connection:
        partitions.convert(connection, rows)
    role = f"nobody_{engine.url.database}"
    run(engine, f"CREATE ROLE {role} LOGIN")
    run(engine, f"GRANT SELECT, DELETE ON outbox_event TO {role}")  # as `outbox migrate` does
    poor = sa.create_engine(engine.url.set(username=role), poolclass=sa.NullPool)

    def is_told() -> bool:
        with pytest.raises(ConfigurationError, match=r"refuses the relay: (must be|permission)"):
            rotation.make_ahead(poor)
        return "partitions run out: without one ahead producers fail" in caplog.messages

    status = partition_status(engine)
    assert status is not None
    assert (status.count, status.room_count, status.is_short) == (11, 11 * rows, False)
    run(engine, fill(7 * rows))
    try:
        with committing(postgres_url) as busy:
            eventually(is_told)
            status = partition_status(engine)
            assert status is not None
            assert status.is_short
            assert status.room_count > rows
            assert busy.errors == []  # it is told in time
            eventually(lambda: busy.errors)
            rotation.make_ahead(engine)
            failed = len(busy.errors)
            busy.goes_on()
            assert len(busy.errors) <= failed + 1  # one may have been under way
            with pytest.raises(sa.exc.IntegrityError, match="no partition of relation"):
                run(engine, fill(30 * rows))
    finally:
        run(engine, f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert {type(error) for error in busy.errors} == {psycopg.errors.CheckViolation}
    assert stored(engine)[7 * rows :] == busy.committed


def test_a_partition_that_would_lock_writers_out_is_refused(
    engine: sa.Engine, busy: Committer, postgres_url: str
) -> None:
    run(engine, "CREATE TABLE catch PARTITION OF outbox_event DEFAULT")
    for work in (rotation.make_ahead, retain):
        with pytest.raises(ConfigurationError, match=r"catch takes DEFAULT, .* remove it"):
            work(engine)
    # It would catch what has no partition ...
    run(engine, "SELECT setval('outbox_event_seq_seq', 1000000)")
    busy.goes_on()
    attach = (
        "CREATE TABLE x (LIKE outbox_event INCLUDING ALL EXCLUDING IDENTITY);"
        "ALTER TABLE outbox_event ATTACH PARTITION x FOR VALUES FROM (9000001) TO (9000002)"
    )
    with closing(connect(postgres_url)) as reader, ThreadPoolExecutor(1) as pool:
        reader.execute("SELECT FROM outbox_event LIMIT 1")
        attaching = pool.submit(run, engine, attach)
        eventually(lambda: busy.waits(engine))  # ... and this is why there is none.
        reader.rollback()
        attaching.result(30)


def test_a_dump_can_be_restored_and_the_guard_stands_on_each_partition(
    engine: sa.Engine, busy: Committer, postgres_url: str, postgres_empty_url: str
) -> None:
    run(engine, fill(ROWS))
    rotation.make_ahead(engine)  # while somebody writes
    before = list(busy.committed)
    script = dump(postgres_url)
    busy.goes_on()
    psql(postgres_empty_url, script)
    restored = sa.create_engine(postgres_empty_url, poolclass=sa.NullPool)
    assert set(before) <= set(stored(restored)) <= set(stored(engine))
    run(restored, fill(1))
    rotation.make_ahead(restored)
    for at in (engine, restored):
        found = run(at, GUARDS).scalars().all()
        assert (len(found), set(found)) == (len(names(at)) + 1, {False})
        for table in ("outbox_event", "outbox_event_p1"):
            with pytest.raises(sa.exc.IntegrityError, match="outbox_event_own"):
                run(at, f"UPDATE {table} SET type = 'other' WHERE seq = 1")


def test_a_pooler_that_gives_each_statement_another_session_gets_no_detach(
    engine: sa.Engine, postgres_url: str, pooled_url: str, pooled_engine: sa.Engine
) -> None:
    """The time-out of a detach would be set in a session that may be anybody's."""
    with many_sessions(pooled_url), committing(pooled_url) as busy:
        assert find_pooling(pooled_engine) is Pooling.TRANSACTION
        run(engine, fill(ROWS))
        deliver(engine, "a")
        first = names(engine)[0]
        state = swept(pooled_engine, settings(engine, "a", events="0s"))
        assert state.deleted == {"partitions": 0}
        assert str(state.walks["events"].held).startswith("no partition is detached through a")
        assert names(engine)[0] == first
        assert not is_pending(engine)
        busy.goes_on()
        run(engine, fill(ROWS))
        count = len(names(engine))
        rotation.make_ahead(pooled_engine)  # that it can
        assert len(names(engine)) > count
        busy.goes_on()
        # The pooler chooses who gets the session: now and then not who looks.
        eventually(lambda: "7s" in elsewhere(pooled_engine, "7s"))
        assert retain(engine).deleted == {"partitions": 1}
        busy.goes_on()
    busy.assert_undisturbed()


def elsewhere(engine: sa.Engine, timeout: str) -> set[str]:
    """Set a time-out as a detach does, and return what other clients of the pooler then have."""
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    with alone.connect() as connection:
        connection.exec_driver_sql(f"SET lock_timeout = '{timeout}'")
        with engine.connect() as other:
            shown = [other.exec_driver_sql("SHOW lock_timeout").scalar_one()]
            for _ in range(8):
                other.rollback()
                shown.append(other.exec_driver_sql("SHOW lock_timeout").scalar_one())
    return set(shown)


def test_the_server_compiles_no_page(engine: sa.Engine) -> None:
    """It would take seconds, of the relay alone: the planner expects something of each partition.

    No writer is concerned: only who reads pages.
    """
    capture = open_capture(engine)
    assert isinstance(capture, SnapshotCapture)
    capture.now()
    shown = capture._connection._open().execute("SHOW jit").fetchone()
    capture.close()
    assert shown == ("off",)
