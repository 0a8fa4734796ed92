"""emit and savepoints: what is rolled back takes its events with it, and nothing else."""

from __future__ import annotations

from contextlib import suppress

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from tests.emitting import Order, Shop, emit


@pytest.fixture(params=["postgres", "mariadb"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return Shop(request.getfixturevalue(f"{request.param}_engine"))


def test_a_rolled_back_savepoint_takes_its_events_with_it(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        emit(session, "1")
        with session.begin_nested():
            emit(session, "1.1")
            inner = session.begin_nested()
            emit(session, "written, 1.1.1")
            session.add(Order(name="n"))
            session.flush()
            emit(session, "pending, 1.1.1")
            inner.rollback()
            emit(session, "1.2")
            with session.begin_nested():
                emit(session, "1.2.1")
            with suppress(ZeroDivisionError), session.begin_nested():
                emit(session, "1.3.1")
                with session.begin_nested():
                    emit(session, "released in a savepoint that is rolled back")
                raise ZeroDivisionError
        closed = session.begin_nested()
        emit(session, "2.1")
        closed.close()
        emit(session, "3")
    assert shop.names() == ["1", "1.1", "1.2", "1.2.1", "3"]


@pytest.mark.parametrize("is_dirty", [True, False])
def test_what_is_pending_outside_survives_a_rollback_inside(shop: Shop, *, is_dirty: bool) -> None:
    with Session(shop.engine) as session, session.begin():
        if is_dirty:
            session.add(Order(name="outer"))
        emit(session, "outer")
        inner = session.begin_nested()
        assert shop.writes == (["shop_order"] if is_dirty else []) + ["outbox_event"]
        session.add(Order(name="inner"))
        emit(session, "inner")
        session.flush()
        inner.rollback()
    assert shop.names() == ["outer"]


def test_savepoints_that_are_open_at_the_commit_commit_their_events(shop: Shop) -> None:
    with Session(shop.engine) as session:
        with session.begin():
            session.begin_nested()
            emit(session, "a")
            session.begin_nested()
            emit(session, "b")
        session.begin()
        session.begin_nested()
        emit(session, "c")
        session.commit()
    assert shop.names() == ["a", "b", "c"]


def test_a_rollback_of_all_drops_what_open_savepoints_hold(shop: Shop) -> None:
    with Session(shop.engine) as session:
        session.begin()
        emit(session, "a")
        session.begin_nested()
        emit(session, "b")
        session.rollback()
        session.add(Order(name="x"))
        emit(session, "c")
        session.commit()
    assert shop.names() == ["c"]


def test_a_flush_that_fails_in_a_savepoint_takes_its_events_alone(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        session.execute(sa.insert(Order).values(id=1, name="x"))
        emit(session, "before")
        with suppress(sa.exc.IntegrityError), session.begin_nested():
            emit(session, "inside")
            session.add(Order(id=1, name="twice"))
        emit(session, "after")
    assert shop.names() == ["before", "after"]


def test_events_after_a_savepoint_still_share_one_statement(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        with session.begin_nested():
            emit(session, "inside")
        for number in range(10):
            emit(session, str(number))
    assert shop.writes == ["outbox_event", "outbox_event", "COMMIT"]


def test_a_savepoint_made_below_the_session_is_not_seen_by_it(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin(), session.connection().begin_nested() as n:
        emit(session, "pending, so outside of it")
        n.rollback()
    assert shop.names() == ["pending, so outside of it"]


def test_savepoints_hold_on_sqlite_where_the_driver_begins_by_itself(
    sqlite_engine: sa.Engine,
) -> None:
    shop = Shop(sqlite_engine)
    with Session(shop.engine) as session, session.begin():
        session.add(Order(name="x"))
        emit(session, "a")
        inner = session.begin_nested()
        emit(session, "b")
        session.flush()
        inner.rollback()
        session.begin_nested()
        emit(session, "c")
    assert shop.names() == ["a", "c"]
