"""The shop's tables, and what it does with a basket in both versions."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    """The shop's tables."""


class Customer(Base):
    """Someone who orders."""

    __tablename__ = "customer"
    id: Mapped[str] = mapped_column(primary_key=True)
    order_count: Mapped[int] = mapped_column(default=0)


class Order(Base):
    """What a customer bought."""

    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(sa.ForeignKey(Customer.id))
    number: Mapped[int]
    total_cents: Mapped[int]


@dataclass(frozen=True, slots=True)
class Basket:
    """What a customer is about to buy."""

    order_id: str
    customer_id: str
    total_cents: int
    is_card_declined: bool = False


class CardDeclinedError(Exception):
    """The bank says no: nothing of the order may remain."""


def take(session: Session, basket: Basket) -> Order:
    """Write the order, then charge the card; the customer's row is locked until the end."""
    number = session.scalar(
        sa.update(Customer)
        .where(Customer.id == basket.customer_id)
        .values(order_count=Customer.order_count + 1)
        .returning(Customer.order_count)
    )
    order = Order(
        id=basket.order_id,
        customer_id=basket.customer_id,
        number=number,
        total_cents=basket.total_cents,
    )
    session.add(order)
    session.flush()
    if basket.is_card_declined:
        raise CardDeclinedError(basket.order_id)
    return order
