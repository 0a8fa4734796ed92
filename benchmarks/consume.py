"""A worker with an inbox beside a hand-written loop without one: `python -m benchmarks.consume`.

Both take the same deliveries from memory, 500 at a time, and insert one row for each with the
ORM, a transaction a batch, into the PostgreSQL at OUTBOX_TEST_POSTGRES.
"""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import outbox
from outbox.codec import to_headers
from outbox.consumer import Consumer
from outbox.envelope import Envelope, new_id
from outbox.inbox import claim
from outbox.migration import upgrade
from outbox.settings import ConsumerSettings
from outbox.transport import Delivery, Message
from outbox.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from outbox.context import Context

BATCH = 500
COUNT = 20_000
ROUNDS = 5


class Base(DeclarativeBase):
    """Tables of the application."""


class Invoice(Base):
    """What the handler writes."""

    __tablename__ = "invoice"
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    order_id: Mapped[str]
    cents: Mapped[int]


@outbox.event("bench.order.placed", key="order_id")
class OrderPlaced(BaseModel):
    """An event of about 200 bytes."""

    order_id: str
    total_cents: int
    note: str


class ListSubscriber:
    """Delivers a list, and stops the worker at its end."""

    def __init__(self, deliveries: Sequence[Delivery], stop: threading.Event) -> None:
        self._deliveries = deliveries
        self._stop = stop
        self._next = 0

    def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
        del timeout
        found = self._deliveries[self._next : self._next + limit]
        self._next += len(found)
        return found

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        del deliveries
        if self._next >= len(self._deliveries):
            self._stop.set()

    def nack(self, deliveries: Sequence[Delivery], /) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._deliveries = []


def deliveries(count: int) -> list[Delivery]:
    made = []
    for n in range(count):
        data = {"order_id": f"o-{n}", "total_cents": n, "note": "x" * 140}
        envelope = Envelope(
            id=new_id(),
            source="/bench",
            type="bench.order.placed",
            time=datetime.now(UTC),
            data=orjson.dumps(data),
        )
        key = f"k{n % BATCH}".encode()
        message = Message("bench", key, to_headers(envelope), envelope.data)
        made.append(Delivery(message, f"bench[0]@{n}", n))
    return made


def by_hand(engine: sa.Engine, log: Sequence[Delivery]) -> None:
    """Do what one would write without a library, and without an inbox, for the same event class."""
    for start in range(0, len(log), BATCH):
        with Session(engine) as session, session.begin():
            handle_by_hand(session, log[start : start + BATCH])


def by_hand_with_inbox(engine: sa.Engine, log: Sequence[Delivery]) -> None:
    """Do the same with a claim, and nothing for failures, order or letters."""
    name = f"hand-{uuid.uuid4()}"
    for start in range(0, len(log), BATCH):
        with Session(engine) as session, session.begin():
            batch = {}
            for delivery in log[start : start + BATCH]:
                headers = dict(delivery.message.headers)
                batch[headers["ce_source"].decode(), headers["ce_id"].decode()] = delivery
            fresh = claim(session.connection(), name, batch)
            handle_by_hand(session, [batch[each] for each in batch if each in fresh])


def handle_by_hand(session: Session, deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        headers = dict(delivery.message.headers)
        if headers["ce_type"] == b"bench.order.placed":
            event = OrderPlaced.model_validate_json(delivery.message.data)
            session.add(Invoice(order_id=event.order_id, cents=event.total_cents))


def by_worker(engine: sa.Engine, log: Sequence[Delivery]) -> None:
    consumer = Consumer(f"bench-{uuid.uuid4()}", database=engine)

    @consumer.on(OrderPlaced)
    def charge(event: OrderPlaced, context: Context) -> None:
        context.session.add(Invoice(order_id=event.order_id, cents=event.total_cents))

    stop = threading.Event()
    subscriber = ListSubscriber(log, stop)
    Worker(consumer, subscriber, ConsumerSettings(batch_size=BATCH)).run(stop)


def rate(
    run: Callable[[sa.Engine, Sequence[Delivery]], None], engine: sa.Engine, log: Sequence[Delivery]
) -> float:
    started = time.perf_counter()
    run(engine, log)
    return len(log) / (time.perf_counter() - started)


def main() -> None:
    server = sa.make_url(os.environ["OUTBOX_TEST_POSTGRES"])
    name = f"outbox_bench_{uuid.uuid4().hex}"
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
    try:
        url = server.set(database=name)
        upgrade(url)
        engine = sa.create_engine(url, connect_args={"options": "-c synchronous_commit=off"})
        Base.metadata.create_all(engine)
        log = deliveries(COUNT)
        gc.freeze()  # the log is the broker's, not the worker's: it is no garbage to look through
        compare(engine, log)
        engine.dispose()
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f'DROP DATABASE "{name}" WITH (FORCE)')


def compare(engine: sa.Engine, log: Sequence[Delivery]) -> None:
    contenders = {
        "by hand, no inbox": by_hand,
        "by hand, with inbox": by_hand_with_inbox,
        "worker": by_worker,
    }
    for run in contenders.values():
        run(engine, log[: 2 * BATCH])
    rounds = [[rate(run, engine, log) for run in contenders.values()] for _ in range(ROUNDS)]
    for at, name in enumerate(contenders):
        typical = statistics.median(rates[at] for rates in rounds)
        ratio = statistics.median(rates[at] / rates[0] for rates in rounds)
        print(f"{name:20s} {typical:8,.0f} msg/s  x{ratio:.2f}")


if __name__ == "__main__":
    main()
