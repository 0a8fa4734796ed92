"""The application of every measurement; only `outbox bench` declares its event and tables."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox

FRAME_BYTES: Final = 48
"""What an event's JSON takes besides its pad."""


@outbox.event("outbox.bench.order.placed", key="order_id")
class OrderPlaced(BaseModel):
    """What a shop would tell."""

    order_id: str
    total_cents: int
    pad: str


class Base(DeclarativeBase):
    """The application's own tables."""


class Order(Base):
    """The state that changes where an event is emitted."""

    __tablename__ = "bench_order"

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    name: Mapped[str]


class Invoice(Base):
    """What the handler of an event writes."""

    __tablename__ = "bench_invoice"

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    order_id: Mapped[str]
    cents: Mapped[int]


def pad(size: int) -> str:
    """Return what makes an event's data about so many bytes."""
    return "x" * max(0, size - FRAME_BYTES)


def order_placed(number: int, size: int) -> OrderPlaced:
    """Return an event with about so many bytes of data, one of a thousand keys."""
    return OrderPlaced(order_id=f"o-{number % 1000:03}", total_cents=number, pad=pad(size))
