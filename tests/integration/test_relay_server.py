"""The relay while its database server restarts, crashes or does not answer."""

from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from outbox.errors import DatabaseUnavailableError
from outbox.migration import upgrade
from outbox.settings import Settings
from outbox.table import outbox_checkpoint, outbox_event
from outbox.transport import PUBLISHED, Outcome
from outbox.transports.memory import MemoryBroker
from outbox.transports.memory.publishing import MemoryPublisher
from relay import reader
from relay.checkpoint import Checkpoint
from relay.daemon import Relay, Until
from relay.database import make_engine
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope
    from tools.servers import PostgresServer


LEASE_SECONDS = 2


def emit(engine: sa.Engine, *names: str) -> None:
    rows = [{"type": "shop.order.placed", "partition_key": "k", "data": n.encode()} for n in names]
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox_event), rows)


def make_settings(url: str, **route: Any) -> tuple[Settings, MemoryBroker]:
    name = uuid.uuid4().hex
    options: dict[str, Any] = {"transport": "memory", "broker": name, "retry_max_seconds": 0.2}
    options |= {"lease_seconds": LEASE_SECONDS} | route
    settings = Settings.model_validate({"database_url": url, "routes": {"m": options}})
    return settings, MemoryBroker.named(name)


def arrived(broker: MemoryBroker) -> list[str]:
    return [message.data.decode() for message in broker.messages("shop.order")]


def firsts(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_that_restarts_or_crashes_loses_nothing(
    own_postgres: PostgresServer, end: str
) -> None:
    url = own_postgres.url()
    upgrade(url)
    engine = sa.create_engine(url, pool_pre_ping=True)
    settings, broker = make_settings(url)
    with Relay(settings).running():
        emit(engine, "a", "b")
        eventually(lambda: arrived(broker) == ["a", "b"])
        getattr(own_postgres, end)()
        own_postgres.start()
        emit(engine, "c", "d")
        eventually(lambda: firsts(arrived(broker)) == ["a", "b", "c", "d"])
    with engine.begin() as connection:
        assert connection.execute(sa.select(outbox_checkpoint.c.holder)).one() == (None,)
    assert Relay(settings).run(until=Until.DRAINED).routes["m"].published == 0
    engine.dispose()


def test_a_relay_waits_for_a_server_that_is_not_there_yet(own_postgres: PostgresServer) -> None:
    url = own_postgres.url()
    upgrade(url)
    engine = sa.create_engine(url, pool_pre_ping=True)
    emit(engine, "a")
    own_postgres.stop()
    settings, broker = make_settings(url)
    summary = Relay(settings, drain_timeout=0.3).run(until=Until.DRAINED)
    assert summary.exit_code == 1
    assert "does not answer" in (summary.routes["m"].error or "")
    with Relay(settings).running():
        own_postgres.start()
        eventually(lambda: arrived(broker) == ["a"])
    engine.dispose()


def test_a_server_that_hangs_is_given_up_and_waited_for(
    own_postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("relay.silence.SILENT_SECONDS", 0.5)
    url = own_postgres.url()
    upgrade(url)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    settings, broker = make_settings(f"{url}?connect_timeout=2")
    emit(engine, "a")
    with Relay(settings).running():
        eventually(lambda: arrived(broker) == ["a"])
        own_postgres.pause()
        eventually(lambda: "route stands still" in caplog.messages)
        # A server that hangs can be asked for nothing: so long that the lease is over as well.
        time.sleep(LEASE_SECONDS)
        own_postgres.resume()
        emit(engine, "b")
        eventually(lambda: firsts(arrived(broker)) == ["a", "b"])


def test_a_relay_stops_and_a_draining_one_ends_while_its_server_hangs(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.silence.SILENT_SECONDS", 0.5)
    upgrade(own_postgres.url())
    engine = sa.create_engine(own_postgres.url(), poolclass=sa.NullPool)
    settings, broker = make_settings(f"{own_postgres.url()}?connect_timeout=2")
    emit(engine, "a")
    stop = threading.Event()
    relay = threading.Thread(target=Relay(settings).run, args=(stop,))
    relay.start()
    try:
        eventually(lambda: arrived(broker) == ["a"])
        own_postgres.pause()
        stop.set()
        relay.join(15)
        assert not relay.is_alive(), "it waits for a server that hangs"
        summary = Relay(settings, drain_timeout=1).run(until=Until.DRAINED)
        assert "gave up" in (summary.routes["m"].error or "")
    finally:
        own_postgres.resume()
        relay.join()


def test_nothing_is_prepared_because_a_pooler_would_not_know_it(postgres_url: str) -> None:
    engine = make_engine(sa.make_url(postgres_url))
    with engine.connect() as connection:
        for _ in range(10):
            connection.execute(sa.select(outbox_checkpoint))
        query = "SELECT count(*) FROM pg_prepared_statements"
        assert connection.scalar(sa.text(query)) == 0
    engine.dispose()


def test_a_holder_that_cannot_renew_stops_publishing_before_its_lease_ends(
    postgres_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = make_settings(
        postgres_engine.url.render_as_string(hide_password=False), page_size=1
    )
    healthy = threading.Event()
    healthy.set()
    published: list[tuple[str, float]] = []
    store = Checkpoint.store

    def renew(self: Checkpoint) -> None:
        if not healthy.is_set():
            raise DatabaseUnavailableError("no answer")
        store(self)

    def seconds_left() -> float:
        """Return how long the lease lasts by the database's clock."""
        left = sa.text(
            "SELECT extract(epoch FROM expires_at - clock_timestamp())::float"
            " FROM outbox_checkpoint"
        )
        with postgres_engine.begin() as connection:
            return connection.scalar(left) or 0.0

    def publish(self: MemoryPublisher, batch: Sequence[Envelope]) -> list[Outcome]:
        time.sleep(0.01)  # a publish takes time: all of them take longer than a lease
        published.append((batch[0].id, seconds_left()))
        return [PUBLISHED] * len(batch)

    monkeypatch.setattr(reader, "GROUP_ROWS", 1)
    monkeypatch.setattr(Checkpoint, "store", renew)
    monkeypatch.setattr(MemoryPublisher, "publish", publish)
    emit(postgres_engine, *map(str, range(600)))
    with Relay(settings, engine=postgres_engine).running():
        eventually(lambda: len(published) > 20)
        healthy.clear()
        eventually(lambda: seconds_left() <= 0)
        assert len(published) < 600, "it goes on without trust"
        assert min(left for _, left in published) > 2 * 0.4
        healthy.set()
        eventually(lambda: len({name for name, _ in published}) == 600)
