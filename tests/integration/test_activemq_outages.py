"""A broker, a connection or a member goes away in the middle: nothing is lost or overtaken."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    HeldBackError,
    TransientError,
)
from outbox.testing import (
    by_key,
    collect,
    collect_through,
    expected,
    numbered,
    publish_all,
)
from outbox.transport import PUBLISHED, Published, Retry
from outbox.transports import activemq
from outbox.transports.activemq import publishing, receiving
from tests.waiting import eventually
from tools.servers import activemq as run_activemq

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from outbox.envelope import Envelope
    from outbox.transport import Delivery
    from outbox.transports.activemq.publishing import ActiveMqPublisher
    from outbox.transports.activemq.receiving import ActiveMqSubscriber
    from tools.servers import ActiveMqServer

TIMEOUT = 3.0
GROUP = "billing"


def new_topic() -> str:
    return f"outage-{uuid.uuid4().hex}"


def options(*brokers: str, **changed: Any) -> activemq.Options:
    values = {"brokers": ",".join(brokers), "groups": [GROUP], "heart_beat_seconds": 0.5}
    return activemq.Options.model_validate(values | changed)


def make_publisher(*brokers: str, timeout: float = TIMEOUT, **changed: Any) -> ActiveMqPublisher:
    return activemq.publisher("route", options(*brokers, **changed), timeout)


def make_subscriber(
    topic: str, *brokers: str, group: str = GROUP, **changed: Any
) -> ActiveMqSubscriber:
    return activemq.subscriber("route", options(*brokers, **changed), group, [topic])


def cut(client: ActiveMqPublisher | ActiveMqSubscriber) -> None:
    """End a client's connection, as a fire wall would."""
    assert client._link is not None
    client._link._socket.shutdown(socket.SHUT_RDWR)


def test_a_broker_killed_and_restarted_while_publishing_loses_and_reorders_nothing(
    own_activemq: ActiveMqServer,
) -> None:
    topic = new_topic()
    events = numbered(topic, 6_000, keys=50)
    is_started = threading.Event()

    def kill_and_restart() -> None:
        is_started.wait()
        own_activemq.kill()
        own_activemq.start()

    killer = threading.Thread(target=kill_and_restart)
    killer.start()
    repeated = 0
    with closing(make_publisher(own_activemq.address, in_flight=200)) as publisher:
        pending = list(events)
        deadline = time.monotonic() + 60
        while pending and time.monotonic() < deadline:
            page, rest = pending[:1000], pending[1000:]
            outcomes = publisher.publish(page)
            assert all(isinstance(outcome, Published | Retry) for outcome in outcomes)
            again = [e for e, o in zip(page, outcomes, strict=True) if isinstance(o, Retry)]
            repeated += len(again)
            pending = again + rest
            if len(pending) <= 4_000:
                is_started.set()
    killer.join()
    assert not pending
    assert repeated, "the broker was killed too late to be noticed"
    with closing(make_subscriber(topic, own_activemq.address)) as subscriber:
        assert arrivals(subscriber, events) == expected(events)


def test_a_broker_killed_and_restarted_while_receiving_loses_and_reorders_nothing(
    own_activemq: ActiveMqServer,
) -> None:
    topic = new_topic()
    events = numbered(topic, 3_000, keys=20)
    with closing(make_publisher(own_activemq.address, timeout=20)) as publisher:
        assert set(publisher.publish(events)) == {PUBLISHED}
    is_killed = False

    def kill_and_restart(missing: int) -> None:
        nonlocal is_killed
        if missing <= 1_500 and not is_killed:
            is_killed = True
            own_activemq.kill()
            own_activemq.start()

    with closing(make_subscriber(topic, own_activemq.address)) as subscriber:
        assert arrivals(subscriber, events, kill_and_restart) == expected(events)
        assert is_killed
        # The journal has the acknowledgements that were confirmed.
        assert not subscriber.receive(100, 1.0)


def arrivals(
    subscriber: ActiveMqSubscriber,
    events: Sequence[Envelope],
    between: Callable[[int], None] = lambda _: None,
) -> dict[bytes | None, list[bytes]]:
    """Receive and acknowledge until all have arrived; return their data by key, once each.

    `between` is called with how many are missing, while some are not acknowledged.
    """
    missing = {event.data for event in events}
    keys: dict[bytes | None, list[bytes]] = {}
    deadline = time.monotonic() + 60
    while missing and time.monotonic() < deadline:
        try:
            deliveries = subscriber.receive(100, 0.2)
        except TransientError:
            continue
        for delivery in deliveries:
            if delivery.message.data in missing:
                missing.discard(delivery.message.data)
                keys.setdefault(delivery.message.key, []).append(delivery.message.data)
        between(len(missing))
        subscriber.ack(deliveries)
    assert not missing, f"{len(missing)} events never arrived"
    return keys


def test_a_broker_frozen_longer_than_the_time_out_reorders_nothing(
    own_activemq: ActiveMqServer,
) -> None:
    topic = new_topic()
    events = numbered(topic, 3_000, keys=30)
    with closing(make_publisher(own_activemq.address)) as publisher:
        assert publisher.publish(events[:500]) == [PUBLISHED] * 500
        own_activemq.pause()
        started_at = time.monotonic()
        outcomes = publisher.publish(events[500:])
        assert time.monotonic() - started_at < TIMEOUT
        assert {type(o.error) for o in outcomes if isinstance(o, Retry)} == {BrokerUnavailableError}
        assert isinstance(publisher.publish(events[500:501])[0], Retry)
        own_activemq.resume()
        publish_all(publisher, events[500:])
    with closing(make_subscriber(topic, own_activemq.address)) as subscriber:
        assert arrivals(subscriber, events) == expected(events)


def test_a_large_batch_to_a_frozen_broker_is_back_in_time(own_activemq: ActiveMqServer) -> None:
    """More than the network takes is still to be sent then."""
    topic = new_topic()
    batch = numbered(topic, 40)
    large = [replaced(event, bytes(900_000)) for event in batch]
    with closing(make_publisher(own_activemq.address)) as publisher:
        assert publisher.publish(batch) == [PUBLISHED] * 40
        own_activemq.pause()
        started_at = time.monotonic()
        assert all(isinstance(outcome, Retry) for outcome in publisher.publish(large))
        assert time.monotonic() - started_at < TIMEOUT
        own_activemq.resume()


def replaced(event: Envelope, data: bytes) -> Envelope:

    return replace(event, data=data)


def test_what_there_is_no_time_for_is_not_sent_and_comes_once(
    activemq_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that there is never time for another transaction.
    monkeypatch.setattr(publishing, "_SAFETY", 1e9)
    topic = new_topic()
    events = numbered(topic, 170, keys=10)
    with closing(make_publisher(activemq_server, timeout=20, in_flight=50)) as publisher:
        for start in range(0, 170, 50):
            outcomes = publisher.publish(events[start:])
            rest = len(events) - start - 50
            assert outcomes[:50] == [PUBLISHED] * min(50, 170 - start)
            errors = [o.error for o in outcomes if isinstance(o, Retry)]
            assert [type(error) for error in errors] == [HeldBackError] * rest
    with closing(make_subscriber(topic, activemq_server)) as subscriber:
        assert by_key(collect(subscriber, 170)) == expected(events)
        assert not subscriber.receive(1, 0.2)


def test_a_broker_absent_at_the_start_is_found_when_it_comes(own_activemq: ActiveMqServer) -> None:
    topic = new_topic()
    events = numbered(topic, 10)
    own_activemq.stop()
    with (
        closing(make_publisher(own_activemq.address)) as publisher,
        closing(make_subscriber(topic, own_activemq.address)) as subscriber,
    ):
        assert all(isinstance(outcome, Retry) for outcome in publisher.publish(events))
        with pytest.raises(BrokerUnavailableError, match=own_activemq.address):
            subscriber.receive(10, 0.1)
        own_activemq.start()
        publish_all(publisher, events)
        assert arrivals(subscriber, events) == expected(events)


def test_a_broker_that_falls_silent_is_noticed_by_its_missing_heart_beats(
    own_activemq: ActiveMqServer,
) -> None:
    topic = new_topic()
    with closing(make_subscriber(topic, own_activemq.address)) as subscriber:
        assert not subscriber.receive(10, 0.1)
        own_activemq.pause()
        with pytest.raises(BrokerUnavailableError, match="silent"):
            subscriber.receive(10, 10)
        own_activemq.resume()


def test_a_worker_that_is_busy_stays_a_member(own_activemq: ActiveMqServer) -> None:
    """The heart-beats go on while it receives nothing."""
    topic = new_topic()
    events = numbered(topic, 3)
    with (
        closing(make_publisher(own_activemq.address)) as publisher,
        closing(make_subscriber(topic, own_activemq.address)) as subscriber,
        closing(make_subscriber(topic, own_activemq.address)) as other,
    ):
        publish_all(publisher, events)
        held = collect(subscriber, 3)
        # Long enough for the broker to end a connection that is silent.
        assert not other.receive(10, 3.0)
        subscriber.ack(held)
        assert not subscriber.receive(10, 0.2)


def test_connections_that_are_cut_lose_and_repeat_nothing_that_was_acknowledged(
    own_activemq: ActiveMqServer,
) -> None:
    topic = new_topic()
    events = numbered(topic, 2_000, keys=10)
    arrived: list[Delivery] = []
    with (
        closing(make_publisher(own_activemq.address)) as publisher,
        closing(make_subscriber(topic, own_activemq.address)) as subscriber,
    ):
        for start in range(0, 2_000, 200):
            publish_all(publisher, events[start : start + 200])
            cut(publisher)
            deliveries = collect_through(subscriber, 200)
            arrived += deliveries
            # It may come too late: then they come again, and are not shown.
            cut(subscriber)
            subscriber.ack(deliveries)
        assert by_key(arrived) == expected(events)
        eventually(lambda: not received_through(subscriber))
    with closing(make_subscriber(topic, own_activemq.address)) as heir:
        assert not heir.receive(10, 0.5)


def received_through(subscriber: ActiveMqSubscriber) -> Sequence[Delivery]:
    try:
        return subscriber.receive(100, 0.5)
    except TransientError:
        return ["not yet"]  # type: ignore[list-item]  # something true


def test_an_acknowledgement_of_an_outage_is_kept(own_activemq: ActiveMqServer) -> None:
    topic = new_topic()
    with closing(make_publisher(own_activemq.address)) as publisher:
        publish_all(publisher, numbered(topic, 10, keys=1))
    with closing(make_subscriber(topic, own_activemq.address)) as subscriber:
        deliveries = collect(subscriber, 10)
        own_activemq.stop()
        subscriber.ack(deliveries[:7])
        own_activemq.start()
        again = collect_through(subscriber, 3)
        assert [d.message.data for d in again] == [b"7", b"8", b"9"]
    with closing(make_subscriber(topic, own_activemq.address)) as heir:
        assert [d.message.data for d in collect(heir, 3)] == [b"7", b"8", b"9"]


def test_leaving_in_an_outage_does_not_wait_for_its_end(
    own_activemq: ActiveMqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "CLOSE_SECONDS", 1.0)
    topic = new_topic()
    with closing(make_publisher(own_activemq.address)) as publisher:
        publish_all(publisher, numbered(topic, 1))
    subscriber = make_subscriber(topic, own_activemq.address)
    deliveries = collect(subscriber, 1)
    own_activemq.pause()
    subscriber.ack(deliveries)
    started_at = time.monotonic()
    subscriber.close()
    assert time.monotonic() - started_at < 2.5
    own_activemq.resume()


def test_the_next_broker_of_the_list_takes_over(own_activemq: ActiveMqServer) -> None:
    topic = new_topic()
    first, second = numbered(topic, 20), numbered(topic, 20, first=20)
    with ExitStack() as stack:
        spare = stack.enter_context(run_activemq())
        brokers = (own_activemq.address, spare.address)
        publisher = stack.enter_context(closing(make_publisher(*brokers)))
        subscriber = stack.enter_context(closing(make_subscriber(topic, *brokers)))
        publish_all(publisher, first)
        subscriber.ack(collect(subscriber, 20))
        own_activemq.kill()
        publish_all(publisher, second)
        assert by_key(collect_through(subscriber, 20)) == expected(second)
        spare.kill()
        own_activemq.start()
        spare.start()
        publish_all(publisher, numbered(topic, 5, first=40))


def test_an_event_of_before_the_first_worker_is_kept_over_a_kill_of_the_broker(
    own_activemq: ActiveMqServer,
) -> None:
    """The broker may forget an empty queue; the relay makes it again before it publishes."""
    topic = new_topic()
    events = numbered(topic, 5)
    with closing(make_publisher(own_activemq.address)) as publisher:
        assert publisher.publish(events[:0]) == []
        publish_all(publisher, events[:2])
        own_activemq.kill()
        own_activemq.start()
        publish_all(publisher, events[2:])
    with closing(make_subscriber(topic, own_activemq.address)) as subscriber:
        assert arrivals(subscriber, events) == expected(events)


def test_a_group_that_the_route_does_not_name_may_not_receive(activemq_server: str) -> None:
    with pytest.raises(ConfigurationError, match="groups does not name 'audit'"):
        make_subscriber("any", activemq_server, group="audit")


def test_a_consumer_whose_name_has_dots_has_a_queue_of_its_own(activemq_server: str) -> None:
    topic = new_topic()
    events = numbered(topic, 5)
    groups = ["shop.billing", "shop_billing", "shop%2Ebilling"]
    with closing(make_publisher(activemq_server, groups=groups)) as publisher:
        publish_all(publisher, events)
    for group in groups:
        with closing(
            make_subscriber(topic, activemq_server, group=group, groups=groups)
        ) as subscriber:
            deliveries = collect(subscriber, 5)
            subscriber.ack(deliveries)
            assert by_key(deliveries) == expected(events)


def dead_letters(address: str) -> Sequence[Delivery]:
    plain = options(address, destination="queue", groups=[])
    with closing(activemq.subscriber("route", plain, "any", ["ActiveMQ.DLQ"])) as subscriber:
        return subscriber.receive(10, 0.3)


def test_an_event_given_back_often_stays_in_its_place_and_is_no_dead_letter_of_the_broker(
    own_activemq: ActiveMqServer,
) -> None:
    topic = new_topic()
    events = numbered(topic, 10, keys=1)
    with closing(make_publisher(own_activemq.address)) as publisher:
        publish_all(publisher, events)
    with closing(make_subscriber(topic, own_activemq.address)) as subscriber:
        for _ in range(15):
            deliveries = collect(subscriber, 10)
            assert by_key(deliveries) == expected(events)
            subscriber.nack(deliveries)
    for _ in range(15):
        with closing(make_subscriber(topic, own_activemq.address)) as subscriber:
            assert by_key(collect(subscriber, 10)) == expected(events)
    assert not dead_letters(own_activemq.address)


def test_what_members_left_behind_is_in_order_again(own_activemq: ActiveMqServer) -> None:
    """The broker puts what comes back the second time behind the rest of the first time."""
    topic = new_topic()
    events = numbered(topic, 500, keys=3)
    with closing(make_publisher(own_activemq.address)) as publisher:
        publish_all(publisher, events)
    # Members with another prefetch leave it in pieces.
    for prefetch in (400, 30, 70, 5, 200):
        subscriber = make_subscriber(topic, own_activemq.address, prefetch=prefetch)
        with closing(subscriber):
            some = collect(subscriber, 5)
            assert [d.message.data for d in some] == [b"%d" % n for n in range(5)]
    with closing(make_subscriber(topic, own_activemq.address, prefetch=10)) as subscriber:
        assert by_key(collect(subscriber, 500)) == expected(events)


def test_a_key_has_one_worker_at_a_time_however_many_keys_there_are(
    own_activemq: ActiveMqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more keys than groups whose owner the broker remembers."""
    # A member that has nothing to do gives up its keys now and then, which is no matter here.
    monkeypatch.setattr(receiving, "SHARE_SECONDS", 3600.0)
    topic = new_topic()
    members = [make_subscriber(topic, own_activemq.address, prefetch=200) for _ in range(2)]
    with ExitStack() as stack:
        for member in members:
            stack.enter_context(closing(member))
            assert not member.receive(1, 0.1)
        publisher = stack.enter_context(closing(make_publisher(own_activemq.address, timeout=30)))
        # Each key once, and then again, while nothing of the first time is acknowledged.
        events = numbered(topic, 6_000, keys=3_000)
        publish_all(publisher, events)
        shares: list[list[Delivery]] = [[], []]
        deadline = time.monotonic() + 40
        while sum(map(len, shares)) < 6_000 and time.monotonic() < deadline:
            for member, share in zip(members, shares, strict=True):
                deliveries = member.receive(100, 0.05)
                share.extend(deliveries)
                member.ack(deliveries)
        assert all(shares)
        keys = [{d.message.key for d in share} for share in shares]
        assert not keys[0] & keys[1]
        assert by_key(shares[0] + shares[1]) == expected(events)


def test_a_member_that_comes_later_gets_its_share(
    own_activemq: ActiveMqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "SHARE_SECONDS", 0.5)
    topic = new_topic()
    with (
        closing(make_publisher(own_activemq.address)) as publisher,
        closing(make_subscriber(topic, own_activemq.address)) as first,
        closing(make_subscriber(topic, own_activemq.address)) as second,
    ):
        publish_all(publisher, numbered(topic, 100, keys=50))
        first.ack(collect(first, 100))
        assert not second.receive(1, 0.1)

        def has_shared() -> bool:
            publish_all(publisher, numbered(topic, 50, keys=50))
            for member in (first, second):
                deliveries = member.receive(100, 0.3)
                member.ack(deliveries)
            return member is second and bool(deliveries)

        eventually(has_shared)
