from __future__ import annotations

import time
import uuid
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.admin import AclOperation, NewTopic

from outbox.errors import (
    ConfigurationError,
    DestinationRefusedError,
    HeldBackError,
    RecordRefusedError,
)
from outbox.testing import by_key, collect, collect_through, envelope, expected, numbered
from outbox.transport import PUBLISHED, Dead, Retry
from outbox.transports import kafka
from outbox.transports.kafka import topics as kafka_topics
from outbox.transports.kafka.transactional import TransactionalKafkaPublisher
from tests.strict_kafka import StrictKafka, strict_kafka

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outbox.envelope import Envelope
    from outbox.transport import Outcome

pytestmark = pytest.mark.kafka

PASSWORD = "swordfish-4711"
IDENTITY = uuid.uuid4().hex


@pytest.fixture(scope="module")
def strict() -> Iterator[StrictKafka]:
    with strict_kafka(PASSWORD) as started:
        yield started


@pytest.fixture(params=["at-least-once", "exactly-once"])
def delivery(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def refusals(outcomes: Sequence[Outcome]) -> list[str]:
    """The messages of those that the destination refused."""
    return [
        str(outcome.error)
        for outcome in outcomes
        if isinstance(outcome, Retry) and isinstance(outcome.error, DestinationRefusedError)
    ]


def test_an_unknown_topic_holds_its_own_events_until_it_is_created(strict: StrictKafka) -> None:
    known, unknown = strict.topic(), f"strict-{uuid.uuid4().hex}"
    batch = [envelope(known, "a", b"1"), envelope(unknown, "b", b"2"), envelope(known, "b", b"3")]
    with closing(strict.publisher()) as publisher:
        first, second, third = publisher.publish(batch)
        assert first == PUBLISHED
        assert f"the topic {unknown!r} does not exist" in refusals([second])[0]
        assert isinstance(third, Retry)
        assert isinstance(third.error, HeldBackError)
        strict.create(unknown)
        assert publisher.publish(batch[1:]) == [PUBLISHED] * 2
    assert strict.arrived(unknown, 1) == {b"b": [b"2"]}


def test_a_topic_closed_to_writes_holds_its_own_events_until_it_is_opened(
    strict: StrictKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_topics, "REFUSED_SECONDS", 0.1)
    opened, closed = strict.topic(), strict.topic()
    batch = [envelope(closed, "a", b"1"), *numbered(opened, 5)]
    with closing(strict.publisher()) as publisher:
        strict.deny(closed, AclOperation.WRITE)
        outcomes = publisher.publish(batch)
        assert f"the topic {closed!r} is not open" in refusals(outcomes[:1])[0]
        assert outcomes[1:] == [PUBLISHED] * 5
        strict.allow_everything(closed)
        outcomes = publisher.publish(batch[:1])
        while refusals(outcomes):
            outcomes = publisher.publish(batch[:1])
        assert outcomes == [PUBLISHED]


def test_an_event_over_the_limit_of_its_topic_is_dead_before_anything_is_sent(
    strict: StrictKafka,
    delivery: str,
) -> None:
    topic = strict.topic(max_message_bytes="20000")
    batch = numbered(topic, 20, keys=4)
    batch[10] = envelope(topic, "key-2", bytes(50_000))
    with closing(strict.publisher(delivery)) as publisher:
        outcomes = publisher.publish(batch)
        dead = outcomes[10]
        assert isinstance(dead, Dead)
        assert isinstance(dead.error, RecordRefusedError)
        assert "20000" in str(dead.error)
        held = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Retry)]
        assert held == [14, 18]
        assert publisher.publish([batch[14], batch[18]]) == [PUBLISHED] * 2
    del batch[10]
    assert strict.arrived(topic, 19) == expected(batch)


@pytest.mark.parametrize("largest", [True, False], ids=["just-fits", "one-byte-over"])
def test_the_limit_is_known_to_the_byte(
    strict: StrictKafka, delivery: str, *, largest: bool
) -> None:
    topic = strict.topic(max_message_bytes="20000")
    event = envelope(topic, "k", b"", headers={"h": "v"})
    with closing(strict.publisher(delivery)) as publisher:
        low, high = 19_000, 20_000
        while high - low > 1:
            middle = (low + high) // 2
            fits = publisher.publish([changed(event, middle)]) == [PUBLISHED]
            low, high = (middle, high) if fits else (low, middle)
        outcome = publisher.publish([changed(event, low if largest else high)])[0]
    if largest:
        assert outcome == PUBLISHED
    else:
        # Ours, not the broker's: it was never sent.
        assert isinstance(outcome, Dead)
        assert "bytes of data and its headers" in str(outcome.error)


def changed(event: Envelope, size: int) -> Envelope:
    return envelope(event.topic or "", "k", bytes(size), headers={"h": "v"})


def test_many_small_events_fit_into_a_topic_with_a_small_limit(
    strict: StrictKafka, delivery: str
) -> None:
    topic = strict.topic(max_message_bytes="20000")
    batch = numbered(topic, 1000)
    with closing(strict.publisher(delivery)) as publisher:
        assert publisher.publish(batch) == [PUBLISHED] * 1000
    assert strict.arrived(topic, 1000) == expected(batch)


def test_a_limit_lowered_meanwhile_kills_only_the_event_that_is_over_it(
    strict: StrictKafka,
    delivery: str,
) -> None:
    topic = strict.topic()
    with closing(strict.publisher(delivery, timeout=10)) as publisher:
        assert publisher.publish([envelope(topic, "warm", b"0")]) == [PUBLISHED]
        strict.limit(topic, 20_000)
        batch = numbered(topic, 40, keys=40)
        batch[10] = envelope(topic, "large", bytes(50_000))
        outcomes = publisher.publish(batch)
        if delivery == "exactly-once":
            # The refusal made it ask what the topic takes now.
            assert {type(o.error) for o in outcomes if isinstance(o, Retry)} == {HeldBackError}
            outcomes = publisher.publish(batch)
    assert [i for i, outcome in enumerate(outcomes) if outcome != PUBLISHED] == [10]
    assert isinstance(outcomes[10], Dead)


def test_without_the_right_to_ask_for_limits_the_culprit_is_found_by_halves(
    strict: StrictKafka,
) -> None:
    topic = strict.topic(max_message_bytes="20000")
    strict.deny(topic, AclOperation.DESCRIBE_CONFIGS)
    batch = numbered(topic, 40, keys=40)
    batch[29] = envelope(topic, "large", bytes(50_000))
    batch[35] = envelope(topic, "large", b"held")
    with closing(strict.publisher(timeout=30)) as publisher:
        outcomes = publisher.publish(batch)
        assert [i for i, outcome in enumerate(outcomes) if outcome != PUBLISHED] == [29, 35]
        dead, held = outcomes[29], outcomes[35]
        assert isinstance(dead, Dead)
        assert isinstance(held, Retry)
        assert isinstance(held.error, HeldBackError)


def test_an_event_with_an_impossible_topic_leaves_the_earlier_ones_of_its_key_alone(
    strict: StrictKafka,
    delivery: str,
) -> None:
    topic = strict.topic()
    batch = [
        envelope(topic, "a", b"first"),
        envelope("no/name", "a", b"impossible"),
        envelope(topic, "a", b"held"),
    ]
    with closing(strict.publisher(delivery)) as publisher:
        first, impossible, held = publisher.publish(batch)
    assert first == PUBLISHED
    assert isinstance(impossible, Dead)
    assert isinstance(held, Retry)
    assert strict.arrived(topic, 1) == {b"a": [b"first"]}


def test_an_event_without_a_key_is_dead_in_a_compacted_topic(
    strict: StrictKafka, delivery: str
) -> None:
    topic = strict.topic(cleanup_policy="compact")
    batch = [envelope(topic, "a"), envelope(topic, None), envelope(topic, "b")]
    with closing(strict.publisher(delivery)) as publisher:
        outcomes = publisher.publish(batch)
    assert [outcomes[0], outcomes[2]] == [PUBLISHED] * 2
    assert isinstance(outcomes[1], Dead)
    assert "no partition key" in str(outcomes[1].error)


def test_a_transaction_waits_as_a_whole_for_a_topic_that_is_not_there(strict: StrictKafka) -> None:
    known, unknown = strict.topic(), f"strict-{uuid.uuid4().hex}"
    batch = [envelope(known, "a", b"1"), envelope(unknown, "b", b"2"), envelope(known, "b", b"3")]
    with transactional(strict) as publisher:
        outcomes = publisher.publish_with(batch, b"1")
        assert f"the topic {unknown!r} does not exist" in refusals(outcomes)[0]
        assert all(isinstance(outcome, Retry) for outcome in outcomes)
        strict.create(unknown)
        assert publisher.publish_with(batch, b"2") == [PUBLISHED] * 3
        assert publisher.take_over(IDENTITY) == b"2"
    assert strict.arrived(known, 2) == {b"a": [b"1"], b"b": [b"3"]}
    assert strict.arrived(unknown, 1) == {b"b": [b"2"]}


def test_a_right_withdrawn_in_the_middle_lets_nothing_of_a_transaction_through(
    strict: StrictKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_topics, "REFUSED_SECONDS", 0.1)
    topic = strict.topic()
    events = numbered(topic, 30, keys=3)
    with transactional(strict) as publisher:
        assert publisher.publish_with(events[:10], b"1") == [PUBLISHED] * 10
        strict.deny(topic, AclOperation.WRITE)
        outcomes = publisher.publish_with(events[10:20], b"2")
        assert f"the topic {topic!r} is not open" in refusals(outcomes)[0]
        assert publisher.take_over(IDENTITY) == b"1"
        strict.allow_everything(topic)
        while refusals(outcomes):
            outcomes = publisher.publish_with(events[10:20], b"3")
        assert outcomes == [PUBLISHED] * 10
        assert publisher.publish_with(events[20:], b"4") == [PUBLISHED] * 10
    assert strict.arrived(topic, 30) == expected(events)


def test_a_record_that_the_broker_refuses_takes_its_transaction_back(strict: StrictKafka) -> None:
    topic = strict.topic(max_message_bytes="20000")
    strict.deny(topic, AclOperation.DESCRIBE_CONFIGS)
    batch = numbered(topic, 60, keys=7)
    batch[29] = envelope(topic, "key-1", bytes(50_000))
    with transactional(strict, timeout=30) as publisher:
        before = publisher.take_over(IDENTITY)
        outcomes = publisher.publish_with(batch, b"refused")
        # It is not known which one it is, before there is only one.
        assert [type(o.error) for o in outcomes if isinstance(o, Retry)] == [HeldBackError] * 60
        (alone,) = publisher.publish_with(batch[29:30], b"refused")
        assert isinstance(alone, Dead)
        assert publisher.take_over(IDENTITY) == before
        del batch[29]
        assert publisher.publish_with(batch, b"taken") == [PUBLISHED] * 59
        assert publisher.take_over(IDENTITY) == b"taken"
    assert strict.arrived(topic, 59) == expected(batch)


def test_a_relay_that_may_not_create_its_topic_says_what_to_create(strict: StrictKafka) -> None:
    strict.deny(f"outbox-denied-{IDENTITY}", AclOperation.CREATE)
    strict.deny_cluster(AclOperation.CREATE)
    try:
        with (
            transactional(strict, "denied", begin=False) as publisher,
            pytest.raises(
                DestinationRefusedError, match=r"grant it Create.*cleanup\.policy=compact"
            ),
        ):
            publisher.take_over(IDENTITY)
    finally:
        strict.allow_cluster()


def test_a_topic_of_its_name_with_more_partitions_is_refused(strict: StrictKafka) -> None:
    name = f"outbox-wide-{IDENTITY}"
    strict.admin.create_topics([NewTopic(name, 2)])[name].result()
    with (
        transactional(strict, "wide", begin=False) as publisher,
        pytest.raises(ConfigurationError, match="has 2 partitions"),
    ):
        publisher.take_over(IDENTITY)


@contextmanager
def transactional(
    strict: StrictKafka, route: str = "route", timeout: float = 5, *, begin: bool = True
) -> Iterator[TransactionalKafkaPublisher]:
    options = kafka.Options(bootstrap_servers=strict.address)
    with closing(TransactionalKafkaPublisher(route, options, timeout)) as publisher:
        if begin:
            publisher.take_over(IDENTITY)
        yield publisher


def test_a_wrong_password_is_a_refusal_that_does_not_tell_it(
    strict: StrictKafka, caplog: pytest.LogCaptureFixture
) -> None:
    topic = strict.topic()
    wrong = login(strict, "not-" + PASSWORD)
    with closing(strict.publisher(timeout=2, **wrong)) as publisher:
        reasons = refusals(publisher.publish([envelope(topic)]))
    assert "sasl" in reasons[0]
    reader = kafka.subscriber("route", kafka.Options(**wrong), "g", [topic])
    with closing(reader) as subscriber, pytest.raises(DestinationRefusedError, match="sasl"):
        receive_until_refused(subscriber.receive)
    assert PASSWORD not in caplog.text + reasons[0] + repr(kafka.Options(**wrong))


def test_the_right_password_opens_both_sides(strict: StrictKafka, delivery: str) -> None:
    topic = strict.topic()
    right = login(strict, PASSWORD)
    with closing(strict.publisher(delivery, **right)) as publisher:
        assert publisher.publish([envelope(topic, "k", b"1")]) == [PUBLISHED]
    reader = kafka.subscriber("route", kafka.Options(**right), uuid.uuid4().hex, [topic])
    with closing(reader) as subscriber:
        assert by_key(collect(subscriber, 1)) == {b"k": [b"1"]}


def test_a_subscriber_waits_for_a_topic_that_does_not_exist_yet(strict: StrictKafka) -> None:
    topic = f"strict-{uuid.uuid4().hex}"
    options = kafka.Options(
        bootstrap_servers=strict.address, consumer={"topic.metadata.refresh.interval.ms": 500}
    )
    reader = kafka.subscriber("route", options, uuid.uuid4().hex, [topic])
    with closing(reader) as subscriber:
        assert not subscriber.receive(10, 1)
        strict.create(topic)
        with closing(strict.publisher()) as publisher:
            assert publisher.publish([envelope(topic, "k", b"1")]) == [PUBLISHED]
        assert by_key(collect_through(subscriber, 1)) == {b"k": [b"1"]}


def test_a_topic_closed_to_readers_is_a_refusal(strict: StrictKafka) -> None:
    topic = strict.topic()
    strict.deny(topic, AclOperation.READ)
    options = kafka.Options(bootstrap_servers=strict.address)
    reader = kafka.subscriber("route", options, uuid.uuid4().hex, [topic])
    with closing(reader) as subscriber, pytest.raises(DestinationRefusedError, match=topic):
        receive_until_refused(subscriber.receive)


def login(strict: StrictKafka, password: str) -> dict[str, Any]:
    return {
        "bootstrap_servers": strict.login_address,
        "client": {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_username": "app",
            "sasl_password": password,
        },
    }


def receive_until_refused(receive: Any) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert not receive(10, 0.5)
