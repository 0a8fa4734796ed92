"""Workers: kills, outages, stops, rebalances and replays change nothing about the effects."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from outbox import dead_letter, worker
from outbox.consumer import Consumer
from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    DestinationRefusedError,
    PermanentError,
)
from outbox.settings import ConsumerSettings, RouteSettings, Settings
from outbox.settlement import Counts
from outbox.table import outbox_event
from outbox.transports.memory import MemoryBroker, publisher, subscriber
from outbox.transports.memory import Options as MemoryOptions
from outbox.worker import Worker, open_worker
from tests.fix_mariadb import administer
from tests.integration import consuming_process
from tests.integration.consuming import (
    QUICK,
    TYPE,
    Base,
    Counted,
    Effect,
    ListSubscriber,
    async_engine,
    consume,
    counted,
    effects,
    inbox_count,
    letters,
    write,
)
from tests.locked import await_waiters
from tools.servers import MariaDbServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from outbox.context import Context
    from outbox.transport import Delivery
    from tools.servers import PostgresServer


@pytest.fixture(params=["postgres", "sqlite", "mariadb"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    made: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    Base.metadata.create_all(made)
    return made


@pytest.fixture
def postgres(postgres_engine: sa.Engine) -> sa.Engine:
    Base.metadata.create_all(postgres_engine)
    return postgres_engine


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> sa.Engine:
    """An engine on a database with many sessions."""
    made: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    Base.metadata.create_all(made)
    return made


class Listener(logging.Handler):
    """Calls a function when a text is logged."""

    def __init__(self, text: str, function: Callable[[], object]) -> None:
        super().__init__()
        self._text = text
        self._function = function
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.count += 1
            self._function()


@contextmanager
def listening(text: str, function: Callable[[], object] = lambda: None) -> Iterator[Listener]:
    listener = Listener(text, function)
    logger = logging.getLogger("outbox")
    logger.addHandler(listener)
    try:
        yield listener
    finally:
        logger.removeHandler(listener)


def consumer_of(database: sa.Engine, name: str = "tests") -> Consumer:
    consumer = Consumer(name, database=database)
    consumer.on(Counted)(write)
    return consumer


@pytest.mark.parametrize(("moment", "committed"), [("ack", 10), ("handler", 10)])
def test_a_worker_killed_before_its_ack_repeats_no_effect(
    engine: sa.Engine, moment: str, committed: int
) -> None:
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", consuming_process.__name__, url, moment]
    died = subprocess.run(command, check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert len(effects(engine)) == committed
    counts = consume(consumer_of(engine), consuming_process.log())
    assert counts == Counts(handled=consuming_process.COUNT - committed, duplicate=committed)
    assert [n for _, n in effects(engine)] == list(range(consuming_process.COUNT))


def run_together(*runs: Callable[[], object]) -> None:
    """Run in a thread each; raise what any of them raised."""
    failed: list[BaseException] = []
    barrier = threading.Barrier(len(runs))

    def run(function: Callable[[], object]) -> None:
        try:
            barrier.wait(10)
            function()
        except BaseException as exc:  # noqa: BLE001  # raised below, in the test's thread
            failed.append(exc)

    threads = [threading.Thread(target=run, args=(function,)) for function in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if failed:
        raise failed[0]


def test_two_workers_with_the_same_events_in_other_orders_have_one_effect_each(
    engine: sa.Engine,
) -> None:
    log = [counted(f"k{n}", n) for n in range(1_000)]
    found: list[Counts] = []
    settings = QUICK.model_copy(update={"batch_size": 50})

    def work(events: Sequence[object]) -> None:
        found.append(consume(consumer_of(engine), events, settings))  # type: ignore[arg-type]  # events

    with listening("the database does not take") as outages, listening("failed") as failures:
        run_together(*(lambda events=events: work(events) for events in (log, log[::-1])))
    assert sum((each.handled for each in found), 0) == 1_000
    assert sum((each.duplicate for each in found), 0) == 1_000
    assert sorted(effects(engine)) == sorted((f"k{n}", n) for n in range(1_000))
    assert (outages.count, failures.count) == (0, 0)


def test_a_rebalance_in_the_middle_repeats_loses_and_reorders_nothing(engine: sa.Engine) -> None:
    broker = MemoryBroker.named(f"rebalance-{engine.url.database}")
    options = MemoryOptions(broker=f"rebalance-{engine.url.database}", topic="tests")
    log = [counted(f"k{n % 40}", n) for n in range(2_000)]
    publisher("r", options, 1).publish(log)
    settings = QUICK.model_copy(update={"batch_size": 20})
    first_stop, middle, late = threading.Event(), threading.Event(), threading.Event()
    consumer = Consumer("tests", database=engine)
    seen: list[int] = []

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        write(event, context)
        seen.append(event.n)
        if len(seen) == 300:
            middle.set()
        if len(seen) == 900:
            first_stop.set()

    def first() -> None:
        Worker(consumer, subscriber("r", options, "tests", ["tests"]), settings).run(first_stop)
        late.set()

    def second() -> None:
        assert middle.wait(30)
        joined = subscriber("r", options, "tests", ["tests"])
        Worker(consumer, joined, settings).run(threading.Event(), idle_timeout=2)
        assert late.is_set()

    run_together(first, second)
    done = effects(engine)
    assert len(done) == len(broker.messages("tests")) == 2_000
    for key in {key for key, _ in done}:
        assert [n for k, n in done if k == key] == [n for n in range(2_000) if f"k{n % 40}" == key]
    again = subscriber("r", options, "a new group", ["tests"])
    counts = Worker(consumer, again, QUICK).run(threading.Event(), idle_timeout=0.1)
    assert counts == Counts(duplicate=2_000)


OWN_SESSION = {"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT CONNECTION_ID()"}
CUT = {"postgresql": "SELECT pg_terminate_backend({}, 5000)", "mariadb": "KILL CONNECTION {}"}


@pytest.mark.parametrize(
    ("name", "driver"),
    [
        ("postgres", None),
        ("postgres", "psycopg"),
        ("postgres", "asyncpg"),
        ("mariadb", None),
        ("mariadb", "asyncmy"),
    ],
)
def test_a_connection_that_is_cut_burns_no_attempt(
    request: pytest.FixtureRequest, name: str, driver: str | None
) -> None:
    server: sa.Engine = request.getfixturevalue(f"{name}_engine")
    Base.metadata.create_all(server)
    database = async_engine(server, driver) if driver else server
    consumer = Consumer("tests", database=database)
    attempts: list[int] = []

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        write(event, context)
        attempts.append(context.attempt)
        if len(attempts) <= 10 and event.n == 3:
            session = context.session.scalar(sa.text(OWN_SESSION[server.dialect.name]))
            with server.connect() as other:
                other.execute(sa.text(CUT[server.dialect.name].format(session)))

    log = [counted("k", n) for n in range(6)]
    assert consume(consumer, log) == Counts(handled=6)
    assert effects(server) == [("k", n) for n in range(6)]
    assert set(attempts) == {1}
    assert len(attempts) > 10


@pytest.mark.parametrize("name", ["postgres", "mariadb"])
def test_a_server_that_is_down_is_waited_for(request: pytest.FixtureRequest, name: str) -> None:
    from outbox.migration import upgrade  # noqa: PLC0415  # of this test alone

    own: PostgresServer | MariaDbServer = request.getfixturevalue(f"own_{name}")
    if isinstance(own, MariaDbServer):
        administer(sa.make_url(own.url()), "CREATE DATABASE postgres")
    upgrade(own.url("postgres"))
    engine = sa.create_engine(own.url("postgres"))
    Base.metadata.create_all(engine)
    consumer = Consumer("tests", database=engine)
    killed = threading.Event()

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        write(event, context)
        if event.n == 3 and not killed.is_set():
            killed.set()
            own.kill()

    outages = 0

    def start_at_the_third() -> None:
        nonlocal outages
        outages += 1
        if outages == 3:
            own.start()

    log = [counted("k", n) for n in range(6)]
    with listening("the database does not take", start_at_the_third):
        assert consume(consumer, log) == Counts(handled=6)
    assert outages >= 3
    assert effects(engine) == [("k", n) for n in range(6)]
    engine.dispose()


def test_a_batch_is_read_committed_whatever_the_engine_says(postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url, isolation_level="REPEATABLE READ")
    consumer = Consumer("tests", database=engine)
    seen: dict[str, str] = {}

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        for name in ("transaction_isolation", "lock_timeout"):
            seen[name] = context.session.scalar(sa.text(f"SHOW {name}"))

    consume(consumer, [counted("k", 1)])
    assert seen == {"transaction_isolation": "read committed", "lock_timeout": "10s"}
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW lock_timeout")) == "0"
    engine.dispose()


def test_a_batch_on_mariadb_is_read_committed_and_waits_as_long_as_the_settings_say(
    mariadb_url: str,
) -> None:
    engine = sa.create_engine(mariadb_url, isolation_level="REPEATABLE READ", pool_size=1)
    consumer = Consumer("tests", database=engine)
    seen: list[tuple[str, int]] = []
    query = sa.text("SELECT @@tx_isolation, @@innodb_lock_wait_timeout")

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        isolation, limit = context.session.execute(query).one()
        seen.append((isolation, limit))

    consume(consumer, [counted("k", 1)])
    settings = QUICK.model_copy(update={"lock_timeout_seconds": 3.0})
    consume(consumer, [counted("k", 2)], settings)
    assert seen == [("READ-COMMITTED", 10), ("READ-COMMITTED", 3)]
    with engine.connect() as connection:
        assert connection.scalar(query) == "REPEATABLE-READ"
    engine.dispose()


def test_another_database_that_is_down_is_the_handlers_own_failure(postgres: sa.Engine) -> None:
    elsewhere = sa.create_engine("postgresql+psycopg://u@127.0.0.1:1/none")
    consumer = Consumer("tests", database=postgres)

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        with elsewhere.connect():
            """Never reached."""

    assert consume(consumer, [counted("k", 1)]) == Counts(dead=1)


def test_a_lock_that_takes_too_long_is_tried_again_at_once(server: sa.Engine) -> None:
    consumer = Consumer("tests", database=server)
    with server.begin() as connection:
        connection.execute(sa.insert(Effect).values(id=1, key="locked", n=0))
    holder = server.connect()
    holder.execute(sa.select(Effect).where(Effect.id == 1).with_for_update())
    attempts: list[int] = []

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        attempts.append(context.attempt)
        if len(attempts) == 3:
            holder.rollback()
        context.session.execute(sa.update(Effect).where(Effect.id == 1).values(n=event.n))

    settings = QUICK.model_copy(update={"lock_timeout_seconds": 0.05, "max_attempts": 1})
    assert consume(consumer, [counted("k", 5)], settings) == Counts(handled=1)
    assert attempts == [1, 1, 1]
    holder.close()


def test_a_lock_that_never_comes_free_is_a_failure_in_the_end(server: sa.Engine) -> None:
    consumer = Consumer("tests", database=server)
    with server.begin() as connection:
        connection.execute(sa.insert(Effect).values(id=1, key="locked", n=0))

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        context.session.execute(sa.update(Effect).where(Effect.id == 1).values(n=event.n))

    settings = QUICK.model_copy(update={"lock_timeout_seconds": 0.01, "max_attempts": 1})
    with server.connect() as holder:
        holder.execute(sa.select(Effect).where(Effect.id == 1).with_for_update())
        assert consume(consumer, [counted("k", 5)], settings) == Counts(dead=1)
    assert re.search("lock (wait )?timeout", letters(server)[0].reason, re.IGNORECASE)


@pytest.mark.parametrize("is_caught", [True, False])
@pytest.mark.parametrize("driver", [None, "asyncmy"])
def test_a_deadlock_is_tried_again_even_where_the_handler_catches_it(
    mariadb_engine: sa.Engine, driver: str | None, *, is_caught: bool
) -> None:
    Base.metadata.create_all(mariadb_engine)
    database = async_engine(mariadb_engine, driver) if driver else mariadb_engine
    consumer = Consumer("tests", database=database)
    with mariadb_engine.begin() as connection:
        rows = [{"key": "locked", "n": 0} for _ in range(10)]
        connection.execute(sa.insert(Effect), rows)
    attempts: list[int] = []

    def change(session: Any, at: int, n: int) -> None:
        session.execute(sa.update(Effect).where(Effect.id == at).values(n=n))

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        write(event, context)
        attempts.append(context.attempt)
        change(context.session, 1, event.n)
        if len(attempts) > 1:
            return
        with mariadb_engine.connect() as other, ThreadPoolExecutor(1) as pool:
            for at in range(2, 10):  # the server gives up the side that has written less
                change(other, at, 7)
            waiting = pool.submit(change, other, 1, 7)
            await_waiters(mariadb_engine)
            try:
                change(context.session, 2, event.n)
            except sa.exc.OperationalError:
                if not is_caught:
                    raise
                context.session.add(Effect(key="after", n=1))
            finally:
                waiting.result(10)
                other.rollback()

    log = [counted("k", 1), counted("k", 2)]
    assert consume(consumer, log) == Counts(handled=2)
    assert effects(mariadb_engine)[10:] == [("k", 1), ("k", 2)]
    assert inbox_count(mariadb_engine) == 2
    assert set(attempts) == {1}


class LockingSubscriber(ListSubscriber):
    """Takes SQLite's write lock before it delivers one event."""

    def __init__(self, holder: sa.Connection) -> None:
        super().__init__([counted("k", 1)])
        self._holder = holder

    def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
        found = super().receive(limit, timeout)
        if found:
            self._holder.exec_driver_sql("BEGIN IMMEDIATE")
        return found


def test_a_sqlite_file_that_another_writer_holds_is_waited_for(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url, connect_args={"timeout": 0.01})
    Base.metadata.create_all(engine)
    holder = engine.connect()
    outages = 0

    def release_at_the_third() -> None:
        nonlocal outages
        outages += 1
        if outages == 3:
            holder.rollback()

    with listening("the database does not take", release_at_the_third):
        assert consume(consumer_of(engine), LockingSubscriber(holder)) == Counts(handled=1)
    holder.close()
    engine.dispose()


def test_stopping_finishes_the_batch_and_acknowledges_it(engine: sa.Engine) -> None:
    stop = threading.Event()
    consumer = Consumer("tests", database=engine)

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        write(event, context)
        if event.n == 13:
            stop.set()

    log = ListSubscriber([counted("k", n) for n in range(100)])
    settings = QUICK.model_copy(update={"batch_size": 10})
    assert Worker(consumer, log, settings).run(stop) == Counts(handled=20)
    assert (log.committed, log.is_closed) == (20, True)


@pytest.mark.parametrize("is_async", [False, True])
def test_stopping_does_not_wait_out_a_back_off_and_acknowledges_nothing(
    engine: sa.Engine,
    is_async: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    stop = threading.Event()
    consumer = Consumer("tests", database=async_engine(engine) if is_async else engine)

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        write(event, context)
        if event.n == 5:
            threading.Timer(0.05, stop.set).start()
            raise TimeoutError

    log = ListSubscriber([counted("k", n) for n in range(10)])
    settings = ConsumerSettings(max_attempts=1_000, retry_max_seconds=3_600)
    # The first waits are short by their nature: let the long ones begin at once.
    started = time.monotonic()
    counts = Worker(consumer, log, settings).run(stop)
    assert time.monotonic() - started < 30
    assert counts == Counts(handled=5)
    assert (log.committed, log.is_closed) == (0, True)
    assert effects(engine) == [("k", n) for n in range(5)]


class FailingSubscriber(ListSubscriber):
    """Fails some receives first."""

    errors: list[Exception]

    def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
        if self.errors:
            raise self.errors.pop()
        return super().receive(limit, timeout)


def test_a_broker_that_does_not_answer_is_waited_for(engine: sa.Engine) -> None:
    log = FailingSubscriber([counted("k", 1)])
    log.errors = [BrokerUnavailableError("down"), DestinationRefusedError("no topic")]
    with listening("cannot receive") as waits:
        assert consume(consumer_of(engine), log) == Counts(handled=1)
    assert waits.count == 2


def test_draining_ends_with_the_error_of_a_broker_that_stays_away(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PATIENCE_SECONDS", 0)
    log = FailingSubscriber([])
    log.errors = [BrokerUnavailableError("down")] * 10
    with pytest.raises(BrokerUnavailableError):
        consume(consumer_of(engine), log)
    assert log.is_closed


class FlickeringSubscriber(ListSubscriber):
    """Is down for good, but says so at every other receive only."""

    calls = 0

    def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
        self.calls += 1
        if self.calls % 2:
            raise BrokerUnavailableError("down")
        return super().receive(limit, timeout)


def test_an_outage_that_is_told_now_and_then_does_not_look_like_its_end(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PATIENCE_SECONDS", 1.0)
    log = FlickeringSubscriber([])
    with listening("cannot receive") as waits, pytest.raises(BrokerUnavailableError):
        consume(consumer_of(engine), log)
    assert log.calls > 2
    assert waits.count == 1


def test_an_outage_without_events_behind_it_is_over_after_a_quiet_time(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "QUIET_SECONDS", 0.2)
    log = FailingSubscriber([])
    log.errors = [BrokerUnavailableError("down")]
    assert consume(consumer_of(engine), log) == Counts()


class RefusingSubscriber(ListSubscriber):
    """Cannot acknowledge."""

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        raise BrokerUnavailableError(f"down: {len(deliveries)} not acknowledged")


def test_an_acknowledgement_that_fails_is_no_failure_of_the_worker(engine: sa.Engine) -> None:
    log = RefusingSubscriber([counted("k", 1)])
    counts = Worker(consumer_of(engine), log, QUICK).run(threading.Event(), idle_timeout=0)
    assert counts == Counts(handled=1)


def test_two_workers_replay_each_letter_once_and_each_key_in_order(engine: sa.Engine) -> None:
    log = [counted(f"k{n % 8}", n) for n in range(80)]
    broken = Consumer("tests", database=engine)

    @broken.on(Counted)
    def refuse(event: Counted, context: Context) -> None:
        raise PermanentError("broken")

    assert consume(broken, log) == Counts(dead=8, parked=72)
    with engine.begin() as connection:
        dead_letter.request(connection, dead_letter.Filter())
    mended = consumer_of(engine)
    found: list[Counts] = []

    def work() -> None:
        log = ListSubscriber([])
        found.append(Worker(mended, log, QUICK).run(threading.Event(), idle_timeout=0.3))

    run_together(work, work)
    assert sum(each.handled for each in found) == 80
    done = effects(engine)
    assert sorted(done) == sorted((f"k{n % 8}", n) for n in range(80))
    for key in {key for key, _ in done}:
        assert [n for k, n in done if k == key] == sorted(n for k, n in done if k == key)


@pytest.mark.parametrize("is_async_engine", [False, True])
@pytest.mark.parametrize("is_async_handler", [False, True])
def test_events_emitted_by_a_handler_carry_their_cause_and_commit_with_it(
    engine: sa.Engine,
    is_async_engine: bool,  # noqa: FBT001  # a parameter of the test
    is_async_handler: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    consumer = Consumer("tests", database=async_engine(engine) if is_async_engine else engine)

    def handle(event: Counted, context: Context) -> None:
        if context.attempt == 1:
            context.emit(Counted(key="lost", n=0))
            raise TimeoutError
        context.emit(Counted(key=event.key, n=event.n + 1))

    async def handle_async(event: Counted, context: Context) -> None:
        handle(event, context)

    consumer.on(Counted)(handle_async if is_async_handler else handle)
    log = [
        counted("k", n, id=f"cause-{n}", correlation_id=f"chain-{n}", actor="user:1")
        for n in range(3)
    ]
    assert consume(consumer, log) == Counts(handled=3)
    with engine.connect() as connection:
        query = sa.select(outbox_event.c.partition_key, outbox_event.c.headers)
        emitted = [tuple(row) for row in connection.execute(query.order_by(outbox_event.c.seq))]
    assert emitted == [
        ("k", {"correlationid": f"chain-{n}", "causationid": f"cause-{n}", "actor": "user:1"})
        for n in range(3)
    ]


def settings_of(route: dict[str, object], **consumers: ConsumerSettings) -> Settings:
    return Settings.model_validate(
        {
            "database_url": "sqlite://",
            "routes": {"events": RouteSettings.model_validate({"transport": "memory"} | route)},
            "consumers": consumers,
        }
    )


def test_a_worker_receives_from_the_topics_of_its_types(engine: sa.Engine) -> None:
    name = f"topics-{engine.url.database}"
    options = MemoryOptions(broker=name)
    publisher("events", options, 1).publish([counted("k", 1)])
    made = open_worker(consumer_of(engine), settings_of({"broker": name}))
    assert made.run(threading.Event(), idle_timeout=0.1) == Counts(handled=1)
    assert len(MemoryBroker.named(name).messages("tests.consuming")) == 1


def test_topics_that_depend_on_the_event_have_to_be_named(engine: sa.Engine) -> None:
    route: dict[str, object] = {"topic": "{partition_key}", "broker": "named"}
    with pytest.raises(ConfigurationError, match=rf"{TYPE}.*consumers\.tests\.topics"):
        open_worker(consumer_of(engine), settings_of(route))
    open_worker(consumer_of(engine), settings_of(route, tests=ConsumerSettings(topics=["k"])))


def test_a_consumer_needs_a_route(engine: sa.Engine) -> None:
    empty = Settings.model_validate({"database_url": "sqlite://"})
    with pytest.raises(ConfigurationError, match="no route"):
        open_worker(consumer_of(engine), empty)
    other = settings_of({}, tests=ConsumerSettings(route="other"))
    with pytest.raises(ConfigurationError, match="'other'"):
        open_worker(consumer_of(engine), other)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_ends_its_worker_is_named_in_the_log(
    engine: sa.Engine, *, is_async: bool
) -> None:
    consumer = Consumer("tests", database=engine)

    def leave(event: Counted, context: Context) -> None:
        write(event, context)
        raise SystemExit(3)

    async def leave_later(event: Counted, context: Context) -> None:
        leave(event, context)

    consumer.on(Counted)(leave_later if is_async else leave)
    with listening("ended its worker") as told, pytest.raises(SystemExit):
        consume(consumer, [counted("k", 1)])
    assert told.count == 1
    assert effects(engine) == []
