"""What others do when an order is placed: one consumer on each broker, by outbox.toml.

Each writes to the database by the session it is given, so each effect happens once.
"""

from __future__ import annotations

from typing import Any

from shop import Base, OrderPlaced
from sqlalchemy import create_engine
from sqlalchemy.orm import Mapped, mapped_column

import outbox
from outbox.settings import load

engine = create_engine(load().url)

billing = outbox.Consumer("billing", database=engine)
shipping = outbox.Consumer("shipping", database=engine)
analytics = outbox.Consumer("analytics", database=engine)
audit = outbox.Consumer("audit", database=engine)


class Invoice(Base):
    """What billing writes, from Kafka."""

    __tablename__ = "shop_invoice"
    number: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    customer: Mapped[str]


class Parcel(Base):
    """What shipping packs, from ActiveMQ."""

    __tablename__ = "shop_parcel"
    number: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    customer: Mapped[str]


class Sale(Base):
    """What analytics counts, from files in S3."""

    __tablename__ = "shop_sale"
    number: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    customer: Mapped[str]


class Note(Base):
    """What the audit notes, in the relay's own process."""

    __tablename__ = "shop_note"
    number: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    customer: Mapped[str]


@billing.on(OrderPlaced)
def invoice(event: OrderPlaced, context: Any) -> None:
    """Write an invoice."""
    context.session.add(Invoice(order_id=event.order_id, customer=event.customer))


@shipping.on(OrderPlaced)
def pack(event: OrderPlaced, context: Any) -> None:
    """Pack a parcel."""
    context.session.add(Parcel(order_id=event.order_id, customer=event.customer))


@analytics.on(OrderPlaced)
def count(event: OrderPlaced, context: Any) -> None:
    """Count a sale."""
    context.session.add(Sale(order_id=event.order_id, customer=event.customer))


@audit.on(OrderPlaced)
def note(event: OrderPlaced, context: Any) -> None:
    """Note that it happened."""
    context.session.add(Note(order_id=event.order_id, customer=event.customer))
