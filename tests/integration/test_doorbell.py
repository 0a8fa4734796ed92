"""The doorbell: rung after commits that wrote events, never in them, and never in their way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import outbox
from outbox.doorbell import Doorbell
from outbox.errors import UsageError
from outbox.settings import Settings
from tests.ears import Ears, listening_to, unreachable
from tests.emitting import Happened, Order, Shop, emit, names
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THREAD = "outbox-doorbell"


@pytest.fixture
def shop(postgres_engine: sa.Engine) -> Shop:
    return Shop(postgres_engine)


@pytest.fixture
def ears(postgres_url: str) -> Iterator[Ears]:
    with listening_to(postgres_url) as found:
        yield found


@pytest.fixture
def doorbell(shop: Shop) -> Iterator[Doorbell]:
    with Doorbell(shop.engine) as found:
        yield found


def order_and_emit(engine: sa.Engine, name: str = "a") -> None:
    with Session(engine) as session, session.begin():
        session.add(Order(name=name))
        emit(session, name)


def threads() -> int:
    return [thread.name for thread in threading.enumerate()].count(THREAD)


def connections(ears: Ears) -> list[int]:
    """The server processes of doorbells on this database."""
    rows = ears.connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND query LIKE '%pg_notify%'"
    )
    return [int(pid) for (pid,) in rows]


def by_session(engine: sa.Engine) -> None:
    order_and_emit(engine)


def by_two_phases(engine: sa.Engine) -> None:
    with Session(engine, twophase=True) as session, session.begin():
        emit(session, "a")


def by_connection(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        emit(connection, "a")


def by_an_engine_with_options(engine: sa.Engine) -> None:
    by_connection(engine.execution_options(isolation_level="SERIALIZABLE"))


def by_publisher(engine: sa.Engine) -> None:
    publisher = outbox.EventPublisher(engine)
    with publisher.transaction():
        publisher.publish(Happened(name="a"))


@pytest.mark.usefixtures("doorbell")
@pytest.mark.parametrize(
    "write",
    [by_session, by_two_phases, by_connection, by_an_engine_with_options, by_publisher],
)
def test_each_way_to_commit_an_event_rings(
    shop: Shop, ears: Ears, write: Callable[[sa.Engine], None]
) -> None:
    for _ in range(3):
        write(shop.engine)
        ears.hear()


@pytest.mark.usefixtures("doorbell")
def test_a_connection_that_is_kept_rings_at_its_commit(shop: Shop, ears: Ears) -> None:
    with shop.engine.connect() as connection:
        for _ in range(2):
            connection.execute(sa.select(1))
            emit(connection, "a")
            connection.commit()
            ears.hear()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_an_async_engine_rings(shop: Shop, ears: Ears, driver: str) -> None:
    async def main() -> None:
        engine = create_async_engine(shop.engine.url.set(drivername=f"postgresql+{driver}"))
        with Doorbell(engine):
            for _ in range(2):
                async with AsyncSession(engine) as session, session.begin():
                    session.add(Order(name="x"))
                    emit(session, "a")
                await asyncio.to_thread(ears.hear)
            async with engine.begin() as connection:
                emit(connection, "b")
            await asyncio.to_thread(ears.hear)
        await engine.dispose()

    asyncio.run(main())
    assert threads() == 0


def test_a_drivers_own_connection_rings_by_hand(
    doorbell: Doorbell, postgres_url: str, ears: Ears
) -> None:
    dsn = sa.make_url(postgres_url).set(drivername="postgresql")
    with psycopg.connect(dsn.render_as_string(hide_password=False)) as connection:
        with connection.transaction():
            emit(connection, "a")
        doorbell.ring()
        ears.hear()


def test_a_publisher_of_settings_has_one_on_request(postgres_url: str, ears: Ears) -> None:
    publisher = outbox.EventPublisher(Settings(database_url=postgres_url), doorbell=True)
    with publisher.transaction():
        publisher.publish(Happened(name="a"))
    ears.hear()
    publisher.close()
    assert threads() == 0


def test_what_rolls_back_or_writes_no_event_rings_not(shop: Shop, ears: Ears) -> None:
    with Doorbell(shop.engine):
        with Session(shop.engine) as session, session.begin():
            session.add(Order(name="x"))
        with Session(shop.engine) as session:
            session.begin()
            session.add(Order(name="x"))
            emit(session, "a")
        with shop.engine.connect() as connection:
            with connection.begin() as transaction:
                emit(connection, "a")
                connection.execute(sa.select(1))
                transaction.rollback()
            with connection.begin():
                connection.execute(sa.select(1))
    assert ears.so_far() == 0


def test_an_event_that_was_written_and_rolled_back_rings_not_at_the_next_commit(
    shop: Shop, ears: Ears
) -> None:
    with Doorbell(shop.engine), shop.engine.connect() as connection:
        with Session(connection) as session:
            session.begin()
            emit(session, "a")
            session.flush()
            session.add(Order(name="x"))
            session.flush()
            session.rollback()
        connection.rollback()
        connection.execute(sa.select(1))
        connection.commit()
    assert ears.so_far() == 0
    assert names(shop.engine) == []


def test_a_savepoint_that_ends_rings_not(shop: Shop, ears: Ears) -> None:
    doorbell = Doorbell(shop.engine)
    with Session(shop.engine) as session, session.begin():
        with session.begin_nested():
            session.add(Order(name="x"))
            emit(session, "a")
        doorbell.close()
        assert ears.so_far() == 0
    assert names(shop.engine) == ["a"]


@pytest.mark.usefixtures("doorbell")
def test_a_savepoint_rings_with_the_transaction(shop: Shop, ears: Ears) -> None:
    with Session(shop.engine) as session, session.begin(), session.begin_nested():
        emit(session, "a")
    ears.hear()


def test_the_business_transaction_has_no_notify(shop: Shop, ears: Ears) -> None:
    with Doorbell(shop.engine), Session(shop.engine) as session, session.begin():
        pid = session.scalar(sa.text("SELECT pg_backend_pid()"))
        shop.statements.clear()
        session.add(Order(name="x"))
        emit(session, "a")
    ring = ears.hear()
    assert ring.pid != pid
    assert shop.statements == ["INSERT INTO shop_order", "INSERT INTO outbox_event", "COMMIT"]


SLOW_COMMIT = """
CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER pause AFTER INSERT ON shop_order
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pause();
"""


@pytest.mark.usefixtures("doorbell")
def test_what_was_rung_for_can_be_read_however_long_its_commit_takes(
    shop: Shop, ears: Ears
) -> None:
    ears.connection.execute(SLOW_COMMIT)
    with ThreadPoolExecutor(1) as pool:
        committed = pool.submit(order_and_emit, shop.engine)
        ears.hear()
        assert names(shop.engine) == ["a"]
        committed.result()


def test_a_thousand_commits_are_one_ring_and_another(
    shop: Shop, ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.doorbell.INTERVAL_SECONDS", 600.0)
    with Doorbell(shop.engine):
        order_and_emit(shop.engine)
        ears.hear()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(order_and_emit, [shop.engine] * 999))
        assert ears.so_far() == 0
    assert ears.so_far() == 1
    assert len(names(shop.engine)) == 1000


def test_rings_of_many_threads_are_few(shop: Shop, ears: Ears) -> None:
    with Doorbell(shop.engine) as doorbell, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: doorbell.ring(), range(10_000)))
    assert 1 <= ears.so_far() < 1_000


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.mark.usefixtures("doorbell")
def test_a_doorbell_that_cannot_ring_says_so_once_and_rings_later(
    shop: Shop, ears: Ears, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "outbox"):
        with unreachable(shop.engine, THREAD) as attempts:
            order_and_emit(shop.engine)
            for _ in range(3):
                assert attempts.acquire(timeout=20)
            assert names(shop.engine) == ["a"]
        ears.hear()
        eventually(lambda: "doorbell rings again" in messages(caplog))
    assert messages(caplog) == ["doorbell does not ring", "doorbell rings again"]
    (record, _) = caplog.records
    assert vars(record)["error"] == "nobody there"


def test_a_doorbell_without_tables_says_so(
    postgres_empty_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = sa.create_engine(postgres_empty_url)
    with Doorbell(engine) as doorbell:
        doorbell.ring()
        eventually(lambda: messages(caplog))
    (record,) = caplog.records
    assert 'relation "outbox_event" does not exist' in vars(record)["error"]


@pytest.mark.usefixtures("doorbell")
def test_a_doorbell_whose_connection_was_killed_rings_by_another(
    shop: Shop, ears: Ears, caplog: pytest.LogCaptureFixture
) -> None:
    order_and_emit(shop.engine)
    first = ears.hear().pid
    ears.connection.execute("SELECT pg_terminate_backend(%s, 20000)", [first])
    order_and_emit(shop.engine)
    assert ears.hear().pid != first
    assert messages(caplog)[:1] == ["doorbell does not ring"]


def test_a_doorbell_that_closes_while_it_cannot_ring_ends(shop: Shop, doorbell: Doorbell) -> None:
    with unreachable(shop.engine, THREAD) as attempts:
        order_and_emit(shop.engine)
        assert attempts.acquire(timeout=20)
        doorbell.close()
    eventually(lambda: threads() == 0)


@pytest.mark.usefixtures("doorbell")
def test_a_commit_succeeds_where_no_thread_can_be_started(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    order_and_emit(shop.engine)
    order_and_emit(shop.engine)
    assert names(shop.engine) == ["a", "a"]
    assert messages(caplog) == ["doorbell does not ring"]


def test_a_closed_doorbell_leaves_nothing_and_rings_no_more(shop: Shop, ears: Ears) -> None:
    with Doorbell(shop.engine) as doorbell:
        assert threads() == 0
        order_and_emit(shop.engine)
        ears.hear()
        assert threads() == 1
        assert len(connections(ears)) == 1
    assert threads() == 0
    eventually(lambda: connections(ears) == [])
    order_and_emit(shop.engine)
    doorbell.ring()
    doorbell.close()
    assert threads() == 0
    assert ears.so_far() == 0


def test_two_doorbells_of_one_engine_close_in_any_order(shop: Shop, ears: Ears) -> None:
    first, second = Doorbell(shop.engine), Doorbell(shop.engine)
    first.close()
    order_and_emit(shop.engine)
    ears.hear()
    second.close()
    order_and_emit(shop.engine)
    assert ears.so_far() == 0


@pytest.mark.usefixtures("doorbell")
def test_a_doorbell_that_rests_has_no_connection(
    shop: Shop, ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.doorbell.REST_SECONDS", 0.05)
    for _ in range(2):
        order_and_emit(shop.engine)
        ears.hear()
        eventually(lambda: connections(ears) == [])


@pytest.fixture
def application(postgres_url: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, with an engine and a doorbell."""
    command = [sys.executable, "-m", "tests.doorbell_process", postgres_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def test_a_forked_process_rings_by_a_thread_of_its_own(
    application: subprocess.Popen[str], ears: Ears
) -> None:
    tell(application, "emit")
    parent = ears.hear().pid
    tell(application, "fork")
    tell(application, "emit")
    child = ears.hear().pid
    assert child != parent
    assert parent in connections(ears)


def test_a_process_that_ends_at_once_has_rung(
    application: subprocess.Popen[str], ears: Ears
) -> None:
    tell(application, "emit")
    assert application.stdin is not None
    application.stdin.close()
    ears.hear()


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (sa.create_engine("sqlite://"), "rings on PostgreSQL only, not on sqlite"),
        ("postgresql://", "needs a SQLAlchemy engine, not str"),
    ],
)
def test_what_cannot_have_a_doorbell_is_refused(engine: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Doorbell(engine)


def test_an_application_rings_through_a_pooler(pooled_engine: sa.Engine, ears: Ears) -> None:
    with Doorbell(pooled_engine):
        for _ in range(7):
            by_connection(pooled_engine)
            ears.hear()
