"""A deadlock on MariaDB takes the whole transaction, and code that goes on emits nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox.errors import NoTransactionError
from tests.deadlock import change, lose, stocked
from tests.emitting import Order, Shop, emit

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[int], None]


@pytest.fixture
def shop(mariadb_engine: sa.Engine) -> Shop:
    return stocked(mariadb_engine)


def total(shop: Shop) -> Any:
    with shop.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.sum(Order.total)))


@pytest.mark.parametrize("is_written", [True, False])
def test_a_session_that_goes_on_after_a_deadlock_commits_no_event(
    shop: Shop, *, is_written: bool
) -> None:
    with Session(shop.engine) as session:
        change(session, 1)
        emit(session, "of the state that is gone")
        if is_written:
            with session.begin_nested():
                emit(session, "of the savepoint")
        with pytest.raises(sa.exc.OperationalError, match="1213"):
            lose(shop, session)
        emit(session, "later")
        with pytest.raises(NoTransactionError, match="deadlock"):
            session.commit()
        session.rollback()
        change(session, 1)
        emit(session, "tried again")
        session.commit()
    assert shop.names() == ["tried again"]
    assert total(shop) == 1


def test_a_connection_that_goes_on_after_a_deadlock_commits_no_event(shop: Shop) -> None:
    with shop.engine.connect() as connection:
        change(connection, 1)
        emit(connection, "of the state that is gone")
        with pytest.raises(sa.exc.OperationalError, match="1213"):
            lose(shop, connection)
        with pytest.raises(NoTransactionError, match="deadlock"):
            connection.commit()
        connection.rollback()
        change(connection, 1)
        emit(connection, "tried again")
        connection.commit()
    assert shop.names() == ["tried again"]
    assert total(shop) == 1


def test_a_lock_that_took_too_long_takes_its_statement_alone(shop: Shop) -> None:
    with shop.engine.connect() as holder, Session(shop.engine) as session:
        change(holder, 2)
        change(session, 1)
        emit(session, "a")
        session.execute(sa.text("SET SESSION innodb_lock_wait_timeout = 1"))
        with pytest.raises(sa.exc.OperationalError, match="1205"):
            change(session, 2)
        session.commit()
    assert shop.names() == ["a"]
    assert total(shop) == 1
