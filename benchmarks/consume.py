"""A worker with an inbox beside a hand-written loop without one.

    python -m tools.servers --postgres --kafka -- python -m benchmarks.consume

All take the same events, 500 at a time, and insert one row for each with the ORM, a transaction a
batch. From memory shows what the worker itself costs; from Kafka is what a deployment sees, with
the client's own work in each figure. By hand is what one writes who knows the libraries: one
transaction a batch, the event class validated, offsets committed without waiting for the answer.
The clock starts with the first batch, so that joining a group is in no figure.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import sqlalchemy as sa
from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import outbox
from outbox.codec import to_headers
from outbox.consumer import Consumer
from outbox.envelope import Envelope, new_id
from outbox.inbox import claim
from outbox.migration import upgrade
from outbox.settings import ConsumerSettings, RouteSettings
from outbox.transport import Delivery, Message
from outbox.transports import transport_of
from outbox.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outbox.context import Context
    from outbox.transport import Subscriber

    Raw = tuple[Any, Any]

BATCH = 500
COUNT = 20_000


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


@dataclass
class Clock:
    """When a contender had its first batch."""

    started: float | None = None

    def start(self) -> None:
        if self.started is None:
            self.started = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - (self.started or 0.0)


class Source(Protocol):
    """Where the events come from, anew for each contender."""

    def batches(self, group: str, clock: Clock) -> Iterator[list[Raw]]:
        """Yield headers and data, for a loop by hand."""
        ...

    def subscriber(self, group: str) -> Subscriber:
        """Return what a worker receives from."""
        ...


class Memory:
    """A list of deliveries."""

    def __init__(self, log: Sequence[Delivery]) -> None:
        self._log = log

    def batches(self, group: str, clock: Clock) -> Iterator[list[Raw]]:
        del group
        clock.start()
        for start in range(0, len(self._log), BATCH):
            batch = self._log[start : start + BATCH]
            yield [(each.message.headers, each.message.data) for each in batch]

    def subscriber(self, group: str) -> Subscriber:
        del group
        return ListSubscriber(self._log)


class ListSubscriber:
    """Delivers a list."""

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self._deliveries = deliveries
        self._next = 0

    def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
        del timeout
        found = self._deliveries[self._next : self._next + limit]
        self._next += len(found)
        return found

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        pass

    def nack(self, deliveries: Sequence[Delivery], /) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._deliveries = []


class Kafka:
    """A topic of one partition."""

    def __init__(self, servers: str, topic: str, log: Sequence[Delivery]) -> None:
        self._servers = servers
        self._topic = topic
        self._count = len(log)
        self._admin = AdminClient({"bootstrap.servers": servers})
        self._admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()
        producer = Producer({"bootstrap.servers": servers, "linger.ms": 5})
        for each in log:
            message = each.message
            producer.produce(topic, message.data, message.key, headers=list(message.headers))
        producer.flush()

    def batches(self, group: str, clock: Clock) -> Iterator[list[Raw]]:
        consumer = KafkaConsumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        consumer.subscribe([self._topic])
        left = self._count
        while left > 0:
            messages = [each for each in consumer.consume(BATCH, 1.0) if not each.error()]
            if messages:
                clock.start()
                yield [(each.headers(), each.value()) for each in messages]
                consumer.commit(message=messages[-1], asynchronous=True)
                left -= len(messages)
        consumer.close()

    def subscriber(self, group: str) -> Subscriber:
        transport, options = transport_of("bench", RouteSettings.model_validate(self._route()))
        return transport.subscriber("bench", options, group, [self._topic])

    def _route(self) -> dict[str, str]:
        return {"transport": "kafka", "bootstrap_servers": self._servers, "topic": self._topic}

    def drop(self) -> None:
        self._admin.delete_topics([self._topic])[self._topic].result()


class Timed:
    """A subscriber that starts the clock, and stops the worker at the end."""

    def __init__(self, own: Subscriber, count: int, clock: Clock, stop: threading.Event) -> None:
        self._own = own
        self._left = count
        self._clock = clock
        self._stop = stop
        self.seconds = 0.0

    def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
        found = self._own.receive(limit, timeout)
        if found:
            self._clock.start()
        return found

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        self._own.ack(deliveries)
        self._left -= len(deliveries)
        if self._left <= 0:
            self._stop.set()
            self.seconds = self._clock.seconds()

    def nack(self, deliveries: Sequence[Delivery], /) -> None:
        self._own.nack(deliveries)

    def close(self) -> None:
        self._own.close()


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


def by_hand(engine: sa.Engine, source: Source, clock: Clock, _count: int) -> float:
    """Do what one would write without a library, and without an inbox, for the same event class."""
    for batch in source.batches(f"hand-{uuid.uuid4()}", clock):
        with Session(engine) as session, session.begin():
            handle_by_hand(session, batch)
        seconds = clock.seconds()
    return seconds


def by_hand_with_inbox(engine: sa.Engine, source: Source, clock: Clock, _count: int) -> float:
    """Do the same with a claim, and nothing for failures, order or letters."""
    name = f"hand-{uuid.uuid4()}"
    for messages in source.batches(name, clock):
        with Session(engine) as session, session.begin():
            batch = {}
            for message in messages:
                headers = dict(message[0])
                batch[headers["ce_source"].decode(), headers["ce_id"].decode()] = message
            fresh = claim(session.connection(), name, batch)
            handle_by_hand(session, [batch[each] for each in batch if each in fresh])
        seconds = clock.seconds()
    return seconds


def handle_by_hand(session: Session, messages: Sequence[Raw]) -> None:
    for headers, data in messages:
        if dict(headers)["ce_type"] == b"bench.order.placed":
            event = OrderPlaced.model_validate_json(data)
            session.add(Invoice(order_id=event.order_id, cents=event.total_cents))


def by_worker(engine: sa.Engine, source: Source, clock: Clock, count: int) -> float:
    consumer = Consumer(f"bench-{uuid.uuid4()}", database=engine)

    @consumer.on(OrderPlaced)
    def charge(event: OrderPlaced, context: Context) -> None:
        context.session.add(Invoice(order_id=event.order_id, cents=event.total_cents))

    stop = threading.Event()
    subscriber = Timed(source.subscriber(consumer.name), count, clock, stop)
    Worker(consumer, subscriber, ConsumerSettings(batch_size=BATCH)).run(stop)
    return subscriber.seconds


CONTENDERS = {
    "by hand, no inbox": by_hand,
    "by hand, with inbox": by_hand_with_inbox,
    "worker": by_worker,
}


def measure(engine: sa.Engine, source: Source, count: int, rounds: int) -> dict[str, list[float]]:
    """Return messages a second by contender, one figure a round; the first round is dropped."""
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds + 1):
        for name, run in CONTENDERS.items():
            rates[name].append(count / run(engine, source, Clock(), count))
    return {name: found[1:] for name, found in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("OUTBOX_TEST_POSTGRES"))
    parser.add_argument("--kafka", default=os.environ.get("OUTBOX_TEST_KAFKA"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    server = sa.make_url(options.url)
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
        # Short turns, because the machine's pace changes; a group takes too long to join for that.
        turn = log[: 4 * BATCH]
        report("memory", measure(engine, Memory(turn), len(turn), 10 * options.rounds))
        if options.kafka:
            topic = Kafka(options.kafka, name, log)
            try:
                report("Kafka", measure(engine, topic, COUNT, options.rounds))
            finally:
                topic.drop()
        engine.dispose()
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f'DROP DATABASE "{name}" WITH (FORCE)')


def report(source: str, rates: dict[str, list[float]]) -> None:
    """Print the medians, and the median of each round's ratio to the loop without an inbox."""
    ceiling = rates["by hand, no inbox"]
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(found, ceiling, strict=True))
        print(f"{source:7s} {name:20s} {statistics.median(found):8,.0f} msg/s  x{ratio:.2f}")


if __name__ == "__main__":
    main()
