"""What others do when an order is placed: one consumer on each broker, by outbox.toml.

Each writes to the database by the session it is given, so each effect happens once. All of them
know version 2 of the event alone: older ones are lifted to it.
"""

from __future__ import annotations

from events import OrderInvoiced, OrderPlaced
from shop import Base, Order
from sqlalchemy import create_engine
from sqlalchemy.orm import Mapped, mapped_column

import outbox
from outbox.settings import load

engine = create_engine(load().url)

billing = outbox.Consumer("billing", database=engine)
shipping = outbox.Consumer("shipping", database=engine)
analytics = outbox.Consumer("analytics", database=engine)
notes = outbox.Consumer("notes", database=engine)


class Invoice(Base):
    """What billing writes, from Kafka."""

    __tablename__ = "shop_invoice"
    number: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    currency: Mapped[str]


class Parcel(Base):
    """What shipping packs, from ActiveMQ."""

    __tablename__ = "shop_parcel"
    number: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    has_label: Mapped[bool]


class Sale(Base):
    """What analytics counts, from files in S3."""

    __tablename__ = "shop_sale"
    number: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]


class Note(Base):
    """What is noted in the relay's own process, from memory."""

    __tablename__ = "shop_note"
    number: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]


@billing.on(OrderPlaced)
def invoice(event: OrderPlaced, context: outbox.Context) -> None:
    """Write an invoice; the order is invoiced by it, which is an event of its own."""
    session = context.session
    written = Invoice(order_id=event.order_id, currency=event.currency)
    session.add(written)
    with outbox.actor("service:billing"):
        session.get_one(Order, event.order_id).status = "invoiced"
        session.flush()
        context.emit(OrderInvoiced(order_id=event.order_id, number=written.number))


@shipping.on(OrderPlaced)
def pack(event: OrderPlaced, context: outbox.Context) -> None:
    """Pack a parcel; its label needs the name, which is kept nowhere else."""
    context.session.add(Parcel(order_id=event.order_id, has_label=event.name is not None))


@analytics.on(OrderPlaced)
def count(event: OrderPlaced, context: outbox.Context) -> None:
    """Count a sale."""
    context.session.add(Sale(order_id=event.order_id))


@notes.on(OrderPlaced)
def note(event: OrderPlaced, context: outbox.Context) -> None:
    """Note that it happened."""
    context.session.add(Note(order_id=event.order_id))
