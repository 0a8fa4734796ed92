from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from outbox.errors import ConfigurationError, DestinationRefusedError, RecordRefusedError
from outbox.testing import collect, envelope, numbered
from outbox.transport import PUBLISHED, Dead, Retry
from outbox.transports import memory
from outbox.transports.memory import MemoryBroker

if TYPE_CHECKING:
    from outbox.transport import Outcome

PATIENCE = 30.0


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


def test_an_event_is_published_once_every_group_has_processed_it(options: memory.Options) -> None:
    groups = [memory.subscriber("route", options, name, ["t"]) for name in ("billing", "audit")]
    publisher = memory.publisher("route", options, PATIENCE)
    batch = numbered("t", 8)
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.extend(publisher.publish(batch)))
    thread.start()
    received = [collect(subscriber, 8) for subscriber in groups]
    groups[0].ack(received[0])
    groups[1].ack(received[1][:7])
    thread.join(0.05)
    assert thread.is_alive(), "one event of one group is missing"
    groups[1].ack(received[1][7:])
    thread.join(PATIENCE)
    assert outcomes == [PUBLISHED] * 8


def test_what_is_not_processed_in_time_is_retried_without_being_stored_twice(
    options: memory.Options,
) -> None:
    subscriber = memory.subscriber("route", options, "billing", ["t"])
    publisher = memory.publisher("route", options, 0.05)
    batch = [*numbered("t", 3, keys=1), envelope("other", "free")]
    *late, free = publisher.publish(batch)
    assert [str(each.error) for each in late if isinstance(each, Retry)] == [
        "not yet processed by billing; it is stored in memory"
    ] * 3
    assert free == PUBLISHED, "no group receives its topic"
    subscriber.ack(collect(subscriber, 3)[:2])
    assert [isinstance(each, Retry) for each in publisher.publish(batch[:3])] == [0, 0, 1]
    subscriber.ack(subscriber.receive(9, 0))
    assert [m.data for m in MemoryBroker.named(options.broker).messages("t")] == [b"0", b"1", b"2"]


def test_a_full_partition_makes_publishers_wait_and_names_the_slowest(
    options: memory.Options,
) -> None:
    options = options.model_copy(
        update={"capacity": 4, "partitions": 1, "published_when": "stored"}
    )
    slow = memory.subscriber("route", options, "slow", ["t"])
    quick = memory.subscriber("route", options, "quick", ["t"])
    publisher = memory.publisher("route", options, 0.05)
    batch = numbered("t", 5, keys=1)
    *stored, refused = publisher.publish(batch)
    assert stored == [PUBLISHED] * 4
    assert isinstance(refused, Retry)
    quick.ack(collect(quick, 4))
    (refused,) = publisher.publish(batch[4:])
    assert isinstance(refused, Retry)
    expected = "partition 0 of the in-memory topic 't' is full: 4 messages wait for slow"
    assert str(refused.error) == expected
    slow.ack(collect(slow, 4)[:1])
    assert publisher.publish(batch[4:]) == [PUBLISHED]
    assert [d.message.data for d in collect(slow, 1) + collect(quick, 1)] == [b"4", b"4"]


def test_without_groups_the_oldest_messages_make_room(options: memory.Options) -> None:
    options = options.model_copy(update={"capacity": 4, "partitions": 1})
    publisher = memory.publisher("route", options, 1)
    assert publisher.publish(numbered("t", 9, keys=1)) == [PUBLISHED] * 9
    late = memory.subscriber("route", options, "late", ["t"])
    assert [d.message.data for d in collect(late, 4)] == [b"5", b"6", b"7", b"8"]


def test_a_declared_group_misses_nothing_before_it_joins(options: memory.Options) -> None:
    options = memory.Options(
        broker=options.broker, capacity=4, partitions=1, groups={"billing": "shop.*"}
    )
    publisher = memory.publisher("route", options, 0.05)
    batch = numbered("shop.order", 5, keys=1)
    assert not [each for each in publisher.publish(batch) if each == PUBLISHED]
    assert publisher.publish(numbered("stock", 5, keys=1)) == [PUBLISHED] * 5
    billing = memory.subscriber("route", options, "billing", ["shop.order"])
    assert [d.message.data for d in collect(billing, 4)] == [b"0", b"1", b"2", b"3"]


def test_a_group_after_another_sees_what_that_one_has_processed(options: memory.Options) -> None:
    groups = {"journal": ["t"], "billing": ["t", "b"], "audit": ["*"]}
    options = memory.Options(
        broker=options.broker,
        partitions=1,
        published_when="stored",
        groups=groups,
        after={"audit": "billing", "billing": ["journal"]},
    )
    audit, billing, journal = (
        memory.subscriber("route", options, name, ["t"]) for name in ("audit", "billing", "journal")
    )
    memory.publisher("route", options, 1).publish(numbered("t", 3, keys=1))
    assert not audit.receive(9, 0.05)
    assert not billing.receive(9, 0.05)
    journal.ack(collect(journal, 3)[:2])
    held = collect(billing, 2)
    assert not billing.receive(9, 0.05)
    billing.ack(held[:1])
    assert [d.message.data for d in audit.receive(9, 1)] == [b"0"]


def test_a_group_that_is_forgotten_holds_up_nobody(options: memory.Options) -> None:
    subscriber = memory.subscriber("route", options, "gone", ["t"])
    publisher = memory.publisher("route", options, 0.05)
    batch = numbered("t", 3)
    subscriber.close()
    assert not [each for each in publisher.publish(batch) if each == PUBLISHED]
    MemoryBroker.named(options.broker).forget("gone")
    assert publisher.publish(batch) == [PUBLISHED] * 3


def test_a_closed_broker_takes_nothing_and_waits_for_what_it_has(options: memory.Options) -> None:
    broker = MemoryBroker.named(options.broker)
    subscriber = memory.subscriber("route", options, "billing", ["t"])
    publisher = memory.publisher("route", options, 0.05)
    publisher.publish(numbered("t", 4))
    assert not broker.close(0.05)
    (refused,) = publisher.publish(numbered("t", 1))
    assert isinstance(refused, Retry)
    assert str(refused.error) == "the in-memory broker is closed"
    subscriber.ack(collect(subscriber, 4))
    assert broker.close(0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"capacity": 1000}, "use a power of two"),
        ({"wait": "sleep"}, "'block', 'yield' or 'spin'"),
        ({"after": {"audit": "billing"}}, "after names the group 'audit': list it in groups"),
        (
            {
                "groups": {"a": "*", "b": "*", "c": "*"},
                "after": {"a": "b", "b": ["c", "a"]},
            },
            "goes round in a circle: ",
        ),
    ],
)
def test_wrong_options_are_told(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        memory.Options(**wrong)


def test_routes_of_one_broker_agree_about_it(options: memory.Options) -> None:
    memory.publisher("route", options, 1)
    with pytest.raises(ConfigurationError, match=r"made with capacity = 4096, not 8"):
        memory.publisher("route", options.model_copy(update={"capacity": 8}), 1)
