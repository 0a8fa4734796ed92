"""A relay that hears the doorbell, and what it costs one that hears nothing."""

from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

import outbox
from outbox.migration import upgrade
from outbox.settings import Settings
from outbox.transports.memory import MemoryBroker
from relay.daemon import Relay, Until
from tests.ears import listening_to, unreachable
from tests.emitting import emit
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.servers import PostgresServer


THREAD = "relay-listener"


class World:
    """An application with a doorbell, and a relay with two routes."""

    def __init__(self, url: str, engine: sa.Engine) -> None:
        name = uuid.uuid4().hex
        self.brokers = [MemoryBroker.named(f"{name}-{number}") for number in range(2)]
        routes = {
            f"r{number}": {"transport": "memory", "broker": f"{name}-{number}"}
            for number in range(2)
        }
        self.settings = Settings.model_validate({"database_url": url, "routes": routes})
        self.engine = engine
        self.expected: list[str] = []

    def relay(self, **options: Any) -> Relay:
        return Relay(self.settings, **options)

    def emit(self) -> None:
        name = str(len(self.expected))
        with self.engine.begin() as connection:
            emit(connection, name)
        self.expected.append(name)

    def arrived(self) -> bool:
        """Tell whether each broker has got all events."""
        expected = [f'{{"name":"{name}","key":"k"}}'.encode() for name in self.expected]
        messages = [broker.messages("test") for broker in self.brokers]
        return all([message.data for message in each] == expected for each in messages)

    def emit_and_wait(self) -> None:
        self.emit()
        eventually(self.arrived)

    def listeners(self) -> list[int]:
        """The server processes that listen on this database."""
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql(
                "SELECT pid FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
            )
            return [pid for (pid,) in rows]


@pytest.fixture
def world(postgres_url: str, postgres_engine: sa.Engine) -> Iterator[World]:
    with outbox.Doorbell(postgres_engine):
        yield World(postgres_url, postgres_engine)


@pytest.fixture
def _no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a reader that waits read again after an hour, or when it is rung."""
    monkeypatch.setattr("relay.wakeup.Pace.after", lambda *_, **__: 3600.0)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for record in caplog.records if "doorbell" in (text := record.getMessage())]


@pytest.mark.usefixtures("_no_polling")
def test_the_doorbell_wakes_every_route(world: World) -> None:
    with world.relay().running():
        eventually(world.listeners)
        for _ in range(5):  # the first may be found because a relay begins by reading
            world.emit_and_wait()
    eventually(lambda: not world.listeners())


@pytest.mark.usefixtures("_no_polling")
def test_what_is_committed_while_nobody_listens_is_found_by_listening_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    engine = sa.create_engine(world.settings.url)
    with caplog.at_level("INFO", "relay"), world.relay(engine=engine).running():
        eventually(world.listeners)
        for _ in range(3):
            world.emit_and_wait()
        with unreachable(engine, THREAD) as attempts:
            with world.engine.connect() as connection:
                for pid in world.listeners():
                    connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 20000)")
            for _ in range(3):
                assert attempts.acquire(timeout=20)
            world.emit()
            assert not world.arrived()
        eventually(world.arrived)
        for _ in range(3):
            world.emit_and_wait()
    assert messages(caplog) == ["doorbell is not heard: polling alone", "doorbell is heard again"]
    engine.dispose()


def test_everything_arrives_without_ever_hearing_the_doorbell(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    engine = sa.create_engine(world.settings.url)
    with unreachable(engine, THREAD) as attempts, world.relay(engine=engine).running():
        assert attempts.acquire(timeout=20)
        for _ in range(3):
            world.emit_and_wait()
    assert messages(caplog) == ["doorbell is not heard: polling alone"]
    assert vars(caplog.records[0])["error"] == "nobody there"
    engine.dispose()


def test_a_storm_of_rings_makes_few_reads(
    world: World, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.listener.GAP_SECONDS", 600.0)
    rung: list[float] = []
    monkeypatch.setattr("relay.route.Route.ring", lambda _: rung.append(time.monotonic()))
    with listening_to(postgres_url) as other, world.relay(routes=["r0"]).running():
        eventually(lambda: rung)
        for _ in range(1000):
            other.connection.execute("SELECT pg_notify(%s, '')", [other.channel])
    assert len(rung) <= 2


def test_a_relay_that_drains_does_not_listen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("relay.listener.Listener.__enter__")
    world.emit()
    world.relay().run(until=Until.DRAINED)
    assert world.arrived()


def test_an_idle_relay_runs_fewer_than_twenty_statements_a_second(
    counting_postgres: PostgresServer,
) -> None:
    """With one route, and from the moment on at which it becomes idle, when it looks most often.

    Time itself is what is tested: the server lets it pass, and tells how much it was.
    """
    url = counting_postgres.url()
    upgrade(url)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    world = World(url, engine)
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    counted = sa.text(
        "SELECT extract(epoch FROM clock_timestamp())::float,"
        " (SELECT sum(calls)::float FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_%')"
    )
    with alone.connect() as other, world.relay(routes=["r0"]).running():
        other.exec_driver_sql("CREATE EXTENSION pg_stat_statements")
        world.emit()
        eventually(lambda: world.brokers[0].messages("test"))
        before = other.execute(counted).one()
        other.exec_driver_sql("SELECT pg_sleep(4)")
        after = other.execute(counted).one()
    seconds, statements = (b - a for a, b in zip(before, after, strict=True))
    assert 5 * seconds < statements < 20 * seconds


def test_a_relay_behind_a_pooler_does_not_listen_and_delivers_everything(
    world: World, pooled_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[None] = []
    monkeypatch.setattr("relay.route.Route.ring", lambda _: rung.append(None))
    world.settings = world.settings.model_copy(update={"database_url": SecretStr(pooled_url)})
    with world.relay().running():
        for _ in range(3):
            world.emit_and_wait()
        eventually(lambda: THREAD not in [thread.name for thread in threading.enumerate()])
    assert rung == []
    assert world.listeners() == []
