"""A database moved to another server by a dump: the routes go on there without a loss."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa

from outbox.errors import ForeignPositionError
from outbox.table import outbox_checkpoint, outbox_event
from relay import lease
from relay.capture import Capture, open_capture
from relay.capture.position import SerialPosition, Server, SnapshotPosition
from relay.lease import Grant, Held
from relay.rebase import rebase
from tests.capturing import Reader, connect, writers
from tools.servers.postgres import find_binaries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.servers import PostgresServer

SNAPSHOT_OF_POSTGRES = SnapshotPosition(7, "9:9:", None, Server("1", "2"))
XIDS_BURNT = 200
"""So many transactions are the old server ahead of the new one at least."""


@pytest.fixture
def here(own_postgres: PostgresServer) -> Iterator[sa.Engine]:
    """An engine on the new server, which has given fewer transaction ids than the old one."""
    engine = sa.create_engine(own_postgres.url())
    yield engine
    engine.dispose()


@contextmanager
def opened(engine: sa.Engine) -> Iterator[Capture]:
    capture = open_capture(engine)
    try:
        yield capture
    finally:
        capture.close()


def store(engine: sa.Engine, route: str, position: dict[str, Any] | None) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox_checkpoint), {"route": route, "position": position})


def stored(engine: sa.Engine, route: str) -> dict[str, Any]:
    columns = outbox_checkpoint.c
    with engine.connect() as connection:
        found = connection.scalar(sa.select(columns.position).where(columns.route == route))
    assert isinstance(found, dict)
    return found


def move(old: str, new: PostgresServer) -> None:
    """Dump the one database and restore it into the other server."""
    folder = find_binaries()
    source = sa.make_url(old).set(drivername="postgresql").render_as_string(hide_password=False)
    dump = subprocess.run(
        [folder / "pg_dump", "--no-owner", source], check=True, capture_output=True
    )
    subprocess.run(
        [folder / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", new.dsn()],
        check=True,
        input=dump.stdout,
        capture_output=True,
    )


def burn_ids(url: str) -> None:
    with connect(url, autocommit=True) as connection:
        for _ in range(XIDS_BURNT):
            connection.execute("SELECT pg_current_xact_id()")


def emit(url: str) -> int:
    with writers(url, 1) as (writer,):
        seq = writer.emit()
        writer.commit()
    return seq


def test_after_a_dump_each_route_goes_on_and_nothing_is_lost(
    postgres_engine: sa.Engine, postgres_url: str, here: sa.Engine, own_postgres: PostgresServer
) -> None:
    burn_ids(postgres_url)
    with opened(postgres_engine) as capture, writers(postgres_url, 2) as (slow, quick):
        first = quick.emit()
        quick.commit()
        late = slow.emit()
        settled = [quick.emit() for _ in range(3)]
        quick.commit()
        ahead, behind = Reader(capture, 100), Reader(capture, 1)
        assert ahead.drain() == [first, *settled]
        assert behind.read() == [first]
        slow.commit()
        fresh = emit(postgres_url)
    store(postgres_engine, "ahead", ahead.stored)
    store(postgres_engine, "behind", behind.stored)
    store(postgres_engine, "unstarted", None)
    move(postgres_url, own_postgres)
    after = emit(own_postgres.url())
    with opened(here) as capture:
        with pytest.raises(ForeignPositionError, match="--rebase"):
            capture.position(ahead.stored)
        with pytest.raises(ForeignPositionError, match="--rebase"):
            Reader(capture, 100).drain()
        rebased = rebase(here, "ahead")
        # The late row was not delivered to the one, so what followed it is sent again.
        assert rebased.counts == {"ahead": len(settled), "behind": 0}
        assert rebased.count == len(settled)
        for route in ("ahead", "behind"):
            reader = Reader(capture, 2, capture.position(stored(here, route)))
            assert reader.drain() == [late, *settled, fresh, after]
            assert reader.drain() == []
        assert Reader(capture, 100).drain() == [first, late, *settled, fresh, after]
        assert rebase(here, "ahead").counts == {}


def test_after_a_rebase_the_guard_is_back_and_writers_go_on(
    postgres_engine: sa.Engine, postgres_url: str, here: sa.Engine, own_postgres: PostgresServer
) -> None:
    burn_ids(postgres_url)
    emit(postgres_url)
    with opened(postgres_engine) as capture:
        store(postgres_engine, "kafka", capture.beginning().to_json())
    move(postgres_url, own_postgres)
    rebase(here, "kafka")
    emit(own_postgres.url())
    with writers(own_postgres.url(), 1) as (writer,):
        with pytest.raises(psycopg.errors.CheckViolation, match="outbox_event_own"):
            writer.run("UPDATE outbox_event SET transaction_id = '3'")
        writer.rollback()
    with opened(here) as capture:
        reader = Reader(capture, 10, capture.position(stored(here, "kafka")))
        assert reader.drain() == [1, 2]


def test_a_pass_that_was_under_way_is_not_lost(
    postgres_engine: sa.Engine, postgres_url: str, here: sa.Engine, own_postgres: PostgresServer
) -> None:
    burn_ids(postgres_url)
    with opened(postgres_engine) as capture, writers(postgres_url, 2) as (slow, quick):
        late = [slow.emit() for _ in range(4)]
        settled = quick.emit()
        quick.commit()
        reader = Reader(capture, 3)
        assert reader.drain() == [settled]
        slow.commit()
        assert reader.read() == late[:3]
    assert reader.stored["late"]
    store(postgres_engine, "kafka", reader.stored)
    move(postgres_url, own_postgres)
    assert rebase(here, "kafka").count == 1
    with opened(here) as capture:
        reader = Reader(capture, 3, capture.position(stored(here, "kafka")))
        assert reader.drain() == [late[3], settled]


def test_a_rebase_turns_a_relay_away_that_still_holds_the_route(
    postgres_engine: sa.Engine, postgres_url: str
) -> None:
    with opened(postgres_engine) as capture:
        position = capture.beginning().to_json()
    position["server"]["system"] = "1"
    store(postgres_engine, "kafka", position)
    rebase(postgres_engine, "kafka")
    columns = outbox_checkpoint.c
    with postgres_engine.connect() as connection:
        query = sa.select(columns.token, columns.version, columns.holder)
        assert connection.execute(query).one() == (1, 1, None)


def test_a_route_without_a_position_is_left_alone(postgres_engine: sa.Engine) -> None:
    assert rebase(postgres_engine, "new").counts == {}


def test_on_sqlite_a_position_holds_on_any_server(sqlite_engine: sa.Engine) -> None:
    store(sqlite_engine, "kafka", {"kind": "serial", "floor": 1})
    assert rebase(sqlite_engine, "kafka").counts == {}
    assert stored(sqlite_engine, "kafka") == {"kind": "serial", "floor": 1}


@pytest.mark.parametrize("kind", ["postgres", "sqlite", "mariadb"])
def test_a_position_of_another_kind_of_database_begins_anew(
    request: pytest.FixtureRequest, kind: str
) -> None:
    engine: sa.Engine = request.getfixturevalue(f"{kind}_engine")
    other = SerialPosition(7) if kind == "postgres" else SNAPSHOT_OF_POSTGRES
    store(engine, "kafka", other.to_json())
    rows = [{"type": "shop.order.placed", "data": b"%d" % n} for n in range(3)]
    for row in rows:
        with engine.begin() as connection:
            connection.execute(sa.insert(outbox_event), row)
    with opened(engine) as capture:
        with pytest.raises(ForeignPositionError, match=r"another kind of database.*--rebase"):
            capture.position(stored(engine, "kafka"))
        assert rebase(engine, "kafka").counts == {"kafka": len(rows)}
        reader = Reader(capture, 2, capture.position(stored(engine, "kafka")))
        assert len(reader.drain()) == len(rows)
    assert rebase(engine, "kafka").counts == {}


@pytest.mark.parametrize("kind", ["postgres", "sqlite", "mariadb"])
def test_a_rebased_route_stays_paused(request: pytest.FixtureRequest, kind: str) -> None:
    engine: sa.Engine = request.getfixturevalue(f"{kind}_engine")
    other = SerialPosition(7) if kind == "postgres" else SNAPSHOT_OF_POSTGRES
    store(engine, "kafka", other.to_json())
    with engine.begin() as connection:
        assert lease.pause(connection, "kafka", "ann@ops", "moving")
    assert rebase(engine, "kafka").counts == {"kafka": 0}
    with engine.begin() as connection:
        assert lease.acquire(connection, "kafka", "relay", 15) == Held("(paused) ann@ops")
        assert lease.resume(connection, "kafka")
        assert isinstance(lease.acquire(connection, "kafka", "relay", 15), Grant)


def test_on_mariadb_a_route_begins_anew_where_the_numbers_do(mariadb_engine: sa.Engine) -> None:
    insert = sa.insert(outbox_event).values(type="shop.order.placed", data=b"")
    with opened(mariadb_engine) as capture:
        with mariadb_engine.begin() as connection:
            connection.execute(insert)
            connection.execute(insert)
        page = capture.next_page(capture.beginning(), 10)
        store(mariadb_engine, "kafka", page.position().to_json())
        assert rebase(mariadb_engine, "kafka").counts == {}
        with mariadb_engine.begin() as connection:
            connection.exec_driver_sql("TRUNCATE TABLE outbox_event")
            connection.execute(insert)
        with pytest.raises(ForeignPositionError, match="--rebase"):
            capture.position(stored(mariadb_engine, "kafka"))
        assert rebase(mariadb_engine, "kafka").counts == {"kafka": 1}
        reader = Reader(capture, 2, capture.position(stored(mariadb_engine, "kafka")))
        assert reader.drain() == [1]
