"""The application: it takes orders. It knows of no broker.

python shop.py 20              # take twenty orders
python shop.py forget c-1      # delete what is known of a customer
"""

from __future__ import annotations

import os
import random
import sys
import uuid

from events import OrderPlaced
from sqlalchemy import Engine, create_engine, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import outbox
from outbox.settings import load

NAMES = ["Ada Lovelace", "Charles Babbage", "Mary Somerville", "Augustus De Morgan", "Ada King"]


class Base(DeclarativeBase):
    """Tables of the application and of its consumers."""


class Customer(Base):
    """Who orders."""

    __tablename__ = "shop_customer"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]


class Order(Base):
    """What a customer has ordered."""

    __tablename__ = "shop_order"
    id: Mapped[str] = mapped_column(primary_key=True)
    customer: Mapped[str]
    total_cents: Mapped[int]
    status: Mapped[str] = mapped_column(default="new")


# Whoever changes the status of an order leaves an event of it, with what it was before.
OrderChanged = outbox.track(Order, fields=["status"], type="shop.order")


def key_store(engine: Engine | None = None) -> outbox.TableKeyStore:
    """Return where the keys of customers are."""
    master_keys = outbox.MasterKeys(os.environ["OUTBOX_PERSONAL__MASTER_KEY"])
    return outbox.TableKeyStore(master_keys, engine)


def place_order(engine: Engine, customer: str, total_cents: int) -> str:
    """Take an order: the row and its events commit together, or none of them does."""
    order_id = uuid.uuid4().hex
    with outbox.actor(f"customer:{customer}"), Session(engine) as session, session.begin():
        session.add(Order(id=order_id, customer=customer, total_cents=total_cents))
        event = OrderPlaced(
            order_id=order_id,
            customer=customer,
            name=session.get_one(Customer, customer).name,
            total_cents=total_cents,
            currency="EUR",
        )
        outbox.emit(session, event)
    return order_id


def register(engine: Engine) -> list[str]:
    """Make the customers, unless they are there; return their numbers."""
    customers = {f"c-{number}": name for number, name in enumerate(NAMES, 1)}
    with Session(engine) as session, session.begin():
        for number, name in customers.items():
            if session.get(Customer, number) is None:
                session.add(Customer(id=number, name=name))
    return list(customers)


def forget(engine: Engine, customer: str) -> None:
    """Delete what is known of a customer: here, and by the key in every copy of every event."""
    with Session(engine) as session, session.begin():
        session.execute(update(Customer).where(Customer.id == customer).values(name=None))
    key_store(engine).forget(customer)


def main() -> None:
    """Take orders, or forget a customer."""
    engine = create_engine(load().url)
    outbox.use_key_store(key_store())
    if sys.argv[1] == "forget":
        forget(engine, sys.argv[2])
        return
    customers = register(engine)
    for _ in range(int(sys.argv[1])):
        place_order(engine, random.choice(customers), random.randrange(100, 10_000))


if __name__ == "__main__":
    main()
