"""The keeper: positions are stored in batches by the holder, and letters with them."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from outbox import clock, dead_letter
from outbox.dead_letter import Failure, Filter
from outbox.envelope import Envelope
from outbox.errors import ConfigurationError, DatabaseUnavailableError, LeaseLostError
from outbox.table import outbox_checkpoint
from relay import lease
from relay.capture import open_capture
from relay.capture.position import SerialPosition
from relay.checkpoint import Checkpoint
from relay.database import make_engine, transaction
from relay.lease import Grant, Trust

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILURE = Failure(
    Envelope(
        id="1",
        source="/s",
        type="t",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        data=b"",
        partition_key="k",
    ),
    "too large",
)


@pytest.fixture(params=["postgres", "sqlite", "mariadb_relay"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    found: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


class Keeper:
    """A checkpoint with a granted lease, and what it reported."""

    def __init__(self, engine: sa.Engine, seconds: float = 60.0) -> None:
        self.engine = engine
        self.failures: list[BaseException] = []
        self.failed = threading.Event()
        asked_at = Trust.clock()
        with engine.begin() as connection:
            grant = lease.acquire(connection, "kafka", "me", seconds)
        assert isinstance(grant, Grant)
        trust = Trust(seconds, asked_at)
        self.checkpoint = Checkpoint(engine, grant, seconds, trust, self._on_failure)

    def _on_failure(self, error: BaseException) -> None:
        self.failures.append(error)
        self.failed.set()

    def row(self) -> sa.Row[Any]:
        with self.engine.begin() as connection:
            return connection.execute(sa.select(outbox_checkpoint)).one()

    def change(self, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.update(outbox_checkpoint).values(**values))

    def letter_count(self) -> int:
        with self.engine.begin() as connection:
            return dead_letter.count(connection, Filter())


@pytest.fixture
def keeper(engine: sa.Engine) -> Iterator[Keeper]:
    made = Keeper(engine)
    yield made
    made.checkpoint.close()


def test_what_is_settled_last_is_stored_when_it_closes(keeper: Keeper) -> None:
    keeper.checkpoint.start()
    for floor in range(1, 1001):
        keeper.checkpoint.settle(SerialPosition(floor))
    keeper.checkpoint.close()
    row = keeper.row()
    assert (row.position["kind"], row.position["floor"], row.holder) == ("serial", 1000, None)
    assert row.version < 10, "positions are stored in batches"


def test_a_position_is_stored_soon_without_anybody_asking(keeper: Keeper) -> None:
    keeper.checkpoint.start()
    stored = threading.Event()
    original = keeper.checkpoint.store

    def store() -> None:
        original()
        stored.set()

    keeper.checkpoint.store = store  # type: ignore[method-assign]  # to wait for it
    keeper.checkpoint.settle(SerialPosition(5))
    assert stored.wait(10)
    assert keeper.row().position["floor"] == 5


def test_an_idle_keeper_renews_the_lease(engine: sa.Engine) -> None:
    keeper = Keeper(engine, seconds=1.0)
    keeper.checkpoint.start()
    assert not keeper.failed.wait(2.5)
    assert keeper.checkpoint.trust.seconds_left() > 0
    assert keeper.row().version == 0
    keeper.checkpoint.close()


def test_a_lost_lease_is_told_and_nothing_is_written(keeper: Keeper) -> None:
    keeper.change(token=7, holder="other", expires_at=clock.now_plus(60.0))
    keeper.checkpoint.start()
    keeper.checkpoint.settle(SerialPosition(5))
    assert keeper.failed.wait(10)
    assert isinstance(keeper.failures[0], LeaseLostError)
    keeper.checkpoint.close()
    assert (keeper.row().position, keeper.row().holder) == (None, "other")


def test_a_moved_position_is_told_and_the_lease_given_back(keeper: Keeper) -> None:
    keeper.change(version=3, position={"kind": "serial", "floor": 2})
    keeper.checkpoint.start()
    keeper.checkpoint.settle(SerialPosition(5))
    assert keeper.failed.wait(10)
    keeper.checkpoint.close()
    assert (keeper.row().position["floor"], keeper.row().holder) == (2, None)


def test_letters_and_the_position_behind_them_are_written_together(keeper: Keeper) -> None:
    keeper.checkpoint.set_aside(SerialPosition(4), [FAILURE])
    assert keeper.row().position["floor"] == 4
    assert keeper.letter_count() == 1
    keeper.checkpoint.settle(SerialPosition(5))
    keeper.checkpoint.store()
    assert keeper.row().position["floor"] == 5


def test_a_holder_that_was_replaced_writes_no_letter(keeper: Keeper) -> None:
    keeper.change(token=7)
    with pytest.raises(LeaseLostError):
        keeper.checkpoint.set_aside(SerialPosition(4), [FAILURE])
    assert keeper.letter_count() == 0
    assert keeper.row().position is None


def test_a_position_is_not_stored_when_its_letters_cannot_be(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(dead_letter, "record", fail)
    with pytest.raises(RuntimeError):
        keeper.checkpoint.set_aside(SerialPosition(4), [FAILURE])
    assert keeper.row().position is None


def test_a_guarded_transaction_of_a_replaced_holder_changes_nothing(keeper: Keeper) -> None:
    keeper.checkpoint.set_aside(SerialPosition(4), [FAILURE])
    keeper.change(token=7)
    with pytest.raises(LeaseLostError), keeper.checkpoint.guarded() as connection:
        dead_letter.discard(connection, Filter(), "no")
    assert keeper.letter_count() == 1


def test_the_keeper_survives_lost_connections(postgres_engine: sa.Engine) -> None:
    keeper = Keeper(postgres_engine)
    keeper.checkpoint.start()
    keeper.checkpoint.settle(SerialPosition(1))
    with postgres_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for floor in range(2, 6):
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            keeper.checkpoint.settle(SerialPosition(floor))
    keeper.checkpoint.close()
    assert keeper.failures == [] or isinstance(keeper.failures[0], LeaseLostError)
    assert keeper.row().position["floor"] in range(1, 6)
    if not keeper.failures:
        assert keeper.row().position["floor"] == 5


@pytest.mark.parametrize(
    "url", ["u:sesame@127.0.0.1:1/none", "u@127.0.0.1:1/none?password=sesame&sslpassword=sesame"]
)
def test_a_database_that_is_away_is_unavailable_and_its_password_untold(url: str) -> None:
    engine = make_engine(sa.make_url(f"postgresql+psycopg://{url}"))
    with pytest.raises(DatabaseUnavailableError, match=":1/none") as caught:
        open_capture(engine).now()
    assert "sesame" not in str(caught.value)
    with pytest.raises(DatabaseUnavailableError) as caught, transaction(engine):
        pass
    assert "sesame" not in str(caught.value)


def test_missing_tables_are_no_outage(postgres_empty_url: str) -> None:
    engine = make_engine(sa.make_url(postgres_empty_url))
    with (
        pytest.raises(ConfigurationError, match="outbox migrate"),
        transaction(engine) as connection,
    ):
        connection.execute(sa.select(outbox_checkpoint))
    engine.dispose()
    empty = make_engine(sa.make_url("sqlite://"))
    with (
        pytest.raises(ConfigurationError, match="outbox migrate"),
        transaction(empty) as connection,
    ):
        connection.execute(sa.select(outbox_checkpoint))
    empty.dispose()
