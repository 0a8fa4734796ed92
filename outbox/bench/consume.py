"""`outbox bench consume`: a worker with an inbox, beside a loop by hand without one.

All take the same events in batches and insert one row for each by the ORM, a transaction a batch.
From memory shows what the worker itself costs; from Kafka is what a deployment sees, with the
client's own work in each figure. The clock starts with the first batch, so that joining a group is
in no figure, and ends when the last batch is committed. Commits do not wait for the disk.
"""

from __future__ import annotations

import gc
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import sqlalchemy as sa
from confluent_kafka import Producer

from outbox.bench.handwritten import consume as handwritten
from outbox.bench.place import quick
from outbox.bench.report import Series
from outbox.bench.rounds import taken
from outbox.bench.shop import Base, Invoice, OrderPlaced, order_placed
from outbox.codec import to_headers
from outbox.consumer import Consumer
from outbox.envelope import Envelope, new_id
from outbox.settings import ConsumerSettings, RouteSettings
from outbox.transport import Delivery, Message
from outbox.transports import receiving_transport_of
from outbox.worker import Worker, spare_collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from outbox.bench.handwritten.consume import Raw
    from outbox.bench.place import Place
    from outbox.bench.report import Figures
    from outbox.context import Context
    from outbox.transport import Subscriber

BY_HAND: Final = "by hand"
SHORT, SHORTER = 4, 10
"""From memory a turn is so many batches, and there are so many times more of them, because a
machine changes its pace between long ones; a group takes too long to join for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured."""

    count: int = 20_000
    """Events."""
    size: int = 200
    """Bytes of data of one event."""
    batch: int = 500
    """Events in one transaction."""
    rounds: int = 5


def measure(place: Place, plan: Plan, tell: Callable[[str], None]) -> Iterator[Series]:
    """Measure from memory and from Kafka; yield a series for each."""
    engine = sa.create_engine(quick(place.url))
    try:
        Base.metadata.create_all(engine)
        log = _deliveries(plan)
        gc.freeze()  # the log is the broker's, not the worker's: it is no garbage to look through
        turn = log[: SHORT * plan.batch]
        short = replace(plan, count=len(turn), rounds=SHORTER * plan.rounds)
        yield _series(engine, Memory(turn, plan.batch), "memory", short, tell)
        with _kafka(place, log, plan) as topic:
            yield _series(engine, topic, "Kafka", plan, tell)
    finally:
        engine.dispose()


def _series(
    engine: sa.Engine, source: Source, name: str, plan: Plan, tell: Callable[[str], None]
) -> Series:
    rounds = []
    for number in range(plan.rounds + 1):  # the first one only warms up
        tell(f"from {name}: round {number} of {plan.rounds}")
        turns = {each: partial(run, engine, source, plan) for each, run in CONTENDERS.items()}
        rounds.append(taken(turns, number))
    return Series(
        kind="consume",
        where={"from": name, "events": plan.count, "batch": plan.batch},
        rounds=rounds[1:],
        ratios=("messages_per_second",),
    )


class Source(Protocol):
    """Where the events come from, anew for each contender."""

    def batches(self) -> Iterable[list[Raw]]:
        """Return headers and data, for a loop by hand."""
        ...

    def subscriber(self, group: str) -> Subscriber:
        """Return what a worker receives from."""
        ...


class Memory:
    """A list of deliveries."""

    def __init__(self, log: Sequence[Delivery], batch: int) -> None:
        """Keep them, to be given out so many at a time."""
        self._log = log
        self._batch = batch

    def batches(self) -> Iterable[list[Raw]]:
        """Return headers and data, for a loop by hand."""
        for start in range(0, len(self._log), self._batch):
            batch = self._log[start : start + self._batch]
            yield [(each.message.headers, each.message.data) for each in batch]

    def subscriber(self, group: str) -> Subscriber:
        """Return what a worker receives from."""
        del group
        return ListSubscriber(self._log)


class ListSubscriber:
    """Delivers a list."""

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self._deliveries = deliveries
        self._next = 0

    def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
        """Return the next ones."""
        del timeout
        found = self._deliveries[self._next : self._next + limit]
        self._next += len(found)
        return found

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        """Nobody has to know."""

    def nack(self, deliveries: Sequence[Delivery], /) -> None:
        """Nothing is given back here."""
        raise NotImplementedError

    def close(self) -> None:
        """Let the list go."""
        self._deliveries = []


class Kafka:
    """A topic that holds the events."""

    def __init__(self, place: Place, topic: str, plan: Plan) -> None:
        self._place = place
        self._topic = topic
        self._plan = plan

    def batches(self) -> Iterable[list[Raw]]:
        """Return headers and data, for a loop by hand."""
        kafka = self._place.broker.config
        return handwritten.from_kafka(kafka, self._topic, self._plan.batch, self._plan.count)

    def subscriber(self, group: str) -> Subscriber:
        """Return what a worker receives from."""
        route = self._place.broker.route(self._topic, self._place.broker.delivery)
        settings = RouteSettings.model_validate(route)
        transport, options = receiving_transport_of(self._topic, settings)
        return transport.subscriber(self._topic, options, group, [self._topic])


@contextmanager
def _kafka(place: Place, log: Sequence[Delivery], plan: Plan) -> Iterator[Kafka]:
    """Put the events into a topic."""
    with place.broker.topic("consume") as topic:
        producer = Producer({**place.broker.config, "linger.ms": 5})
        for each in log:
            message = each.message
            producer.produce(topic, message.data, message.key, headers=list(message.headers))
            producer.poll(0)
        producer.flush()
        yield Kafka(place, topic, plan)


class Timed:
    """A subscriber that notes when the first batch came, and stops the worker at the end."""

    def __init__(self, own: Subscriber, count: int, stop: threading.Event) -> None:
        self._own = own
        self._left = count
        self._stop = stop
        self._started: float | None = None
        self.seconds = 0.0

    def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
        """Receive."""
        found = self._own.receive(limit, timeout)
        if found and self._started is None:
            self._started = time.perf_counter()
        return found

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        """Acknowledge; the last one ends it."""
        self._own.ack(deliveries)
        self._left -= len(deliveries)
        if self._left <= 0 and self._started is not None:
            self._stop.set()
            self.seconds = time.perf_counter() - self._started

    def nack(self, deliveries: Sequence[Delivery], /) -> None:
        """Give back."""
        self._own.nack(deliveries)

    def close(self) -> None:
        """Close."""
        self._own.close()


class Clock:
    """Passes batches on, and measures from the first one to the commit of the last."""

    def __init__(self, batches: Iterable[list[Raw]]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[list[Raw]]:
        started: float | None = None
        for batch in self._batches:
            if started is None:
                started = time.perf_counter()
            yield batch
            self.seconds = time.perf_counter() - started


def _by_hand(engine: sa.Engine, source: Source, plan: Plan) -> Figures:
    clock = Clock(source.batches())
    handwritten.without_inbox(engine, clock)
    return _rate(plan, clock.seconds)


def _by_hand_with_inbox(engine: sa.Engine, source: Source, plan: Plan) -> Figures:
    clock = Clock(source.batches())
    handwritten.with_inbox(engine, clock)
    return _rate(plan, clock.seconds)


def _by_worker(engine: sa.Engine, source: Source, plan: Plan) -> Figures:
    consumer = Consumer(f"outbox_bench_{uuid.uuid4()}", database=engine)

    @consumer.on(OrderPlaced)
    def charge(event: OrderPlaced, context: Context) -> None:
        context.session.add(Invoice(order_id=event.order_id, cents=event.total_cents))

    stop = threading.Event()
    subscriber = Timed(source.subscriber(consumer.name), plan.count, stop)
    threshold = gc.get_threshold()
    spare_collector()  # as `outbox consume` does
    try:
        Worker(consumer, subscriber, ConsumerSettings(batch_size=plan.batch)).run(stop)
    finally:
        gc.set_threshold(*threshold)
    return _rate(plan, subscriber.seconds)


CONTENDERS: Final[dict[str, Callable[[sa.Engine, Source, Plan], Figures]]] = {
    BY_HAND: _by_hand,
    "by hand, with inbox": _by_hand_with_inbox,
    "worker": _by_worker,
}


def _rate(plan: Plan, seconds: float) -> dict[str, Any]:
    return {"messages_per_second": plan.count / seconds}


def _deliveries(plan: Plan) -> list[Delivery]:
    made = []
    for number in range(plan.count):
        envelope = Envelope(
            id=new_id(),
            source="/bench",
            type="outbox.bench.order.placed",
            time=datetime.now(UTC),
            data=order_placed(number, plan.size).model_dump_json().encode(),
        )
        key = f"o-{number % 1000:03}".encode()
        message = Message("bench", key, to_headers(envelope), envelope.data)
        made.append(Delivery(message, f"bench[0]@{number}", number))
    return made
