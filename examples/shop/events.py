"""What happens in the shop, as others may read it for years."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel

import outbox


@outbox.event(
    "shop.order.placed",
    version=2,
    key="order_id",
    owner="sales",
    examples=[
        {
            "order_id": "o-1",
            "customer": "c-1",
            "name": "Ada Lovelace",
            "total_cents": 1999,
            "currency": "EUR",
        }
    ],
)
class OrderPlaced(BaseModel):
    """A customer has ordered."""

    order_id: str
    customer: str
    name: Annotated[str | None, outbox.Personal(subject="customer")] = None
    """Encrypted; None where it was not known, or the customer is forgotten."""
    total_cents: int
    currency: str


@outbox.upcast(OrderPlaced, from_version=1)
def in_euros(data: dict[str, Any]) -> dict[str, Any]:
    """Lift what was emitted before there were other currencies."""
    return {**data, "currency": "EUR"}


@outbox.event("shop.order.invoiced", key="order_id", owner="billing")
class OrderInvoiced(BaseModel):
    """An invoice was written for an order."""

    order_id: str
    number: int
