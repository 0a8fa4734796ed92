"""outbox.track and statements that pass the unit of work by: seen, and refused or warned of."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import aliased

import outbox
from tests.tracking import Animal, Base, Cat, Customer, Dog, Order, Shop

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session


@pytest.fixture(params=["postgres", "sqlite"])
def shop(request: pytest.FixtureRequest) -> Shop:
    shop = Shop(request.getfixturevalue(f"{request.param}_engine"))
    shop.add(Order(id="o-1"))
    return shop


@pytest.fixture
def sqlite_shop(sqlite_engine: sa.Engine) -> Shop:
    return Shop(sqlite_engine)


TABLE = Base.metadata.tables["tracked_order"]
ALIAS: Any = TABLE.alias("o")
ANOTHER = sa.Table(
    "tracked_order", sa.MetaData(), sa.Column("copies", sa.Integer), sa.Column("seen", sa.Integer)
)
LIGHT = sa.table("tracked_order", sa.column("copies"))
BULK: dict[str, Callable[[Session], Any]] = {
    "update": lambda s: s.execute(sa.update(Order).values(copies=2)),
    "update of attributes": lambda s: s.execute(sa.update(Order).values({Order.remark: "x"})),
    "update in order": lambda s: s.execute(sa.update(Order).ordered_values((Order.copies, 2))),
    "update by key": lambda s: s.execute(sa.update(Order), [{"id": "o-1", "copies": 2}]),
    "update by key of an attribute": lambda s: s.execute(
        sa.update(Order), [{"id": "o-1", "remark": "x"}]
    ),
    "update of the key": lambda s: s.execute(sa.update(Order).values(id="o-2")),
    "delete": lambda s: s.execute(sa.delete(Order)),
    "insert": lambda s: s.execute(sa.insert(Order), [{"id": "o-2"}]),
    "insert values": lambda s: s.execute(sa.insert(Order).values([{"id": "o-2"}])),
    "scalars": lambda s: s.scalars(sa.insert(Order).returning(Order), [{"id": "o-2"}]),
    "query update": lambda s: s.query(Order).update({"copies": 2}),
    "query delete": lambda s: s.query(Order).delete(),
    "bulk save": lambda s: s.bulk_save_objects([Order(id="o-2")]),
    "bulk insert": lambda s: s.bulk_insert_mappings(sa.inspect(Order), [{"id": "o-2"}]),
    "bulk update": lambda s: s.bulk_update_mappings(
        sa.inspect(Order), [{"id": "o-1", "copies": 2}]
    ),
    "table update": lambda s: s.execute(TABLE.update().values(remark_text="x")),
    "table update by parameters": lambda s: s.execute(TABLE.update(), {"copies": 2}),
    "table delete": lambda s: s.connection().execute(TABLE.delete()),
    "alias update": lambda s: s.execute(sa.update(ALIAS).values(copies=2)),
    "class alias update": lambda s: s.execute(sa.update(aliased(Order)).values(copies=2)),
    "update of another object": lambda s: s.execute(ANOTHER.update().values(copies=2)),
    "delete by a light table": lambda s: s.execute(sa.delete(LIGHT)),
    "delete with the schema": lambda s: s.execute(
        sa.delete(sa.table("tracked_order", schema="main"))
    ),
    "table insert": lambda s: s.connection().execute(TABLE.insert(), {"id": "o-2"}),
}


@pytest.mark.parametrize("name", BULK)
def test_a_bulk_change_is_refused_before_it_is_sent(sqlite_shop: Shop, name: str) -> None:
    sqlite_shop.add(Order(id="o-1"))
    with sqlite_shop.session() as session:
        with pytest.raises(outbox.UntrackedChangeError, match=r"rows of Order .*shop\.order"):
            BULK[name](session)
        session.rollback()
    assert [s for s in sqlite_shop.statements if not s.startswith("SELECT")] == []


@pytest.mark.parametrize(
    "statement",
    [
        sa.update(Order).values(seen=1),
        sa.update(Customer).values(name="x"),
        sa.update(Dog).values(tricks=1),
        ANOTHER.update().values(seen=1),
        sa.select(Order.id),
    ],
)
def test_what_is_not_tracked_may_change(
    sqlite_shop: Shop, statement: sa.UpdateBase | sa.Select[Any]
) -> None:
    with sqlite_shop.session() as session, session.begin():
        session.execute(statement)


def test_a_table_of_that_name_in_another_schema_may_change(sqlite_shop: Shop) -> None:
    with sqlite_shop.session() as session, session.begin():
        session.connection().exec_driver_sql("CREATE TEMP TABLE tracked_order (id)")
        session.execute(sa.delete(sa.table("tracked_order", schema="temp")))


def test_a_bulk_change_beside_a_flush_is_seen(shop: Shop) -> None:
    with shop.session() as session:
        session.get_one(Order, "o-1").copies = 2
        with pytest.raises(outbox.UntrackedChangeError):
            session.execute(sa.delete(Order))  # it flushes first
        session.rollback()
        session.add(Order(id="o-1"))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()
        session.rollback()
        with pytest.raises(outbox.UntrackedChangeError):
            session.bulk_insert_mappings(sa.inspect(Order), [{"id": "o-2"}])
        session.rollback()


def test_a_connection_outside_of_any_session_is_seen(shop: Shop) -> None:
    with shop.engine.begin() as connection, pytest.raises(outbox.UntrackedChangeError):
        connection.execute(TABLE.update().values(copies=2))


def test_one_statement_may_pass(sqlite_shop: Shop) -> None:
    passing = sa.update(Order).values(copies=2).execution_options(outbox_on_bulk="ignore")
    with sqlite_shop.session() as session, session.begin():
        session.execute(passing)
        session.execute(sa.delete(Order), execution_options={"outbox_on_bulk": "ignore"})
    with sqlite_shop.session() as session, session.begin():
        session.connection(execution_options={"outbox_on_bulk": "ignore"})
        session.bulk_insert_mappings(sa.inspect(Order), [{"id": "o-2"}])
    with sqlite_shop.session() as session, pytest.raises(outbox.UsageError, match="'never'"):
        session.execute(sa.delete(Order), execution_options={"outbox_on_bulk": "never"})


def test_a_warning_names_the_line_that_asked_for_it(sqlite_shop: Shop) -> None:
    with (
        sqlite_shop.session() as session,
        pytest.warns(outbox.UntrackedChangeWarning, match="UPDATE of Animal") as caught,
    ):
        session.execute(sa.update(Animal).values(name="x"))
    assert [warning.filename for warning in caught] == [__file__]


def test_a_class_beside_a_tracked_one_in_its_table_may_change(sqlite_shop: Shop) -> None:
    """Cat is tracked by itself and says `ignore`; a Dog is an Animal."""
    with sqlite_shop.session() as session:
        session.execute(sa.delete(Cat))
        session.execute(sa.update(Dog).values(tricks=1))
        with pytest.warns(outbox.UntrackedChangeWarning):
            session.execute(sa.insert(Dog), [{"name": "Rex"}])


def test_an_async_session_is_seen(shop: Shop) -> None:
    drivers = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
    url = shop.engine.url.set(drivername=drivers[shop.engine.dialect.name])

    async def main() -> None:
        engine = create_async_engine(url)
        async with AsyncSession(engine) as session:
            with pytest.raises(outbox.UntrackedChangeError):
                await session.execute(sa.delete(Order))
        await engine.dispose()

    asyncio.run(main())
