"""Batches of events into the database by hand: the ceiling of `outbox bench consume`.

It is what one writes who knows the libraries: one transaction a batch, the event class validated,
offsets committed without waiting for the answer. The second form claims each event in an inbox as
well; neither has anything for failures, order or letters.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from outbox.bench.shop import Invoice, OrderPlaced
from outbox.inbox import claim, claim_new

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Engine

    Raw = tuple[Any, Any]
    """Headers and data of a message."""


def from_kafka(kafka: Mapping[str, Any], topic: str, batch: int, count: int) -> Iterator[list[Raw]]:
    """Yield batches of a topic, and commit each when the next one is asked for."""
    consumer = Consumer(
        {
            **kafka,
            "group.id": f"{topic}-{uuid.uuid4()}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    left = count
    while left > 0:
        messages = [each for each in consumer.consume(batch, 1.0) if not each.error()]
        if messages:
            yield [(each.headers(), each.value()) for each in messages]
            consumer.commit(message=messages[-1], asynchronous=True)
            left -= len(messages)
    consumer.close()


def without_inbox(engine: Engine, batches: Iterable[list[Raw]]) -> None:
    """Handle batches."""
    for batch in batches:
        with Session(engine) as session, session.begin():
            handle(session, batch)


def with_inbox(engine: Engine, batches: Iterable[list[Raw]]) -> None:
    """Handle what is not in the inbox yet."""
    name = f"hand-{uuid.uuid4()}"
    for messages in batches:
        batch = {}
        for message in messages:
            headers = dict(message[0])
            batch[headers["ce_source"].decode(), headers["ce_id"].decode()] = message
        try:
            with Session(engine) as session, session.begin():
                claim_new(session.connection(), name, batch)
                handle(session, [*batch.values()])
        except IntegrityError:
            with Session(engine) as session, session.begin():
                fresh = claim(session.connection(), name, batch)
                handle(session, [batch[each] for each in batch if each in fresh])


def handle(session: Session, messages: Sequence[Raw]) -> None:
    """Write an invoice for each order."""
    for headers, data in messages:
        if dict(headers)["ce_type"] == b"outbox.bench.order.placed":
            event = OrderPlaced.model_validate_json(data)
            session.add(Invoice(order_id=event.order_id, cents=event.total_cents))
