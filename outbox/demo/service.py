"""The shop with an outbox: the event is a row of the order's own transaction."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

import outbox
from outbox.demo.events import OrderPlaced
from outbox.demo.shop import Basket, take


def place_order(engine: sa.Engine, basket: Basket) -> None:
    """Order and event commit together, or not at all; nobody calls the broker here."""
    with Session(engine) as session, session.begin():
        order = take(session, basket)
        outbox.emit(
            session,
            OrderPlaced(
                order_id=order.id,
                customer_id=order.customer_id,
                number=order.number,
                total_cents=order.total_cents,
            ),
        )
