from __future__ import annotations

import threading
import time
import uuid

import pytest

from outbox.errors import DestinationRefusedError, RecordRefusedError
from outbox.testing import collect, envelope, numbered
from outbox.transport import PUBLISHED, Dead, Retry
from outbox.transports import memory
from outbox.transports.memory import MemoryBroker


@pytest.fixture
def options() -> memory.Options:
    return memory.Options(broker=uuid.uuid4().hex)


def test_a_name_is_one_broker_for_the_whole_process() -> None:
    name = uuid.uuid4().hex
    assert MemoryBroker.named(name) is MemoryBroker.named(name)
    assert MemoryBroker.named(name) is not MemoryBroker.named(name + "x")


def test_the_chosen_error_decides_on_the_outcome(options: memory.Options) -> None:
    broker = MemoryBroker.named(options.broker)
    publisher = memory.publisher("route", options, 1)
    poison, refused = RecordRefusedError("poison"), DestinationRefusedError("refused")
    batch = [envelope("t", "a", b"poison"), envelope("t", "b", b"refused"), envelope("t", "c")]
    with (
        broker.refuse(lambda e: e.data == b"poison", poison),
        broker.refuse(lambda e: e.data == b"refused", refused),
    ):
        assert publisher.publish(batch) == [Dead(poison), Retry(refused), PUBLISHED]
    assert publisher.publish(batch) == [PUBLISHED] * 3


def test_repeating_the_last_ones_stores_them_again(options: memory.Options) -> None:
    broker = MemoryBroker.named(options.broker)
    memory.publisher("route", options, 1).publish(numbered("t", 5, keys=1))
    assert broker.repeat(2) == 2
    assert broker.repeat(0) == 0
    assert [message.data for message in broker.messages("t")] == [
        *(b"%d" % number for number in range(5)),
        b"3",
        b"4",
    ]


def test_a_waiting_member_wakes_up_for_a_message(options: memory.Options) -> None:
    subscriber = memory.subscriber("route", options, "g", ["t"])
    publisher = memory.publisher("route", options, 1)
    thread = threading.Timer(0.05, publisher.publish, [numbered("t", 1)])
    started_at = time.monotonic()
    thread.start()
    assert len(subscriber.receive(1, 30)) == 1
    assert time.monotonic() - started_at < 5
    thread.join()


def test_a_busy_partition_does_not_starve_the_others(options: memory.Options) -> None:
    publisher = memory.publisher("route", options, 1)
    publisher.publish(numbered("t", 400, keys=40))
    subscriber = memory.subscriber("route", options, "g", ["t"])
    partitions = {delivery.handle[0] for _ in range(4) for delivery in subscriber.receive(5, 1)}  # type: ignore[index]  # what it holds is the transport's own
    assert len(partitions) == 4


def test_a_member_keeps_what_it_works_on_until_it_receives_again(options: memory.Options) -> None:
    memory.publisher("route", options, 1).publish(numbered("t", 40, keys=40))
    first = memory.subscriber("route", options, "g", ["t"])
    held = collect(first, 40)
    second = memory.subscriber("route", options, "g", ["t"])
    assert not second.receive(40, 0.05)
    first.ack(held)
    assert not first.receive(40, 0)
    assert not second.receive(40, 0.05)
    memory.publisher("route", options, 1).publish(numbered("t", 40, keys=40))
    shares = [len(first.receive(40, 1)), len(second.receive(40, 1))]
    assert sum(shares) == 40
    assert all(shares)


def test_threads_publish_and_share_without_losing_any(options: memory.Options) -> None:
    received: list[bytes] = []

    def publish(first: int) -> None:
        publisher = memory.publisher("route", options, 1)
        for event in numbered("t", 250, first=first):
            publisher.publish([event])

    def work() -> None:
        subscriber = memory.subscriber("route", options, "g", ["t"])
        deadline = time.monotonic() + 20
        while len(received) < 1000 and time.monotonic() < deadline:
            deliveries = subscriber.receive(10, 0.02)
            received.extend(delivery.message.data for delivery in deliveries)
            subscriber.ack(deliveries)
        subscriber.close()

    threads = [threading.Thread(target=publish, args=[first]) for first in range(0, 1000, 250)]
    threads += [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(received) == sorted(b"%d" % number for number in range(1000))
