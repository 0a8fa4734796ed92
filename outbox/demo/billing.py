"""Billing with an inbox: one invoice an order, however often its event arrives."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from outbox.demo.events import OrderPlaced


class Base(DeclarativeBase):
    """Billing's tables."""


class Invoice(Base):
    """What a customer has to pay; nothing in the table keeps a second one out."""

    __tablename__ = "invoice"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    customer_id: Mapped[str]
    number: Mapped[int]
    total_cents: Mapped[int]


def consumer(engine: sa.Engine, name: str = "billing") -> outbox.Consumer:
    """Return the consumer that writes invoices into a database."""
    billing = outbox.Consumer(name, database=engine)

    @billing.on(OrderPlaced)
    def issue(event: OrderPlaced, context: outbox.Context) -> None:
        # In one transaction with the inbox row that says "this event is done".
        context.session.add(Invoice(**event.model_dump()))

    return billing
