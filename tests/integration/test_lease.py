"""The lease on each database: one holder at a time, and a lost one changes nothing."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox import clock
from outbox.errors import LeaseLostError
from outbox.table import outbox_checkpoint, outbox_incarnation
from relay import lease
from relay.lease import Grant, Held, Trust

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 60.0
POSITION = {"kind": "serial", "floor": 7}


@pytest.fixture(params=["postgres", "sqlite", "mariadb_relay"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    found: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


def acquire(engine: sa.Engine, holder: str = "me", seconds: float = SECONDS) -> Grant | Held:
    with engine.begin() as connection:
        return lease.acquire(connection, "kafka", holder, seconds)


def granted(engine: sa.Engine, holder: str = "me") -> Grant:
    found = acquire(engine, holder)
    assert isinstance(found, Grant)
    return found


def expire(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(outbox_checkpoint).values(expires_at=clock.now_plus(-1.0)))


def row(engine: sa.Engine) -> sa.Row[tuple[object, ...]]:
    with engine.begin() as connection:
        return connection.execute(sa.select(outbox_checkpoint)).one()


def renew(engine: sa.Engine, grant: Grant) -> None:
    with engine.begin() as connection:
        lease.renew(connection, "kafka", grant.token, grant.version, SECONDS)


def advance(engine: sa.Engine, grant: Grant) -> None:
    with engine.begin() as connection:
        lease.advance(connection, "kafka", grant.token, grant.version, POSITION, SECONDS)


def resign(engine: sa.Engine, grant: Grant) -> bool:
    with engine.begin() as connection:
        return lease.resign(connection, "kafka", grant.token)


def test_a_route_that_never_ran_is_granted_without_a_position(engine: sa.Engine) -> None:
    grant = granted(engine)
    assert grant == Grant("kafka", grant.identity, 1, 0, None, None)


def test_a_route_keeps_its_identity(engine: sa.Engine) -> None:
    grant = granted(engine)
    uuid.UUID(grant.identity)
    assert granted(engine).identity == grant.identity


def test_only_one_relay_holds_a_route(engine: sa.Engine) -> None:
    granted(engine)
    assert acquire(engine, "other") == Held("me")


def test_a_holder_gets_its_own_lease_again_with_a_new_token(engine: sa.Engine) -> None:
    assert granted(engine).token == 1
    assert granted(engine).token == 2


def test_an_expired_lease_goes_to_another_relay(engine: sa.Engine) -> None:
    granted(engine)
    expire(engine)
    assert granted(engine, "other").token == 2


def test_a_resigned_lease_goes_to_another_relay_at_once(engine: sa.Engine) -> None:
    grant = granted(engine)
    assert resign(engine, grant)
    assert (row(engine).holder, row(engine).expires_at) == (None, None)
    assert granted(engine, "other").token == 2
    assert not resign(engine, grant)
    assert row(engine).holder == "other"


def test_an_advance_stores_the_position_for_the_next_holder(engine: sa.Engine) -> None:
    grant = granted(engine)
    advance(engine, grant)
    resign(engine, grant)
    following = granted(engine, "other")
    assert (following.position, following.version) == (POSITION, 1)
    assert row(engine).advanced_at is not None


@pytest.mark.parametrize("write", [renew, advance])
def test_a_holder_whose_lease_ran_out_changes_nothing(
    engine: sa.Engine, write: Callable[[sa.Engine, Grant], None]
) -> None:
    grant = granted(engine)
    expire(engine)
    before = row(engine)
    with pytest.raises(LeaseLostError):
        write(engine, grant)
    assert row(engine) == before


@pytest.mark.parametrize("write", [renew, advance])
def test_a_holder_that_was_replaced_changes_nothing(
    engine: sa.Engine, write: Callable[[sa.Engine, Grant], None]
) -> None:
    grant = granted(engine)
    expire(engine)
    granted(engine, "other")
    before = row(engine)
    with pytest.raises(LeaseLostError):
        write(engine, grant)
    assert row(engine) == before


@pytest.mark.parametrize("write", [renew, advance])
def test_a_holder_whose_position_was_moved_changes_nothing(
    engine: sa.Engine, write: Callable[[sa.Engine, Grant], None]
) -> None:
    grant = granted(engine)
    with engine.begin() as connection:
        connection.execute(
            sa.update(outbox_checkpoint).values(version=5, position={"kind": "serial", "floor": 0})
        )
    before = row(engine)
    with pytest.raises(LeaseLostError):
        write(engine, grant)
    assert row(engine) == before


@pytest.mark.parametrize("database", ["postgres", "mariadb_relay"])
def test_a_position_of_an_earlier_incarnation_is_not_stored(
    request: pytest.FixtureRequest, database: str
) -> None:
    engine: sa.Engine = request.getfixturevalue(f"{database}_engine")
    grant = granted(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox_incarnation))
        now = connection.scalar(sa.select(outbox_incarnation.c.id))
    old = {"floor": 9, "server": {"incarnation": "00000000-0000-0000-0000-000000000000"}}
    new = {"floor": 9, "server": {"incarnation": now}}
    with pytest.raises(LeaseLostError), engine.begin() as connection:
        lease.advance(connection, "kafka", grant.token, 0, old, SECONDS)
    with engine.begin() as connection:
        lease.advance(connection, "kafka", grant.token, 0, new, SECONDS)
    assert row(engine).position == new


def test_an_error_is_shown_by_the_holder_alone(engine: sa.Engine) -> None:
    grant = granted(engine)
    with engine.begin() as connection:
        lease.report(connection, "kafka", grant.token, "no such topic")
        lease.report(connection, "kafka", grant.token - 1, "from an old holder")
    assert row(engine).error == "no such topic"
    assert row(engine).error_at is not None
    assert granted(engine).error == "no such topic"
    with engine.begin() as connection:
        lease.report(connection, "kafka", grant.token + 1, None)
    assert (row(engine).error, row(engine).error_at) == (None, None)


def test_of_many_that_ask_at_once_one_gets_it(engine: sa.Engine) -> None:
    start = threading.Barrier(8)
    found: list[Grant | Held] = []

    def ask(name: str) -> None:
        start.wait(10)
        found.append(acquire(engine, name))

    threads = [threading.Thread(target=ask, args=[str(number)]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([one for one in found if isinstance(one, Grant)]) == 1
    assert len(found) == 8


def test_trust_counts_from_before_the_request() -> None:
    asked_at = Trust.clock()
    trust = Trust(10.0, asked_at)
    assert 9.0 < trust.seconds_left() <= 10.0
    trust.extend(asked_at - 20.0)
    assert trust.seconds_left() < -9.0
