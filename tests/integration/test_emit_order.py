"""The order contract: events of one aggregate are numbered in the order of its lock."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from tests.emitting import Order, Shop, emit, read
from tests.locked import await_waiters

WRITERS = 8
ROUNDS = 60
NUMBERS = [1, 2, 3]


@pytest.fixture(params=["postgres", "mariadb"])
def shop(request: pytest.FixtureRequest) -> Shop:
    shop = Shop(request.getfixturevalue(f"{request.param}_engine"))
    with shop.engine.begin() as connection:
        orders = [{"id": number, "name": "x"} for number in NUMBERS]
        connection.execute(sa.insert(Order), orders)
    return shop


def test_the_second_holder_of_a_lock_gets_the_larger_number(shop: Shop) -> None:
    with Session(shop.engine) as first, Session(shop.engine) as second:
        taken = threading.Event()

        def change(session: Session, name: str) -> None:
            order = session.get_one(Order, 1)
            emit(session, name)
            order.total = order.total + 1
            taken.set()
            session.commit()

        # The second emits before it waits for the lock, and before the first emits.
        first.execute(sa.select(Order).where(Order.id == 1).with_for_update())
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(change, second, "second")
            assert taken.wait(10)
            await_waiters(shop.engine)
            emit(first, "first")
            first.commit()
            waiting.result(10)
    assert shop.names() == ["first", "second"]


def test_numbers_follow_the_lock_when_many_emit_before_they_change(shop: Shop) -> None:
    def write(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(ROUNDS):
            number = dice.choice(NUMBERS)
            with Session(shop.engine) as session, session.begin():
                order = session.get_one(Order, number, with_for_update=dice.random() < 0.3)
                emit(session, "changed", key=str(number))
                order.name = f"{seed}-{dice.random()}"

    with shop.engine.begin() as connection:
        # Each change counts up under the lock; the event of that transaction is told the count.
        for statement in COUNT_UP[shop.engine.dialect.name]:
            connection.exec_driver_sql(statement)
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))

    with shop.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            f"SELECT e.partition_key, h.total FROM outbox_event e"
            f" JOIN history h ON {JOINED[shop.engine.dialect.name]} ORDER BY e.seq"
        ).all()
    assert len(rows) == len(read(shop.engine)) == WRITERS * ROUNDS
    for number in NUMBERS:
        totals = [total for key, total in rows if key == str(number)]
        assert totals == list(range(1, len(totals) + 1))


COUNT_UP = {
    "postgresql": [
        "CREATE TABLE history (total int, transaction_id xid8 DEFAULT pg_current_xact_id())",
        """\
CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.total := OLD.total + 1;
    INSERT INTO history (total) VALUES (NEW.total);
    RETURN NEW;
END $$""",
        """\
CREATE TRIGGER count_up BEFORE UPDATE ON shop_order FOR EACH ROW EXECUTE FUNCTION count_up()""",
    ],
    "mariadb": [
        "CREATE TABLE history (seq bigint, total int)",
        """\
CREATE TRIGGER count_up BEFORE UPDATE ON shop_order
FOR EACH ROW SET NEW.total = OLD.total + 1, @total = NEW.total""",
        """\
CREATE TRIGGER note AFTER INSERT ON outbox_event
FOR EACH ROW INSERT INTO history VALUES (NEW.seq, @total)""",
    ],
}
JOINED = {"postgresql": "h.transaction_id = e.transaction_id", "mariadb": "h.seq = e.seq"}
