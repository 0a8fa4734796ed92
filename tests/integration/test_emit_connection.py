"""emit on Connections: SQLAlchemy's, psycopg's and sqlite3's own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import rows

import outbox
from outbox.errors import NoTransactionError, UsageError
from tests.emitting import Happened, Order, Shop, emit, emit_all_attributes, read

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["postgres", "mariadb"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return Shop(request.getfixturevalue(f"{request.param}_engine"))


@pytest.fixture
def postgres_shop(postgres_engine: sa.Engine) -> Shop:
    return Shop(postgres_engine)


@pytest.fixture
def driver(postgres_shop: Shop) -> Iterator[psycopg.Connection[Any]]:
    dsn = postgres_shop.engine.url.set(drivername="postgresql").render_as_string(
        hide_password=False
    )
    with closing(psycopg.connect(dsn)) as connection:
        yield connection


def test_a_connection_writes_before_the_commit_in_one_statement(shop: Shop) -> None:
    with shop.engine.begin() as connection:
        for number in range(10):
            emit(connection, str(number))
        connection.execute(sa.insert(Order).values(name="x"))
    assert shop.writes == ["shop_order", "outbox_event", "COMMIT"]
    assert shop.names() == [str(number) for number in range(10)]


def test_a_connection_respects_savepoints_and_the_end(shop: Shop) -> None:
    with shop.engine.connect() as connection:
        with pytest.raises(NoTransactionError, match="no transaction is open on this Connection"):
            emit(connection, "0")
        connection.execute(sa.insert(Order).values(name="x"))
        emit(connection, "a")
        with connection.begin_nested() as savepoint:
            emit(connection, "b")
            savepoint.rollback()
        with connection.begin_nested():
            emit(connection, "c")
            with connection.begin_nested() as savepoint:
                emit(connection, "d")
                savepoint.rollback()
        outer = connection.begin_nested()
        with connection.begin_nested():
            emit(connection, "released in a savepoint that is rolled back")
        outer.rollback()
        connection.commit()
        with pytest.raises(NoTransactionError):
            emit(connection, "0")
        connection.execute(sa.text("SELECT 1"))
        emit(connection, "e")
        connection.rollback()
        connection.execute(sa.text("SELECT 1"))
        emit(connection, "f")
    with shop.engine.begin() as connection:
        emit(connection, "g")
    assert shop.names() == ["a", "c", "g"]


def test_a_connection_whose_transaction_failed_refuses_events(shop: Shop) -> None:
    with shop.engine.connect() as connection:
        transaction = connection.begin()
        nested = connection.begin_nested()
        transaction.rollback()
        assert not nested.is_active
        with pytest.raises(NoTransactionError):
            emit(connection, "a")
    assert shop.names() == []


def test_a_commit_after_a_failed_statement_does_not_pass_unnoticed(postgres_shop: Shop) -> None:
    with postgres_shop.engine.connect() as connection:
        connection.begin()
        emit(connection, "b")
        with pytest.raises(sa.exc.ProgrammingError):
            connection.execute(sa.text("SELECT nothing FROM nowhere"))
        with pytest.raises(sa.exc.DBAPIError):
            connection.commit()
        with pytest.raises(NoTransactionError, match="was rolled back"):
            emit(connection, "c")
    assert postgres_shop.names() == []


def test_a_refused_event_leaves_no_state_for_the_next_user_of_the_connection(
    sqlite_url: str,
) -> None:
    engine = sa.create_engine(sqlite_url, poolclass=sa.QueuePool, pool_size=1)
    shop = Shop(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON outbox_event"
            " BEGIN SELECT RAISE(FAIL, 'refused'); END"
        )
    with engine.connect() as connection:
        connection.execute(sa.insert(Order).values(name="x"))
        emit(connection, "a")
        with pytest.raises(sa.exc.IntegrityError):
            connection.commit()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE other (id int)")
    assert shop.orders() == 0
    engine.dispose()


def test_a_connection_in_autocommit_is_refused(shop: Shop) -> None:
    engine = shop.engine.execution_options(isolation_level="AUTOCOMMIT")
    with (
        engine.connect() as connection,
        connection.begin(),
        pytest.raises(NoTransactionError, match="AUTOCOMMIT"),
    ):
        emit(connection, "a")
    assert shop.names() == []


def test_a_connection_commits_its_events_in_two_phases(shop: Shop) -> None:
    with shop.engine.connect() as connection:
        transaction = connection.begin_twophase()
        emit(connection, "a")
        transaction.prepare()
        assert shop.names() == []
        transaction.commit()
        transaction = connection.begin_twophase()
        emit(connection, "b")
        transaction.commit()
        transaction = connection.begin_twophase()
        emit(connection, "c")
        transaction.rollback()
        connection.begin()
        connection.commit()
    assert shop.names() == ["a", "b"]


def test_a_connection_of_sqlite_serves_as_well(sqlite_engine: sa.Engine) -> None:
    shop = Shop(sqlite_engine)
    with sqlite_engine.begin() as connection:
        connection.execute(sa.insert(Order).values(name="x"))
        emit(connection, "a")
        emit(connection, "b")
    assert shop.writes == ["shop_order", "outbox_event", "COMMIT"]
    assert shop.names() == ["a", "b"]


def test_a_psycopg_connection_inserts_at_once(
    postgres_shop: Shop, driver: psycopg.Connection[Any]
) -> None:
    with driver.transaction():
        emit(driver, "a")
        with driver.transaction():
            emit(driver, "b")
            raise psycopg.Rollback
        given = emit_all_attributes(driver, '"\\%s')
    driver.execute("SELECT 1")
    emit(driver, "c")
    driver.rollback()
    driver.execute("SELECT 1")
    emit(driver, "d")
    driver.commit()
    assert postgres_shop.names() == ["a", '"\\%s', "d"]
    assert read(postgres_shop.engine)[1] == given


def test_a_psycopg_connection_may_be_in_autocommit_inside_a_transaction_block(
    postgres_shop: Shop, driver: psycopg.Connection[Any]
) -> None:
    driver.autocommit = True
    with pytest.raises(NoTransactionError, match="IDLE"):
        emit(driver, "a")
    with driver.transaction():
        emit(driver, "b")
    with driver.pipeline():
        driver.execute("SELECT 1")
        with pytest.raises(NoTransactionError, match="ACTIVE"):
            emit(driver, "c")
    assert postgres_shop.names() == ["b"]


def test_a_psycopg_pipeline_makes_one_round_trip_of_many_events(
    postgres_shop: Shop, driver: psycopg.Connection[Any]
) -> None:
    with driver.pipeline(), driver.transaction():
        for number in range(10):
            emit(driver, str(number))
    assert postgres_shop.names() == [str(number) for number in range(10)]


def test_a_psycopg_connection_may_read_rows_and_placeholders_its_own_way(
    postgres_shop: Shop, driver: psycopg.Connection[Any]
) -> None:
    driver.row_factory = rows.dict_row
    driver.cursor_factory = psycopg.RawCursor
    with driver.transaction():
        emit(driver, "a")
    assert postgres_shop.names() == ["a"]


def test_a_psycopg_connection_without_a_transaction_that_works_is_refused(
    postgres_shop: Shop, driver: psycopg.Connection[Any]
) -> None:
    with pytest.raises(NoTransactionError, match="IDLE"):
        emit(driver, "a")
    with pytest.raises(psycopg.errors.UndefinedTable):
        driver.execute("SELECT nothing FROM nowhere")
    with pytest.raises(NoTransactionError, match=r"INERROR.*roll back"):
        emit(driver, "b")
    driver.close()
    with pytest.raises(NoTransactionError, match="UNKNOWN"):
        emit(driver, "c")
    assert postgres_shop.names() == []


def test_a_sqlite3_connection_inserts_at_once(sqlite_engine: sa.Engine) -> None:
    with closing(sqlite3.connect(sqlite_engine.url.database or "")) as connection:
        with pytest.raises(NoTransactionError, match="sqlite3"):
            emit(connection, "a")
        connection.execute("BEGIN")
        given = emit_all_attributes(connection, "b")
        connection.commit()
        connection.execute("BEGIN")
        emit(connection, "c")
        connection.rollback()
    assert read(sqlite_engine) == [given]


@pytest.mark.parametrize("target", [None, "session", object(), sa.create_engine("sqlite://")])
def test_another_target_is_refused_with_a_list_of_those_that_serve(target: Any) -> None:
    with pytest.raises(UsageError, match="AsyncSession, Connection or AsyncConnection"):
        emit(target, "a")


def test_the_data_is_what_the_object_was_at_the_call(shop: Shop) -> None:
    event = Happened(name="before")
    with shop.engine.begin() as connection:
        outbox.emit(connection, event)
        event.name = "after"
    assert shop.names() == ["before"]
