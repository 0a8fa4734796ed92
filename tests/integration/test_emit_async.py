"""emit on asyncio's Sessions and Connections: nothing to await, and the same promises."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)

from outbox.errors import NoTransactionError, UsageError
from tests.emitting import Order, Shop, emit, emit_all_attributes, names, read

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

DRIVERS = {
    "postgresql+psycopg": "postgres",
    "postgresql+asyncpg": "postgres",
    "mariadb+asyncmy": "mariadb",
}


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def shop(request: pytest.FixtureRequest, driver: str) -> Shop:
    return Shop(request.getfixturevalue(f"{DRIVERS[driver]}_engine"))


def run(
    shop: Shop, driver: str, main: Callable[[AsyncEngine, list[str]], Coroutine[Any, Any, None]]
) -> list[str]:
    """Run a coroutine on an engine; return the tables that it wrote to, one entry a statement."""
    written: list[str] = []

    async def with_engine() -> None:
        engine = create_async_engine(shop.engine.url.set(drivername=driver))
        other = Shop.__new__(Shop)
        other.statements = written
        sa.event.listen(engine.sync_engine, "before_cursor_execute", other._record)
        try:
            await main(engine, written)
        finally:
            await engine.dispose()
            await asyncio.sleep(0)  # asyncmy closes its sockets in the loop's next round

    asyncio.run(with_engine())
    return [each.removeprefix("INSERT INTO ") for each in written if each.startswith("INSERT")]


@pytest.mark.parametrize("autoflush", [True, False])
def test_an_async_session_keeps_every_promise(shop: Shop, driver: str, *, autoflush: bool) -> None:
    async def main(engine: AsyncEngine, _: object) -> None:
        async with AsyncSession(engine, autoflush=autoflush) as session:
            async with session.begin():
                session.add(Order(name="x"))
                emit(session, "a")
                inner = await session.begin_nested()
                emit(session, "b")
                await session.flush()
                await inner.rollback()
                async with session.begin_nested():
                    emit(session, "c")
                    session.add(Order(name="y"))
            session.add(Order(name="x"))
            emit(session, "d")
            await session.close()
            session.add(Order(name="x"))
            emit(session, "e")
            await session.commit()

    run(shop, driver, main)
    assert shop.names() == ["a", "c", "e"]


@pytest.mark.parametrize("count", [1, 10])
def test_many_events_of_an_async_session_cost_one_statement(
    shop: Shop, driver: str, count: int
) -> None:
    async def main(engine: AsyncEngine, _: object) -> None:
        async with AsyncSession(engine) as session, session.begin():
            session.add(Order(name="x"))
            for number in range(count):
                emit_all_attributes(session, f'{number}"\\,NULL')

    assert run(shop, driver, main) == ["shop_order", "outbox_event"]
    assert shop.names() == [f'{number}"\\,NULL' for number in range(count)]
    assert {each.subject for each in read(shop.engine)} == set(shop.names())


def test_an_async_scoped_session_serves_as_well(shop: Shop, driver: str) -> None:
    async def main(engine: AsyncEngine, _: object) -> None:
        scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        scoped.add(Order(name="x"))
        emit(scoped, "a")
        await scoped.commit()
        await scoped.remove()

    run(shop, driver, main)
    assert shop.names() == ["a"]


def test_an_async_connection_writes_at_the_commit_and_at_savepoints(
    shop: Shop, driver: str
) -> None:
    async def main(engine: AsyncEngine, written: list[str]) -> None:
        with pytest.raises(NoTransactionError, match="not connected"):
            emit(engine.connect(), "0")
        async with engine.connect() as connection:
            with pytest.raises(NoTransactionError):
                emit(connection, "0")
            await connection.execute(sa.insert(Order).values(name="x"))
            for name in "abcdefghij":
                emit(connection, name)
            assert len(written) == 1
            inner = await connection.begin_nested()
            emit(connection, "dropped")
            await inner.rollback()
            async with connection.begin_nested():
                emit(connection, "k")
            await connection.run_sync(lambda sync: emit(sync, "l"))
            emit(connection, "m")
            await connection.commit()
            await connection.execute(sa.text("SELECT 1"))
            emit(connection, "not committed")
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))
            await connection.commit()
        async with engine.begin() as connection:
            assert connection.sync_connection is not None
            emit(connection.sync_connection, "n")

    assert run(shop, driver, main) == ["shop_order", *["outbox_event"] * 3]
    assert shop.names() == list("abcdefghijklmn")


def test_autocommit_is_refused(shop: Shop, driver: str) -> None:
    async def main(engine: AsyncEngine, _: object) -> None:
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        async with AsyncSession(autocommit) as session, session.begin():
            with pytest.raises(NoTransactionError, match="AUTOCOMMIT"):
                emit(session, "a")
        async with autocommit.connect() as connection, connection.begin():
            with pytest.raises(NoTransactionError, match="AUTOCOMMIT"):
                emit(connection, "b")

    run(shop, driver, main)
    assert shop.names() == []


def test_aiosqlite_serves_as_well(sqlite_engine: sa.Engine) -> None:
    async def main() -> None:
        engine = create_async_engine(sqlite_engine.url.set(drivername="sqlite+aiosqlite"))
        async with AsyncSession(engine) as session, session.begin():
            emit(session, "a")
            emit(session, "b")
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        async with autocommit.connect() as connection, connection.begin():
            with pytest.raises(NoTransactionError, match="AUTOCOMMIT"):
                emit(connection, "c")
        await engine.dispose()

    asyncio.run(main())
    assert names(sqlite_engine) == ["a", "b"]


def test_an_async_psycopg_connection_is_refused_with_what_to_use_instead(
    postgres_engine: sa.Engine,
) -> None:
    shop = Shop(postgres_engine)

    async def main() -> None:
        url = shop.engine.url.set(drivername="postgresql")
        connection = await psycopg.AsyncConnection.connect(
            url.render_as_string(hide_password=False)
        )
        async with connection, connection.transaction():
            with pytest.raises(UsageError, match="AsyncSession"):
                emit(connection, "a")  # type: ignore[arg-type]  # that is the point

    asyncio.run(main())
    assert shop.names() == []
