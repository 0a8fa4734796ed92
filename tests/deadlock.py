"""Orders of a shop, and a transaction that loses a deadlock about them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from tests.emitting import Order, Shop
from tests.locked import await_waiters

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

ORDERS: Final = 10


def stocked(engine: sa.Engine) -> Shop:
    """Return a shop with some orders."""
    made = Shop(engine)
    with made.engine.begin() as connection:
        connection.execute(sa.insert(Order), [{"name": "x"} for _ in range(ORDERS)])
    return made


def change(target: Session | sa.Connection, order: int) -> None:
    target.execute(sa.update(Order).where(Order.id == order).values(total=Order.total + 1))


def lose(shop: Shop, target: Session | sa.Connection) -> None:
    """Let the transaction, which has changed the first order, lose a deadlock: this raises."""
    with shop.engine.connect() as other, ThreadPoolExecutor(1) as pool:
        for order in range(2, ORDERS):  # the server gives up the side that has written less
            change(other, order)
        waiting = pool.submit(change, other, 1)
        await_waiters(shop.engine)
        try:
            change(target, 2)
        finally:
            waiting.result(10)
            other.rollback()
