"""outbox.track: what a flush does to tracked rows becomes events of the same transaction."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import attributes

import outbox
from tests.emitting import read
from tests.tracking import (
    MOMENT,
    TOKEN,
    Animal,
    Cat,
    CatChanged,
    Customer,
    Dog,
    Line,
    Order,
    OrderChanged,
    Page,
    Shop,
    Status,
    told,
)


@pytest.fixture(params=["postgres", "sqlite", "mariadb"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return Shop(request.getfixturevalue(f"{request.param}_engine"))


@pytest.fixture
def postgres_shop(postgres_engine: sa.Engine) -> Shop:
    return Shop(postgres_engine)


UNSET: dict[str, Any] = {
    "status": "new",
    "total": None,
    "customer_id": None,
    "due_at": None,
    "token": None,
    "notes": None,
    "scan": None,
    "copies": 1,
    "remark": None,
}


def test_a_row_s_life_is_told_with_what_it_was_and_is(shop: Shop) -> None:
    with shop.session() as session, outbox.actor("user:42"):
        order = Order(id="o-1", total=Decimal("19.99"))
        session.add(order)
        session.commit()
        order.status, order.total = Status.PAID, Decimal("25.00")
        session.commit()
        session.delete(order)
        session.commit()
    paid = {"status": "paid", "total": "25.00"}
    assert shop.changes() == [
        told("created", "o-1", None, UNSET | {"total": "19.99"}),
        told("updated", "o-1", {"status": "new", "total": "19.99"}, paid),
        told("deleted", "o-1", UNSET | paid, None),
    ]
    for envelope in read(shop.engine):
        assert envelope.type == "shop.order.changed"
        assert envelope.partition_key == envelope.subject == "o-1"
        assert envelope.actor == "user:42"


def test_values_of_every_kind_come_back_as_they_were(shop: Shop) -> None:
    values: dict[str, Any] = {
        "status": Status.PAID,
        "total": Decimal("0.10"),
        "customer_id": None,
        "due_at": MOMENT,
        "token": TOKEN,
        "notes": {"a": [1, None, {"b": "ü"}]},
        "scan": b"\x00\xff",
        "copies": 3,
        "remark": "",
    }
    shop.add(Order(id="o-1", **values))
    with shop.session() as session, session.begin():
        session.delete(session.get_one(Order, "o-1"))
    [envelope] = read(shop.engine)
    before = OrderChanged.model_validate_json(envelope.data).before
    assert before is not None
    if shop.engine.dialect.name != "postgresql":  # they keep no time zone
        before["due_at"] = before["due_at"].replace(tzinfo=MOMENT.tzinfo)
    assert before == values


def test_what_the_database_generates_is_told(shop: Shop) -> None:
    with shop.session() as session, session.begin():
        session.add_all([Dog(name="Rex"), Animal(name="Tim")])
    keys = [change["identity"]["id"] for change in shop.changes()]
    assert len(set(keys)) == 2
    assert None not in keys


def test_a_value_set_to_itself_is_no_change(shop: Shop) -> None:
    shop.add(Order(id="o-1", total=Decimal("5.00"), notes={"a": 1}))
    with shop.session() as session, session.begin():
        order = session.get_one(Order, "o-1")
        order.status = Status.NEW
        order.total = Decimal("5.0")
        order.notes = {"a": 1}
        order.seen = 7
    assert shop.changes() == []


def test_only_what_was_not_loaded_is_read_and_only_where_it_changes(shop: Shop) -> None:
    shop.add(Order(id="o-1", remark="old"))
    with shop.session() as session, session.begin():
        order = session.get_one(Order, "o-1")
        shop.statements.clear()
        order.status = Status.PAID
        session.flush()
        assert shop.queries == []
        order.remark = "new"  # deferred, so nobody knows what it was
        session.flush()
        assert len(shop.queries) == 1
    assert shop.changes() == [
        told("updated", "o-1", {"status": "new"}, {"status": "paid"}),
        told("updated", "o-1", {"remark": "old"}, {"remark": "new"}),
    ]


def test_an_expired_instance_is_told_with_its_old_values(shop: Shop) -> None:
    with shop.session() as session:
        order = Order(id="o-1", copies=1)
        session.add(order)
        session.commit()
        shop.forget()
        order.copies = 2
        session.commit()
        order.copies = 2
        session.commit()
    assert shop.changes() == [told("updated", "o-1", {"copies": 1}, {"copies": 2})]


def test_an_expired_instance_whose_tracked_fields_stay_costs_no_query_of_ours(shop: Shop) -> None:
    with shop.session() as session:
        order = Order(id="o-1")
        session.add(order)
        session.commit()
        shop.forget()
        order.seen = 1
        session.commit()
    assert len(shop.queries) == 1  # SQLAlchemy's, for the row's key
    assert shop.changes() == []


def test_an_sql_expression_is_told_as_the_value_that_it_made(shop: Shop) -> None:
    shop.add(Order(id="o-1", copies=1), Order(id="o-2", copies=5))
    with shop.session() as session, session.begin():
        for order in session.scalars(sa.select(Order).order_by(Order.id)):
            order.copies = Order.copies + 1
        shop.statements.clear()
        session.flush()
        assert len(shop.queries) == 1  # for both
    assert shop.changes() == [
        told("updated", "o-1", {"copies": 1}, {"copies": 2}),
        told("updated", "o-2", {"copies": 5}, {"copies": 6}),
    ]


def test_a_change_inside_a_json_value_is_told(shop: Shop) -> None:
    shop.add(Order(id="o-1", notes={"a": 1}))
    with shop.session() as session, session.begin():
        order = session.get_one(Order, "o-1")
        assert order.notes is not None
        order.notes["b"] = 2
    assert shop.changes() == [
        told("updated", "o-1", {"notes": {"a": 1}}, {"notes": {"a": 1, "b": 2}})
    ]


def test_the_name_of_a_member_is_the_member(shop: Shop) -> None:
    shop.add(Order(id="o-1"))
    with shop.session() as session, session.begin():
        session.get_one(Order, "o-1").status = "PAID"  # type: ignore[assignment]  # SQLAlchemy takes it
    assert shop.changes() == [told("updated", "o-1", {"status": "new"}, {"status": "paid"})]


def test_each_flush_tells_its_own_part(shop: Shop) -> None:
    with shop.session() as session, session.begin():
        order = Order(id="o-1", copies=1)
        session.add(order)
        session.flush()
        order.copies = 2
        session.flush()
        order.copies = 1
    assert [change["after"]["copies"] for change in shop.changes()] == [1, 2, 1]


def test_changes_follow_what_was_emitted_before_them_in_one_statement(shop: Shop) -> None:
    with shop.session() as session, session.begin():
        session.add(Order(id="o-1"))
        session.add(Order(id="o-2"))
    written = [s for s in shop.statements if s.startswith("INSERT INTO outbox_event")]
    assert len(written) == 1
    assert [change["key"] for change in shop.changes()] == ["o-1", "o-2"]


def test_a_relationship_is_told_by_its_foreign_key(shop: Shop) -> None:
    shop.add(Customer(id=1, name="Ada", orders=[Order(id="o-1")]), Customer(id=2, name="Bo"))
    with shop.session() as session, session.begin():
        session.get_one(Order, "o-1").customer = session.get_one(Customer, 2)
    with shop.session() as session, session.begin():
        customer = session.get_one(Customer, 2)
        customer.orders.clear()
    with shop.session() as session, session.begin():
        session.get_one(Order, "o-1").customer = Customer(id=3, name="Cy")
    with shop.session() as session, session.begin():
        session.delete(session.get_one(Customer, 3))  # its orders stay, without a customer
    assert shop.changes() == [
        told("updated", "o-1", {"customer_id": 1}, {"customer_id": 2}),
        told("updated", "o-1", {"customer_id": 2}, {"customer_id": None}),
        told("updated", "o-1", {"customer_id": None}, {"customer_id": 3}),
        told("updated", "o-1", {"customer_id": 3}, {"customer_id": None}),
    ]


def test_what_an_update_after_the_flush_s_own_statements_sets_is_told(shop: Shop) -> None:
    with shop.session() as session, session.begin():
        first, second = Page(id=1), Page(id=2)
        first.next, second.next = second, first
        session.add_all([first, second])
        session.flush()
        first.next = None
    assert sorted(shop.changes(), key=lambda change: (change["operation"], change["key"])) == [
        told("created", 1, None, {"next_id": 2}),
        told("created", 2, None, {"next_id": 1}),
        told("updated", 1, {"next_id": 2}, {"next_id": None}),
    ]


def test_cascades_and_orphans_are_deletions_under_a_composite_key(shop: Shop) -> None:
    lines = [Line(number=number, quantity=number * 10) for number in (1, 2)]
    shop.add(Order(id="o-1", lines=lines))
    with shop.session() as session, session.begin():
        order = session.get_one(Order, "o-1")
        order.lines.pop(0)
    with shop.session() as session, session.begin():
        session.delete(session.get_one(Order, "o-1"))
    first, second, last = shop.changes()
    assert first == {
        "operation": "deleted",
        "key": "o-1",
        "identity": {"order_id": "o-1", "number": 1},
        "before": {"quantity": 10, "note": None, "doubled": 20, "edits": 0},
        "after": None,
    }
    assert second["identity"] == {"order_id": "o-1", "number": 2}
    assert last["operation"] == "deleted"
    assert [envelope.subject for envelope in read(shop.engine)] == ["o-1/1", "o-1/2", "o-1"]


def test_another_primary_key_is_a_deletion_and_a_creation(shop: Shop) -> None:
    shop.add(Order(id="o-1", remark="x", copies=4))
    with shop.session() as session, session.begin():
        session.get_one(Order, "o-1").id = "o-2"
    values = UNSET | {"remark": "x", "copies": 4}
    assert shop.changes() == [
        told("deleted", "o-1", values, None),
        told("created", "o-2", None, values),
    ]


def test_an_instance_in_the_place_of_a_deleted_one_is_an_update(shop: Shop) -> None:
    shop.add(Order(id="o-1", remark="x", copies=4))
    with shop.session() as session, session.begin():
        session.delete(session.get_one(Order, "o-1"))
        session.add(Order(id="o-1", copies=5))
    assert shop.changes() == [told("updated", "o-1", {"copies": 4}, {"copies": 5})]


def test_merge_tells_what_it_changed(shop: Shop) -> None:
    shop.add(Order(id="o-1", copies=4))
    with shop.session() as session, session.begin():
        session.merge(Order(id="o-1", copies=5))
        session.merge(Order(id="o-2", copies=1))
    first, second = shop.changes()
    assert first == told("updated", "o-1", {"copies": 4}, {"copies": 5})
    assert second["operation"] == "created"


def test_what_is_rolled_back_is_not_told(shop: Shop) -> None:
    shop.add(Order(id="o-1"))
    with shop.session() as session:
        order = session.get_one(Order, "o-1")
        order.copies = 2
        session.flush()
        session.rollback()
        order.copies = 3
        with session.begin_nested() as savepoint:
            order.copies = 4
            session.flush()
            savepoint.rollback()
        session.commit()
    assert shop.changes() == [told("updated", "o-1", {"copies": 1}, {"copies": 3})]


def test_a_flush_that_fails_leaves_nothing_for_the_next_one(shop: Shop) -> None:
    shop.add(Order(id="o-1"))
    with shop.session() as session:
        session.add(Order(id="o-1"))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()
        session.rollback()
        session.get_one(Order, "o-1").copies = 2
        session.commit()
    assert shop.changes() == [told("updated", "o-1", {"copies": 1}, {"copies": 2})]


def test_a_subclass_is_tracked_with_its_parent_or_by_itself(shop: Shop) -> None:
    with shop.session() as session, session.begin():
        dog, cat = Dog(id=1, name="Rex", tricks=2), Cat(id=2, name="Tom", lives=9)
        session.add_all([dog, cat])
        session.flush()
        dog.name, cat.lives = "Max", 8
        session.flush()
        dog.tricks = 3
        session.flush()
        session.delete(dog)
    types = [envelope.type for envelope in read(shop.engine)]
    assert sorted(types) == [*["tracked_animal.changed"] * 3, *["zoo.cat.changed"] * 2]
    changes = shop.changes()
    assert told("updated", 1, {"name": "Rex"}, {"name": "Max"}) in changes
    assert told("updated", 2, {"lives": 9}, {"lives": 8}) in changes
    assert changes[-1] == told("deleted", 1, {"name": "Max"}, None)


def test_old_values_of_a_joined_subclass_are_read_from_its_tables(shop: Shop) -> None:
    with shop.session() as session:
        dog = Dog(id=1, name="Rex")
        session.add(dog)
        session.commit()
        shop.forget()
        dog.name = "Max"
        session.commit()
    assert shop.changes() == [told("updated", 1, {"name": "Rex"}, {"name": "Max"})]


def test_a_value_that_does_not_fit_its_column_is_named_and_not_shown(shop: Shop) -> None:
    with shop.session() as session:
        session.add(Dog(id=1, name="Rex"))
        session.add(Cat(id=2, name="Tom"))
        session.flush()
        cat = session.get_one(Cat, 2)
        attributes.set_committed_value(cat, "lives", "secret")
        session.delete(cat)
        with pytest.raises(outbox.InvalidEventError, match=r"change of Cat.*before\.lives") as told:
            session.flush()
        assert "secret" not in str(told.value)
        session.rollback()


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg", "sqlite+aiosqlite"])
def test_an_async_session_tells_the_same(request: pytest.FixtureRequest, driver: str) -> None:
    name = "sqlite" if "sqlite" in driver else "postgres"
    shop = Shop(request.getfixturevalue(f"{name}_engine"))

    async def main() -> None:
        engine = create_async_engine(shop.engine.url.set(drivername=driver))
        async with AsyncSession(engine) as session:
            order = Order(id="o-1", copies=1)
            session.add(order)
            await session.commit()
            order.copies = 2  # expired, and nothing can be awaited here
            order.remark = "x"
            with outbox.actor("user:42"):
                await session.commit()
        await engine.dispose()

    asyncio.run(main())
    assert shop.changes()[1] == told(
        "updated", "o-1", {"copies": 1, "remark": None}, {"copies": 2, "remark": "x"}
    )
    assert read(shop.engine)[1].actor == "user:42"


def test_consumers_know_the_event_by_its_class() -> None:
    consumer = outbox.Consumer("zoo", database=sa.create_engine("sqlite://"))

    @consumer.on(CatChanged)
    def handle(event: outbox.Change, context: outbox.Context) -> None: ...

    assert list(consumer.handlers.types) == ["zoo.cat.changed"]


def test_flushes_of_other_classes_send_nothing_more(postgres_shop: Shop) -> None:
    with postgres_shop.session() as session, session.begin():
        session.add(Customer(id=1, name="Ada"))
    assert [statement.split("(")[0] for statement in postgres_shop.statements] == [
        "INSERT INTO tracked_customer "
    ]
