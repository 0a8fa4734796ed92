"""Groups on S3: members share, die and come back; what is deleted or foreign stops nobody."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

from outbox.errors import ConfigurationError, DecodeError, UsageError
from outbox.testing import by_key, collect, decoded, envelope, expected, numbered, publish_all
from outbox.transports import s3

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope
    from outbox.transport import Delivery
    from outbox.transports.s3.receiving import S3Subscriber
    from tests.fix_s3 import Bucket

MEMBER_SECONDS = 2


def member(bucket: Bucket, group: str, *topics: str, **changed: Any) -> S3Subscriber:
    quick = {"member_seconds": MEMBER_SECONDS, "partitions": 12, "poll_seconds": 0.1}
    options = s3.Options(**(bucket.options | quick | changed))
    return s3.subscriber("route", options, group, topics or ("t",))


def fill(bucket: Bucket, events: Sequence[Envelope], **changed: Any) -> None:
    options = s3.Options(**(bucket.options | changed))
    with closing(s3.publisher("route", options, 20.0)) as publisher:
        publish_all(publisher, events)


def owned(each: S3Subscriber) -> int:
    return sum(len(membership.owned) for membership in each._memberships.values())


def test_a_member_that_dies_is_replaced_and_its_unacknowledged_events_come_again(
    bucket: Bucket,
) -> None:
    """Three members of one group, one of which falls silent with events; another group has all."""
    events = numbered("t", 60, keys=20)
    fill(bucket, events)
    with ExitStack() as stack:
        dead, *living = (member(bucket, "g") for _ in range(3))
        for each in living:
            stack.callback(each.close)
        deadline = time.monotonic() + 30
        received: list[list[Delivery]] = [[], [], []]
        while sorted(map(owned, (dead, *living))) != [4, 4, 4] and time.monotonic() < deadline:
            for each, got in zip((dead, *living), received, strict=True):
                each.ack(deliveries := each.receive(3, 0.1))
                got.extend(deliveries)
        assert sorted(map(owned, (dead, *living))) == [4, 4, 4]
        more = numbered("t", 60, keys=20, first=60)
        fill(bucket, more)
        held = collect(dead, 1)
        # It is never called again, as after kill -9; it has acknowledged nothing of these.
        got = [delivery for each in received for delivery in each]
        while owned(living[0]) + owned(living[1]) < 12 or len(by_id(got)) < 120:
            assert time.monotonic() < deadline + 30
            for each in living:
                each.ack(deliveries := each.receive(100, 0.1))
                got.extend(deliveries)
    assert held[0].message.data in {delivery.message.data for delivery in got}
    first_arrivals = {key: list(dict.fromkeys(data)) for key, data in by_key(got).items()}
    assert first_arrivals == expected(events + more)
    with closing(member(bucket, "other")) as other:
        assert by_key(collect(other, 120)) == expected(events + more)
    dead.close()


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_data_with_line_breaks_arrives_as_it_was_emitted(bucket: Bucket, compression: str) -> None:
    data = [b'{\n "a": 1,\n "b": [2,\r\n3]\n}\n', b"\n\n{}", b"no JSON\n\n", b""]
    fill(bucket, [envelope("t", data=each) for each in data], compression=compression)
    with closing(member(bucket, "g")) as subscriber:
        deliveries = collect(subscriber, 4)
    assert sorted(delivery.message.data for delivery in deliveries) == sorted(data)


def by_id(deliveries: Sequence[Delivery]) -> set[str]:
    return {decoded(delivery).id for delivery in deliveries}


def test_a_member_that_was_dropped_comes_back_and_its_acknowledgement_moves_nothing(
    bucket: Bucket,
) -> None:
    events = numbered("t", 12, keys=1)
    fill(bucket, events)
    with closing(member(bucket, "g")) as frozen, closing(member(bucket, "g")) as heir:
        held = collect(frozen, 12)
        again: list[Delivery] = []
        deadline = time.monotonic() + 30
        while len(again) < 12 and time.monotonic() < deadline:
            again += heir.receive(100, 0.2)
        assert by_key(again) == expected(events)
        heir.ack(again[:5])
        frozen.ack(held)
        assert not frozen.receive(100, 0.3)
        frozen.ack(held)
    with closing(member(bucket, "g")) as last:
        assert by_key(collect(last, 7)) == expected(events[5:])


def test_a_dropped_member_that_gets_its_partitions_back_begins_where_the_group_is(
    bucket: Bucket,
) -> None:
    events = numbered("t", 12, keys=1)
    fill(bucket, events)
    with closing(member(bucket, "g")) as frozen:
        held = collect(frozen, 12)
        with closing(member(bucket, "g")) as heir:
            again: list[Delivery] = []
            deadline = time.monotonic() + 30
            while len(again) < 12 and time.monotonic() < deadline:
                again += heir.receive(100, 0.2)
            heir.ack(again[:5])
        rest = collect(frozen, 7)
        assert by_key(rest) == expected(events[5:])
        assert held[5].place == rest[0].place


def test_a_topic_that_is_added_to_a_group_is_read_from_its_beginning(bucket: Bucket) -> None:
    one, two = numbered("one", 9), numbered("two", 9, first=100)
    fill(bucket, [*one, *two])
    with closing(member(bucket, "g", "one")) as subscriber:
        deliveries = collect(subscriber, 9)
        assert by_key(deliveries) == expected(one)
        subscriber.ack(deliveries)
    with closing(member(bucket, "g", "one", "two")) as subscriber:
        assert by_key(collect(subscriber, 9)) == expected(two)


def test_another_number_of_partitions_is_refused(bucket: Bucket) -> None:
    with closing(member(bucket, "g")) as subscriber:
        subscriber.receive(1, 0)
    with (
        closing(member(bucket, "g", partitions=5)) as other,
        pytest.raises(ConfigurationError, match="12 partitions, not 5"),
    ):
        other.receive(1, 0)


def test_entries_that_were_deleted_are_passed_over(bucket: Bucket) -> None:
    batches = [numbered("t", 3, keys=1, first=3 * n) for n in range(4)]
    for batch in batches:
        fill(bucket, batch)
    client = bucket.client
    for key in bucket.object_keys("_log/")[:2]:
        client.delete_object(Bucket=bucket.name, Key=key)
    with closing(member(bucket, "g")) as subscriber:
        assert by_key(collect(subscriber, 6)) == expected(batches[2] + batches[3])


def test_an_object_that_was_deleted_is_delivered_as_what_is_no_event(bucket: Bucket) -> None:
    events = numbered("t", 3, keys=1)
    fill(bucket, events)
    (key,) = [key for key in bucket.data_keys() if events[1].id in key]
    bucket.client.delete_object(Bucket=bucket.name, Key=key)
    with closing(member(bucket, "g")) as subscriber:
        first, absent, third = collect(subscriber, 3)
        assert [first.message.data, third.message.data] == [b"0", b"2"]
        with pytest.raises(DecodeError):
            decoded(absent)
        assert absent.place == f"{key}#0"


def test_a_large_backlog_is_read_in_order(bucket: Bucket) -> None:
    """Many entries, each with a few events, and few that are wanted."""
    events = [envelope("t" if n % 5 else "other", f"k{n % 3}", b"%d" % n) for n in range(200)]
    options = s3.Options(**bucket.options)
    with closing(s3.publisher("route", options, 20.0)) as publisher:
        for start in range(0, 200, 4):
            publish_all(publisher, events[start : start + 4])
    wanted = [event for event in events if event.topic == "t"]
    with closing(member(bucket, "g")) as subscriber:
        arrived: list[Delivery] = []
        while len(arrived) < len(wanted):
            deliveries = subscriber.receive(7, 10)
            assert 0 < len(deliveries) <= 7
            subscriber.ack(deliveries)
            arrived += deliveries
    assert by_key(arrived) == expected(wanted)


def test_a_prefix_keeps_routes_apart(bucket: Bucket) -> None:
    events = numbered("t", 3)
    fill(bucket, events, prefix="shop")
    assert all(key.startswith("shop/") for key in bucket.object_keys())
    with closing(member(bucket, "g", prefix="shop")) as subscriber:
        assert by_key(collect(subscriber, 3)) == expected(events)
    with closing(member(bucket, "g", prefix="other")) as subscriber:
        assert not subscriber.receive(10, 0.3)


def test_a_closed_member_does_not_receive(bucket: Bucket) -> None:
    subscriber = member(bucket, "g")
    subscriber.close()
    with pytest.raises(UsageError):
        subscriber.receive(1, 0)
