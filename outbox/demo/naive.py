"""The same shop and billing as they are often written: commit, then publish."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox.demo.billing import Invoice
from outbox.demo.events import OrderPlaced
from outbox.demo.shop import Basket, take
from outbox.errors import TransientError
from outbox.transport import Subscriber


def place_order(engine: sa.Engine, publish: Callable[[OrderPlaced], None], basket: Basket) -> None:
    """Commit the order, then tell the others, if this process and the broker are still there."""
    with Session(engine) as session, session.begin():
        order = take(session, basket)
        event = OrderPlaced(
            order_id=order.id,
            customer_id=order.customer_id,
            number=order.number,
            total_cents=order.total_cents,
        )
    publish(event)


def issue_invoices(
    subscriber: Subscriber,
    engine: sa.Engine,
    stop: threading.Event,
    idle_seconds: float = float("inf"),
) -> None:
    """Write an invoice for each message, until told to stop or nothing came for so long."""
    active_at = time.monotonic()
    while not stop.is_set() and time.monotonic() - active_at < idle_seconds:
        try:
            deliveries = subscriber.receive(50, 0.2)
        except TransientError:
            stop.wait(0.2)
            continue
        for delivery in deliveries:
            event = OrderPlaced.model_validate_json(delivery.message.data)
            with Session(engine) as session, session.begin():
                session.add(Invoice(**event.model_dump()))
            active_at = time.monotonic()
        subscriber.ack(deliveries)
    subscriber.close()
