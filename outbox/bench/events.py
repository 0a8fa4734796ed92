"""The event of every measurement; only `outbox bench` declares it."""

from __future__ import annotations

from pydantic import BaseModel

import outbox


@outbox.event("outbox.bench.order.placed", key="order_id")
class OrderPlaced(BaseModel):
    """What a shop would tell."""

    order_id: str
    total_cents: int
    pad: str


FRAME_BYTES = 48
"""What an event's JSON takes besides its pad."""


def order_placed(number: int, size: int) -> OrderPlaced:
    """Return an event with about so many bytes of data, one of a thousand keys."""
    pad = "x" * max(0, size - FRAME_BYTES)
    return OrderPlaced(order_id=f"o-{number % 1000:03}", total_cents=number, pad=pad)
