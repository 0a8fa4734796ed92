"""The application: it takes orders. It knows of no broker.

python shop.py 20        # take twenty orders
"""

from __future__ import annotations

import random
import sys
import uuid

from pydantic import BaseModel
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import outbox
from outbox.settings import load


class Base(DeclarativeBase):
    """Tables of the application and of its consumers."""


class Order(Base):
    """What a customer has ordered."""

    __tablename__ = "shop_order"
    id: Mapped[str] = mapped_column(primary_key=True)
    customer: Mapped[str]
    total_cents: Mapped[int]


@outbox.event("shop.order.placed", key="customer")
class OrderPlaced(BaseModel):
    """An order was taken; those of one customer come in order."""

    order_id: str
    customer: str
    total_cents: int


def place_order(engine: Engine, customer: str, total_cents: int) -> str:
    """Take an order: the row and the event commit together, or neither does."""
    order_id = uuid.uuid4().hex
    with Session(engine) as session, session.begin():
        session.add(Order(id=order_id, customer=customer, total_cents=total_cents))
        outbox.emit(
            session, OrderPlaced(order_id=order_id, customer=customer, total_cents=total_cents)
        )
    return order_id


if __name__ == "__main__":
    shop = create_engine(load().url)
    for _ in range(int(sys.argv[1])):
        place_order(shop, f"customer-{random.randrange(5)}", random.randrange(100, 10_000))
