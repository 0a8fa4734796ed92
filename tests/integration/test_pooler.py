"""Emit, relay, worker and migrations through PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

import outbox
from outbox import migration
from outbox.consumer import Consumer
from outbox.dead_letter import Filter, request
from outbox.engine import make_async_engine, make_engine
from outbox.errors import ConfigurationError, DatabaseUnavailableError
from outbox.publisher import EventPublisher
from outbox.settings import Settings
from outbox.table import outbox_checkpoint
from outbox.transports.memory import MemoryBroker
from outbox.worker import open_worker
from relay import database
from relay.capture import open_capture
from relay.capture.snapshot import SnapshotCapture
from relay.daemon import Relay, Until
from relay.pooler import Pooling, find_pooling
from tests.integration.consuming import (
    QUICK,
    TYPE,
    Base,
    Counted,
    consume,
    counted,
    effects,
    letters,
    write,
)
from tests.once import ROUTE, World
from tests.sessions import many_sessions
from tests.waiting import eventually
from tools.servers import pgbouncer

if TYPE_CHECKING:
    from tools.servers import PgBouncerServer

TOPIC = TYPE.rpartition(".")[0]


def settings_for(url: str, **route: Any) -> Settings:
    options = {"transport": "memory", "broker": uuid.uuid4().hex} | route
    return Settings.model_validate({"database_url": url, "routes": {"m": options}})


def broker_of(settings: Settings) -> MemoryBroker:
    return MemoryBroker.named(settings.routes["m"].options["broker"])


def has_arrived(broker: MemoryBroker, count: int) -> bool:
    return len(broker.messages(TOPIC)) >= count


def alter_database(engine: sa.Engine, setting: str) -> None:
    """Set what each later session of this database begins with."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{engine.url.database}" SET {setting}')


def test_no_page_is_compiled_through_a_pooler_and_no_session_is_left_changed(
    postgres_engine: sa.Engine, pooled_url: str
) -> None:
    """The server compiles whatever it runs here, and tells each client how."""
    for setting in (
        "jit_above_cost = 0",
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_level = 'notice'",
    ):
        alter_database(postgres_engine, setting)
    engine = make_engine(sa.make_url(pooled_url), "relay")
    capture = open_capture(engine)
    assert isinstance(capture, SnapshotCapture)
    plans: list[str] = []
    capture._connection._open().add_notice_handler(
        lambda notice: plans.append(notice.message_primary or "")
    )
    start = capture.now()
    with postgres_engine.begin() as connection:
        outbox.emit(connection, Counted(key="k", n=1))
    assert len(capture.next_page(start, 10).envelopes) == 1
    (page,) = [plan for plan in plans if "CTE fresh_sum" in plan]
    assert "JIT:" not in page
    plans.clear()
    assert capture.backlog(start).count == 1
    (backlog,) = [plan for plan in plans if "CTE fresh" in plan]
    assert "JIT:" in backlog
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE outbox_incarnation")
    with pytest.raises(ConfigurationError, match=r"tables of .* are missing or old"):
        capture.next_page(start, 10)
    capture.close()
    engine.dispose()


def test_what_is_emitted_through_a_pooler_is_relayed_and_handled_through_it_once_in_order(
    pooled_url: str, pooled_engine: sa.Engine
) -> None:
    settings = settings_for(pooled_url)
    Base.metadata.create_all(pooled_engine)
    publisher = EventPublisher(settings)
    consumer = Consumer("tests", database=pooled_url)
    consumer.on(Counted)(write)
    counts = []

    def emit(key: str) -> None:
        for n in range(0, 60, 3):
            with Session(pooled_engine) as session, session.begin():
                outbox.emit(session, Counted(key=key, n=n))
            with pooled_engine.begin() as connection:
                outbox.emit(connection, Counted(key=key, n=n + 1))
            with publisher.transaction():
                publisher.publish(Counted(key=key, n=n + 2))

    def work() -> None:
        counts.append(open_worker(consumer, settings).run(threading.Event(), idle_timeout=3))

    threads = [threading.Thread(target=emit, args=[key]) for key in "abcd"]
    threads.append(threading.Thread(target=work))
    with many_sessions(pooled_url), Relay(settings).running():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [(count.handled, count.duplicate, count.dead) for count in counts] == [(240, 0, 0)]
    by_key: dict[str, list[int]] = defaultdict(list)
    for key, n in effects(pooled_engine):
        by_key[key].append(n)
    assert by_key == {key: list(range(60)) for key in "abcd"}
    assert len(broker_of(settings).messages(TOPIC)) == 240
    publisher._engine.dispose()
    assert isinstance(consumer.engine, sa.Engine)
    consumer.engine.dispose()


def test_a_relay_that_is_killed_behind_a_pooler_repeats_nothing_on_kafka(
    pooled_url: str, pooled_engine: sa.Engine, kafka_server: str
) -> None:
    """Leases, positions and what is recorded at the broker, on sessions lent for a transaction."""
    world = World(pooled_engine, kafka_server)
    world.create()
    with many_sessions(pooled_url):
        for step in ("commit", "settle"):
            world.emit(*"abcabcab" * 50)
            world.run_and_die(step, page_size=100)
        world.emit(*"abc" * 50)
        assert Relay(world.settings()).run(until=Until.DRAINED).routes[ROUTE].error is None
    world.expect_each_once()


def test_an_async_worker_made_of_a_url_prepares_nothing(pooled_url: str) -> None:
    async def run() -> None:
        engine = make_async_engine(sa.make_url(pooled_url), "tests")
        for _ in range(12):
            async with engine.begin() as first, engine.begin() as second:
                await first.execute(sa.select(outbox_checkpoint))
                await second.execute(sa.select(outbox_checkpoint))
        await engine.dispose()

    with many_sessions(pooled_url):
        asyncio.run(run())


def test_dead_letters_are_written_and_replayed_through_a_pooler(
    pooled_url: str, pooled_engine: sa.Engine
) -> None:
    settings = settings_for(pooled_url)
    with pooled_engine.begin() as connection:
        outbox.emit(connection, Counted(key="bad", n=1), topic="no topic")
        outbox.emit(connection, Counted(key="bad", n=2))
    with many_sessions(pooled_url):
        summary = Relay(settings).run(until=Until.DRAINED).routes["m"]
        assert (summary.dead, summary.parked) == (1, 1)
        with pooled_engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE outbox_dead_letter SET topic = NULL WHERE status = 'dead'"
            )
            request(connection, Filter())
        assert Relay(settings).run(until=Until.DRAINED).routes["m"].published == 2
    assert letters(pooled_engine) == []


def test_a_migration_through_a_pooler_leaves_no_lock_behind(
    postgres_empty_url: str, pooler: PgBouncerServer
) -> None:
    url = pooler.through(postgres_empty_url)
    with many_sessions(url):
        migration.upgrade(url)
        migration.upgrade(url)
    engine = sa.create_engine(postgres_empty_url, poolclass=sa.NullPool)
    assert migration.current(engine) == migration.head()
    with engine.connect() as connection:
        query = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        assert connection.exec_driver_sql(query).scalar_one() == 0


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ({}, Pooling.TRANSACTION),
        ({"server_round_robin": "1"}, Pooling.TRANSACTION),
        ({"default_pool_size": "1"}, Pooling.TRANSACTION),
        ({"pool_mode": "session"}, Pooling.SESSION),
    ],
    ids=str,
)
def test_a_pooler_is_found_with_its_mode(
    postgres_url: str, mode: dict[str, str], expected: Pooling
) -> None:
    server = sa.make_url(postgres_url)
    with pgbouncer(
        server.host or "", server.port or 0, user=server.username or "", settings=mode
    ) as pooler:
        url = pooler.through(postgres_url)
        if "default_pool_size" not in mode and "pool_mode" not in mode:
            for count in (2, 5):
                with many_sessions(url, count):
                    assert found(url) is expected
        assert found(url) is expected


def test_a_server_without_a_pooler_is_not_taken_for_one(postgres_url: str) -> None:
    assert found(postgres_url) is Pooling.NONE


def found(url: str) -> Pooling:
    """Look with an engine that never has two connections."""
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}
    engine = make_engine(sa.make_url(url), "tests", None, **options)
    try:
        return find_pooling(engine)
    finally:
        engine.dispose()


def test_a_relay_says_once_at_its_start_what_a_pooler_takes_from_it(
    pooled_url: str, pooled_engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        records = [record for record in caplog.records if record.name == "relay.selfcheck"]
        return [str(record.__dict__["check"]) for record in records]

    settings = settings_for(pooled_url)
    with caplog.at_level(logging.WARNING), Relay(settings).running():
        eventually(lambda: "pooler" in told())
        with pooled_engine.begin() as connection:
            outbox.emit(connection, Counted(key="k", n=1))
        eventually(lambda: broker_of(settings).messages(TOPIC))
    assert told().count("pooler") == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_worker_whose_engine_prepares_statements_ends_and_blames_no_event(
    pooled_url: str, pooled_engine: sa.Engine, kind: str
) -> None:
    Base.metadata.create_all(pooled_engine)
    is_async = kind == "async"
    engine: Any = create_async_engine(pooled_url) if is_async else sa.create_engine(pooled_url)
    consumer = Consumer("tests", database=engine)
    consumer.on(Counted)(write)
    one_by_one = QUICK.model_copy(update={"batch_size": 1})
    with (
        many_sessions(pooled_url),
        pytest.raises(ConfigurationError, match=r"prepare_threshold.*None"),
    ):
        consume(consumer, [counted("k", n) for n in range(40)], one_by_one)
    assert letters(pooled_engine) == []
    getattr(engine, "sync_engine", engine).dispose(close=not is_async)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_relay_goes_on_when_its_pooler_is_back(postgres_engine: sa.Engine, end: str) -> None:
    url = postgres_engine.url
    with pgbouncer(url.host or "", url.port or 0, user=url.username or "") as pooler:
        settings = settings_for(pooler.through(url.render_as_string(hide_password=False)))
        broker = broker_of(settings)
        with Relay(settings).running():
            for count in (1, 2):
                with postgres_engine.begin() as connection:
                    outbox.emit(connection, Counted(key="k", n=count))
                eventually(partial(has_arrived, broker, count))
                getattr(pooler, end)()
                pooler.start()


@pytest.mark.parametrize("through", ["postgres", "pooler"])
def test_dates_are_read_whatever_style_a_role_has(
    postgres_engine: sa.Engine, through: str, request: pytest.FixtureRequest
) -> None:
    alter_database(postgres_engine, "DateStyle = 'SQL, DMY'")
    url = postgres_engine.url.render_as_string(hide_password=False)
    if through == "pooler":
        url = request.getfixturevalue("pooler").through(url)
        with many_sessions(url):
            pass
    engine = database.make_engine(sa.make_url(url))
    for _ in range(6):
        with engine.begin() as connection, engine.begin() as another:
            for each in (connection, another):
                assert each.scalar(sa.select(sa.func.clock_timestamp())) is not None
    engine.dispose()


def test_a_time_out_of_the_role_is_told_as_such(postgres_engine: sa.Engine) -> None:
    alter_database(postgres_engine, "statement_timeout = '50ms'")
    alter_database(postgres_engine, "lock_timeout = '20ms'")
    engine = database.make_engine(postgres_engine.url)
    with (
        pytest.raises(DatabaseUnavailableError, match=r"by its statement_timeout .*ALTER ROLE"),
        database.transaction(engine) as connection,
    ):
        connection.exec_driver_sql("SELECT pg_sleep(10)")
    capture = open_capture(engine)
    position = capture.beginning()
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE outbox_event IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailableError, match=r"holds a lock .* lock timeout"):
            capture.next_page(position, 10)
    capture.close()
    engine.dispose()
