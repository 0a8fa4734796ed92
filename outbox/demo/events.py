"""What happens in the shop, as other services see it."""

from __future__ import annotations

from pydantic import BaseModel

import outbox


@outbox.event("shop.order.placed", version=1, key="customer_id")
class OrderPlaced(BaseModel):
    """A customer has ordered, and the order is in the shop's database."""

    order_id: str
    customer_id: str
    number: int
    """The customer's how-manieth order; it shows whether events arrive in order."""
    total_cents: int
