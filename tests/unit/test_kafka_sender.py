from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

from outbox.transports.kafka.sender import Failure, Sender

if TYPE_CHECKING:
    from outbox.transports.kafka.encode import Record

KEYS = [b"k%d" % place for place in range(4)]


class FakeProducer:
    """A producer that reports the failures that it is told to, at the first flush."""

    def __init__(self, failures: dict[bytes | None, int] | None = None, *, left: int = 0) -> None:
        self.failures = failures or {}
        self.left = left
        self.is_full_for = 0
        self.raises_at: int | None = None
        self.produced: list[bytes] = []
        self.purges = 0
        self._report: Any = None

    def make(self, on_delivery: Any) -> Any:
        self._report = on_delivery
        return self

    def produce(self, _topic: str, _data: bytes, key: bytes, *_rest: object) -> None:
        if self.is_full_for:
            self.is_full_for -= 1
            raise BufferError
        if len(self.produced) == self.raises_at:
            raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
        self.produced.append(key)

    def poll(self, _timeout: float) -> int:
        return 0

    def flush(self, _timeout: float) -> int:
        for key, code in self.failures.items():
            message = SimpleNamespace(
                topic=lambda: "t", key=lambda key=key: key, value=lambda: b"data"
            )
            self._report(KafkaError(code), message)
        self.failures = {}
        return self.left

    def purge(self, **_: bool) -> None:
        self.purges += 1
        self.left = 0


def send(producer: FakeProducer, seconds: float = 5) -> int | Failure:
    records: list[Record] = [("t", b"data", key, []) for key in KEYS]
    return Sender(producer.make).send(iter(records), time.monotonic() + seconds)


def failing(producer: FakeProducer) -> Failure:
    sent = send(producer)
    assert isinstance(sent, Failure)
    return sent


def code(failure: Failure) -> int:
    assert failure.error is not None
    return failure.error.code()


def test_an_empty_queue_without_a_report_means_that_all_arrived() -> None:
    producer = FakeProducer()
    assert send(producer) == 4
    assert producer.purges == 0


def test_what_was_reported_did_not_arrive() -> None:
    failure = failing(FakeProducer({b"k2": KafkaError.MSG_SIZE_TOO_LARGE}))
    assert (failure.reported, failure.queued_count) == ({("t", b"k2", b"data")}, 4)
    assert code(failure) == KafkaError.MSG_SIZE_TOO_LARGE


def test_what_is_still_on_its_way_after_a_failure_is_not_known() -> None:
    producer = FakeProducer({b"k2": KafkaError.MSG_SIZE_TOO_LARGE}, left=1)
    producer.purge = lambda **_: None  # type: ignore[method-assign]  # it cannot be taken back
    assert failing(producer).reported is None


def test_purging_is_never_the_cause() -> None:
    failures: dict[bytes | None, int] = {
        b"k1": KafkaError._PURGE_INFLIGHT,
        b"k2": KafkaError.INVALID_RECORD,
    }
    assert code(failing(FakeProducer(failures))) == KafkaError.INVALID_RECORD


def test_the_deadline_ends_a_silence_with_everything_taken_back() -> None:
    producer = FakeProducer(left=4)
    started_at = time.monotonic()
    send(producer, seconds=0.05)
    assert time.monotonic() - started_at < 2
    assert producer.purges == 1


def test_a_full_queue_is_waited_for() -> None:
    producer = FakeProducer()
    producer.is_full_for = 3
    assert send(producer) == 4


def test_nothing_is_sent_behind_a_record_that_is_refused_at_once() -> None:
    producer = FakeProducer()
    producer.raises_at = 2
    failure = failing(producer)
    assert producer.produced == [b"k0", b"k1"]
    assert (failure.queued_count, failure.topic) == (2, "t")
