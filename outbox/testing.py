"""The contract of transports as a test suite: subclass it, and say only how to make one.

    class TestMyTransport(PublisherContract, SubscriberContract):
        features = Features(name="mine", delivery="at-least-once", survives_restart=True)

        @pytest.fixture
        def transport(self) -> Iterator[TransportUnderTest]:
            with my_broker() as broker:
                yield MyTransportUnderTest(broker)

Every scenario rests on what the docstrings of `outbox.transport` promise, on nothing else.
"""
# ruff: noqa: S101, PLR2004  # A suite is made of assertions, and of the numbers that they expect.

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol

from outbox.codec import from_headers
from outbox.envelope import Envelope, new_id
from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    HeldBackError,
    PermanentError,
    TransientError,
)
from outbox.transport import PUBLISHED, Dead, Retry, TransactionalPublisher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from outbox.transport import Delivery, Publisher, Subscriber

TIMEOUT: Final = 6.0
"""Seconds that a publisher of the suite has for a batch."""
_PATIENCE: Final = 40.0
"""Seconds after which something that should have arrived never will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """In what transports differ, as one declares it; the suite fails where it is not so."""

    name: str
    """Of the transport, and of the way in which it is set up."""
    delivery: Literal["at-least-once", "exactly-once"]
    """Whether events are published again after a relay that died before it stored its position."""
    survives_restart: bool
    """Whether the broker still has what it stored after it was restarted."""
    has_groups: bool = True
    """Whether there may be several groups, each of which receives everything."""
    new_groups: Literal["everything", "the rest", "refused"] = "everything"
    """What a group receives that nobody knew of: all that was ever published, or what is left of it
    by chance; or it is refused, until the route's settings name it."""


class TransportUnderTest(Protocol):
    """What a transport needs to run the suite."""

    oversize: int
    """Bytes of data that the destination never takes; 900,000 must fit."""

    def topic(self) -> str:
        """Return the name of a new, empty topic with room for several keys side by side."""
        ...

    def publisher(self, timeout: float) -> Publisher:
        """Make a publisher; every envelope of the suite names its topic."""
        ...

    def subscriber(self, group: str, topic: str) -> Subscriber:
        """Make a member of a group that receives from one topic."""
        ...

    def outage(self) -> AbstractContextManager[None]:
        """Make the broker answer nobody until the block ends; what it stored stays."""
        ...

    def restart(self) -> None:
        """Kill the broker, and start it again."""
        ...


def envelope(
    topic: str | None, key: str | None = "k", data: bytes = b"{}", **changed: Any
) -> Envelope:
    """Return an event of the suite."""
    values: dict[str, Any] = {
        "id": new_id(),
        "source": "/suite",
        "type": "suite.case.ran",
        "time": datetime.now(UTC),
        "data": data,
        "partition_key": key,
        "topic": topic,
    }
    return Envelope(**(values | changed))


def numbered(topic: str, count: int, *, keys: int = 3, first: int = 0) -> list[Envelope]:
    """Return events whose data is their number, over some keys in turn."""
    return [
        envelope(topic, f"key-{number % keys}", b"%d" % number)
        for number in range(first, first + count)
    ]


def collect(subscriber: Subscriber, count: int) -> list[Delivery]:
    """Receive until there are `count` deliveries, without acknowledging any."""
    deliveries: list[Delivery] = []
    deadline = time.monotonic() + _PATIENCE
    while len(deliveries) < count and time.monotonic() < deadline:
        deliveries += subscriber.receive(count - len(deliveries), 0.2)
    assert len(deliveries) == count, f"{len(deliveries)} of {count} arrived"
    return deliveries


def by_key(deliveries: Sequence[Delivery]) -> dict[bytes | None, list[bytes]]:
    """Return the data of deliveries by their key, each as often and in the order as it came."""
    keys: dict[bytes | None, list[bytes]] = {}
    for delivery in deliveries:
        keys.setdefault(delivery.message.key, []).append(delivery.message.data)
    return keys


def expected(events: Sequence[Envelope]) -> dict[bytes | None, list[bytes]]:
    """Return the data of events by their key, in order."""
    keys: dict[bytes | None, list[bytes]] = {}
    for event in events:
        key = None if event.partition_key is None else event.partition_key.encode()
        keys.setdefault(key, []).append(event.data)
    return keys


def decoded(delivery: Delivery) -> Envelope:
    """Read the event of a delivery."""
    message = delivery.message
    return from_headers(message.key, message.headers, message.data, topic=message.topic)


@contextmanager
def publishing(transport: TransportUnderTest, timeout: float = TIMEOUT) -> Iterator[Publisher]:
    """Yield a publisher of a route of its own, and close it."""
    with closing(transport.publisher(timeout)) as publisher:
        take_over(publisher, new_id())
        yield publisher


def take_over(publisher: Publisher, route: str) -> bytes | None:
    """Become a route's publisher, as a relay does; return its progress, where that is recorded."""
    deadline = time.monotonic() + _PATIENCE
    while isinstance(publisher, TransactionalPublisher):
        try:
            return publisher.take_over(route)
        except TransientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)  # a broker that is starting needs the processor more
    return None


class PublisherContract:
    """What every publisher does."""

    features: ClassVar[Features]

    def test_each_envelope_has_an_outcome_in_order(self, transport: TransportUnderTest) -> None:
        """Outcomes stand at the places of their envelopes."""
        topic = transport.topic()
        batch = numbered(topic, 5, keys=5)
        batch[2] = envelope(topic, "large", bytes(transport.oversize))
        with publishing(transport) as publisher:
            outcomes = publisher.publish(batch)
        assert [type(outcome).__name__ for outcome in outcomes] == [
            "Published",
            "Published",
            "Dead",
            "Published",
            "Published",
        ]

    def test_an_empty_batch_has_no_outcomes(self, transport: TransportUnderTest) -> None:
        """Publishing nothing is fine."""
        with publishing(transport) as publisher:
            assert list(publisher.publish([])) == []

    def test_a_key_keeps_its_order_in_a_batch_and_over_batches(
        self, transport: TransportUnderTest
    ) -> None:
        """What was published first arrives first."""
        topic = transport.topic()
        events = numbered(topic, 300)
        with publishing(transport) as publisher:
            for start in range(0, 300, 70):
                batch = events[start : start + 70]
                assert list(publisher.publish(batch)) == [PUBLISHED] * len(batch)
        with closing(transport.subscriber("order", topic)) as subscriber:
            assert by_key(collect(subscriber, 300)) == expected(events)

    def test_an_outage_makes_nobody_dead_and_loses_nobody(
        self, transport: TransportUnderTest
    ) -> None:
        """The batch is to be published again, and then goes through."""
        topic = transport.topic()
        before, batch = numbered(topic, 30), numbered(topic, 30, first=30)
        with publishing(transport) as publisher:
            assert list(publisher.publish(before)) == [PUBLISHED] * 30
            with transport.outage():
                started_at = time.monotonic()
                outcomes = publisher.publish(batch)
                assert time.monotonic() - started_at < TIMEOUT
                assert all(isinstance(outcome, Retry) for outcome in outcomes)
                again = publisher.publish(batch)
                assert all(isinstance(outcome, Retry) for outcome in again)
            publish_all(publisher, batch)
        with closing(transport.subscriber("outage", topic)) as subscriber:
            arrived = first_arrivals(subscriber, before + batch)
        assert arrived == expected(before + batch)

    def test_a_restart_keeps_what_was_stored_or_not_as_declared(
        self, transport: TransportUnderTest
    ) -> None:
        """And whatever became of that, publishing goes on."""
        topic = transport.topic()
        before, after = numbered(topic, 30), numbered(topic, 30, first=30)
        with publishing(transport) as publisher:
            assert list(publisher.publish(before)) == [PUBLISHED] * 30
        transport.restart()
        with publishing(transport) as publisher:
            publish_all(publisher, after)
        with closing(transport.subscriber("restart", topic)) as subscriber:
            if self.features.survives_restart:
                assert first_arrivals(subscriber, before + after) == expected(before + after)
            else:
                assert by_key(collect(subscriber, 30)) == expected(after)

    def test_after_a_crash_events_come_again_or_not_as_declared(
        self, transport: TransportUnderTest
    ) -> None:
        """The relay died behind a batch that was stored, and before its position was."""
        topic = transport.topic()
        batch, more = numbered(topic, 30), numbered(topic, 30, first=30)
        route = new_id()
        # Nobody closes what died: the next one finds it still there.
        # Both have time enough: what is not confirmed in time would come again in any case.
        with closing(transport.publisher(_PATIENCE)) as died:
            assert take_over(died, route) is None
            if isinstance(died, TransactionalPublisher):
                outcomes = died.publish_with(batch, b"30")
            else:
                outcomes = died.publish(batch)
            assert list(outcomes) == [PUBLISHED] * 30
            with closing(transport.publisher(_PATIENCE)) as publisher:
                done = int(take_over(publisher, route) or 0)
                publish_all(publisher, batch[done:] + more)
        comes_again = self.features.delivery == "at-least-once"
        arriving = batch + (batch if comes_again else []) + more
        with closing(transport.subscriber("crash", topic)) as subscriber:
            assert by_key(collect(subscriber, len(arriving))) == expected(arriving)
            assert not subscriber.receive(1, 0.3)

    def test_what_the_destination_never_takes_is_dead_alone(
        self, transport: TransportUnderTest
    ) -> None:
        """Its neighbours are published; what follows of its own key is held back, unsent."""
        topic = transport.topic()
        batch = [
            envelope(topic, "other", b"1"),
            envelope(topic, "large", b"2"),
            envelope(topic, "large", bytes(transport.oversize)),
            envelope(topic, "large", b"held"),
            envelope(topic, "other", b"3"),
        ]
        with publishing(transport) as publisher:
            outcomes = publisher.publish(batch)
            assert [outcomes[i] for i in (0, 1, 4)] == [PUBLISHED] * 3
            dead, held = outcomes[2], outcomes[3]
            assert isinstance(dead, Dead)
            assert isinstance(dead.error, PermanentError)
            assert isinstance(held, Retry)
            assert isinstance(held.error, HeldBackError)
            assert list(publisher.publish([batch[3]])) == [PUBLISHED]
        with closing(transport.subscriber("dead", topic)) as subscriber:
            arrived = by_key(collect(subscriber, 4))
            assert not subscriber.receive(1, 0.3)
        assert arrived == {b"other": [b"1", b"3"], b"large": [b"2", b"held"]}

    def test_every_attribute_survives_the_round_trip(self, transport: TransportUnderTest) -> None:
        """What a worker reads is what was published."""
        topic = transport.topic()
        sent = envelope(
            topic,
            "kéy",
            b'{"a": 1}',
            version=7,
            time=datetime(2024, 2, 29, 23, 59, 59, 123456, UTC) - timedelta(microseconds=1),
            content_type="application/json; charset=utf-8",
            subject="ordér/1 ✓",
            dataschema="https://example.org/order.json",
            correlation_id="c-1",
            causation_id="c-2",
            actor="user:42",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            tracestate="a=b",
            headers={"tenant": "ünited", "empty": ""},
            sequence=4711,
        )
        assert self._round_trip(transport, sent) == sent

    def test_data_of_any_kind_survives_the_round_trip(self, transport: TransportUnderTest) -> None:
        """Data is bytes: none, not JSON, much."""
        topic = transport.topic()
        kinds = [b"", b"\x00\xff\xfe", b"x" * 900_000, "✓ü".encode()]
        batch = [
            envelope(topic, "k", data, content_type="application/octet-stream") for data in kinds
        ]
        with publishing(transport) as publisher:
            assert list(publisher.publish(batch)) == [PUBLISHED] * len(kinds)
        with closing(transport.subscriber("kinds", topic)) as subscriber:
            arrived = [delivery.message.data for delivery in collect(subscriber, len(kinds))]
        assert arrived == kinds

    def test_an_event_without_a_key_is_published(self, transport: TransportUnderTest) -> None:
        """It has no order to keep."""
        sent = envelope(transport.topic(), None, b"1")
        assert self._round_trip(transport, sent).partition_key is None

    def test_a_closed_publisher_may_be_closed_again(self, transport: TransportUnderTest) -> None:
        """Closing is idempotent, used or not."""
        publisher = transport.publisher(TIMEOUT)
        publisher.close()
        publisher.close()

    def _round_trip(self, transport: TransportUnderTest, sent: Envelope) -> Envelope:
        with publishing(transport) as publisher:
            assert list(publisher.publish([sent])) == [PUBLISHED]
        with closing(transport.subscriber("round-trip", sent.topic or "")) as subscriber:
            return decoded(collect(subscriber, 1)[0])


class SubscriberContract:
    """What every subscriber does."""

    features: ClassVar[Features]

    def test_nothing_there_returns_none_when_the_time_is_up(
        self, transport: TransportUnderTest
    ) -> None:
        """It neither returns early nor hangs."""
        with closing(transport.subscriber("idle", transport.topic())) as subscriber:
            subscriber.receive(10, 0.5)
            started_at = time.monotonic()
            assert not subscriber.receive(10, 0.5)
            assert 0.4 < time.monotonic() - started_at < 2.0

    def test_no_more_than_the_limit_comes_at_once(self, transport: TransportUnderTest) -> None:
        """The limit holds however much waits."""
        topic = self._filled(transport, numbered(transport.topic(), 20))
        with closing(transport.subscriber("limit", topic)) as subscriber:
            collect(subscriber, 1)
            assert len(subscriber.receive(7, 5)) <= 7

    def test_each_group_receives_everything(self, transport: TransportUnderTest) -> None:
        """Groups do not take from each other; where there is only one, it is done with it."""
        events = numbered(transport.topic(), 30)
        topic = self._filled(transport, events)
        for group in ("first", "second"):
            with closing(transport.subscriber(group, topic)) as subscriber:
                deliveries = collect(subscriber, 30)
                subscriber.ack(deliveries)
                assert by_key(deliveries) == expected(events)
            if not self.features.has_groups:
                break
        else:
            return
        with closing(transport.subscriber("second", topic)) as subscriber:
            assert not subscriber.receive(1, 1.0)

    def test_a_group_that_nobody_knew_of_receives_what_was_there_or_is_refused(
        self, transport: TransportUnderTest
    ) -> None:
        """It is never in doubt: either nothing is missing, or an error says what to do."""
        events = numbered(transport.topic(), 10)
        topic = self._filled(transport, events)
        try:
            subscriber = transport.subscriber(f"new-{new_id()}", topic)
        except ConfigurationError:
            assert self.features.new_groups == "refused"
            return
        with closing(subscriber):
            assert self.features.new_groups != "refused"
            assert by_key(collect(subscriber, 10)) == expected(events)

    def test_what_was_acknowledged_does_not_come_again(self, transport: TransportUnderTest) -> None:
        """The next member goes on behind the last acknowledgement."""
        events = numbered(transport.topic(), 20, keys=1)
        topic = self._filled(transport, events)
        with closing(transport.subscriber("again", topic)) as subscriber:
            deliveries = collect(subscriber, 20)
            subscriber.ack(deliveries[:12])
            subscriber.ack(deliveries[:12])
        with closing(transport.subscriber("again", topic)) as subscriber:
            rest = collect(subscriber, 8)
            assert by_key(rest) == expected(events[12:])
            subscriber.ack(rest)
        with closing(transport.subscriber("again", topic)) as subscriber:
            assert not subscriber.receive(10, 1.0)

    def test_what_was_given_back_comes_again_in_order(self, transport: TransportUnderTest) -> None:
        """With everything behind it; giving back twice is the same as once."""
        events = numbered(transport.topic(), 10, keys=1)
        topic = self._filled(transport, events)
        with closing(transport.subscriber("nack", topic)) as subscriber:
            deliveries = collect(subscriber, 10)
            subscriber.ack(deliveries[:4])
            subscriber.nack(deliveries[4:])
            subscriber.nack(deliveries[4:])
            again = collect(subscriber, 6)
            assert by_key(again) == expected(events[4:])
            subscriber.ack(again)
            assert not subscriber.receive(10, 0.5)

    def test_members_of_a_group_share_and_a_key_has_one_of_them(
        self, transport: TransportUnderTest
    ) -> None:
        """Two members that both receive get everything once, each key at one of them.

        That holds for what they acknowledge at once, and for what they keep.
        """
        topic = transport.topic()
        first = transport.subscriber("shared", topic)
        second = transport.subscriber("shared", topic)
        with closing(first), closing(second):
            shares: list[list[Delivery]] = [[], []]
            events: list[Envelope] = []
            deadline = time.monotonic() + _PATIENCE
            # New events flow until both have had some: joining takes as long as it takes.
            while not all(shares) and time.monotonic() < deadline:
                events += (flow := numbered(topic, 60, keys=20, first=len(events)))
                self._filled(transport, flow)
                self._share((first, second), shares, len(events))
            assert all(shares)
            kept: list[list[Delivery]] = [[], []]
            more = numbered(topic, 60, keys=20, first=len(events))
            self._filled(transport, more)
            self._share((first, second), kept, len(more), acknowledging=False)
            assert not [*first.receive(1, 0.3), *second.receive(1, 0.3)]
            assert by_key(kept[0] + kept[1]) == expected(more)
            assert not by_key(kept[0]).keys() & by_key(kept[1]).keys()
        arrived = by_key(shares[0] + shares[1])
        assert {key: sorted(data) for key, data in arrived.items()} == {
            key: sorted(data) for key, data in expected(events).items()
        }
        last = {data for key in expected(events).values() for data in key[-1:]}
        late = [{d.message.key for d in share if d.message.data in last} for share in shares]
        assert not late[0] & late[1]

    def test_a_member_that_leaves_hands_over_what_it_did_not_acknowledge(
        self, transport: TransportUnderTest
    ) -> None:
        """The other one receives it; acknowledgements that come too late do no harm."""
        events = numbered(transport.topic(), 12)
        topic = self._filled(transport, events)
        leaver = transport.subscriber("leaving", topic)
        held = collect(leaver, 12)
        leaver.close()
        leaver.ack(held)
        leaver.nack(held)
        leaver.close()
        with closing(transport.subscriber("leaving", topic)) as heir:
            assert by_key(collect(heir, 12)) == expected(events)

    def test_an_outage_ends_and_receiving_goes_on(self, transport: TransportUnderTest) -> None:
        """Meanwhile there is nothing, or an error that says so."""
        events = numbered(transport.topic(), 10)
        topic = self._filled(transport, events[:5])
        with closing(transport.subscriber("outage", topic)) as subscriber:
            before = collect(subscriber, 5)
            with transport.outage():
                subscriber.ack(before)
                try:
                    assert not subscriber.receive(10, 1.0)
                except BrokerUnavailableError as error:
                    assert str(error)  # noqa: PT017  # either of two answers is right
            self._filled(transport, events[5:])
            after = collect_through(subscriber, 5)
            assert by_key(after) == expected(events[5:])

    def _filled(self, transport: TransportUnderTest, events: list[Envelope]) -> str:
        # With time enough: what a slow broker does not confirm in time would be there twice.
        with publishing(transport, _PATIENCE) as publisher:
            publish_all(publisher, events)
        return events[0].topic or ""

    def _share(
        self,
        members: tuple[Subscriber, Subscriber],
        shares: list[list[Delivery]],
        count: int,
        *,
        acknowledging: bool = True,
    ) -> None:
        deadline = time.monotonic() + _PATIENCE
        while sum(map(len, shares)) < count and time.monotonic() < deadline:
            for member, share in zip(members, shares, strict=True):
                deliveries = member.receive(100, 0.1)
                share.extend(deliveries)
                if acknowledging:
                    member.ack(deliveries)


def publish_all(publisher: Publisher, batch: Sequence[Envelope]) -> None:
    """Publish until each is stored, as a relay does after an outage."""
    deadline = time.monotonic() + _PATIENCE
    while batch and time.monotonic() < deadline:
        outcomes = publisher.publish(batch)
        assert not any(isinstance(outcome, Dead) for outcome in outcomes)
        batch = [event for event, o in zip(batch, outcomes, strict=True) if isinstance(o, Retry)]
    assert not batch, f"{len(batch)} were not published after {_PATIENCE} s"


def collect_through(subscriber: Subscriber, count: int) -> list[Delivery]:
    """Like `collect`, passing over the errors of an outage that is just ending."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return collect(subscriber, count)
        except TransientError:
            if time.monotonic() > deadline:
                raise


def first_arrivals(
    subscriber: Subscriber, events: Sequence[Envelope]
) -> dict[bytes | None, list[bytes]]:
    """Receive until every event has arrived; return their data by key, without repetitions."""
    missing = {event.id for event in events}
    keys: dict[bytes | None, list[bytes]] = {}
    deadline = time.monotonic() + _PATIENCE
    while missing and time.monotonic() < deadline:
        for delivery in subscriber.receive(1000, 0.2):
            identity = decoded(delivery).id
            if identity in missing:
                missing.discard(identity)
                keys.setdefault(delivery.message.key, []).append(delivery.message.data)
    assert not missing, f"{len(missing)} events never arrived"
    return keys
