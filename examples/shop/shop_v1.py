"""Orders as they were taken before events had a name and a currency: version 1 of the event.

python shop_v1.py 5
"""

from __future__ import annotations

import random
import sys
import uuid

from pydantic import BaseModel
from shop import Order, register
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

import outbox
from outbox.settings import load


@outbox.event("shop.order.placed", version=1, key="order_id")
class OrderPlaced(BaseModel):
    """A customer has ordered, in euros."""

    order_id: str
    customer: str
    total_cents: int


def place_order(engine: Engine, customer: str, total_cents: int) -> str:
    """Take an order: the row and its events commit together, or none of them does."""
    order_id = uuid.uuid4().hex
    with outbox.actor(f"customer:{customer}"), Session(engine) as session, session.begin():
        session.add(Order(id=order_id, customer=customer, total_cents=total_cents))
        event = OrderPlaced(order_id=order_id, customer=customer, total_cents=total_cents)
        outbox.emit(session, event)
    return order_id


if __name__ == "__main__":
    shop = create_engine(load().url)
    customers = register(shop)
    for _ in range(int(sys.argv[1])):
        place_order(shop, random.choice(customers), random.randrange(100, 10_000))
