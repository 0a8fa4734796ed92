from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from outbox.transports.kafka.page import Record
from outbox.transports.kafka.sender import Sender

RECORDS = [Record(place, "t", b"k%d" % place, b"data") for place in range(4)]


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

    def produce(self, _topic: str, _data: bytes, key: bytes, **rest: Any) -> None:
        if self.is_full_for:
            self.is_full_for -= 1
            raise BufferError
        if len(self.produced) == self.raises_at:
            raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
        self._report = rest["on_delivery"]
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


def sender(producer: FakeProducer) -> Sender:
    made: Any = producer
    return Sender(made)


def send(producer: FakeProducer, seconds: float = 5) -> Any:
    headers: list[tuple[str, bytes]] = []
    records = ((record, headers) for record in RECORDS)
    return sender(producer).send(records, time.monotonic() + seconds)


def test_an_empty_queue_without_a_report_means_that_all_arrived() -> None:
    producer = FakeProducer()
    assert send(producer).arrived == RECORDS
    assert producer.purges == 0


def test_only_what_was_reported_is_unsettled() -> None:
    sending = send(FakeProducer({b"k2": KafkaError.MSG_SIZE_TOO_LARGE}))
    assert sending.unsettled == [RECORDS[2]]
    assert sending.arrived == [RECORDS[0], RECORDS[1], RECORDS[3]]
    assert sending.error.code() == KafkaError.MSG_SIZE_TOO_LARGE


def test_a_report_that_fits_no_record_leaves_nothing_as_arrived() -> None:
    sending = send(FakeProducer({b"stranger": KafkaError._MSG_TIMED_OUT}))
    assert sending.unsettled == RECORDS
    assert not sending.arrived


def test_purging_is_never_the_cause() -> None:
    failures: dict[bytes | None, int] = {
        b"k1": KafkaError._PURGE_INFLIGHT,
        b"k2": KafkaError.INVALID_RECORD,
    }
    assert send(FakeProducer(failures)).error.code() == KafkaError.INVALID_RECORD


def test_the_deadline_ends_a_silence_with_everything_taken_back() -> None:
    producer = FakeProducer(left=4)
    started_at = time.monotonic()
    send(producer, seconds=0.05)
    assert time.monotonic() - started_at < 2
    assert producer.purges == 1


def test_a_full_queue_is_waited_for() -> None:
    producer = FakeProducer()
    producer.is_full_for = 3
    assert send(producer).arrived == RECORDS


def test_nothing_is_sent_behind_a_record_that_is_refused_at_once() -> None:
    producer = FakeProducer()
    producer.raises_at = 2
    sending = send(producer)
    assert producer.produced == [b"k0", b"k1"]
    assert sending.unsettled == RECORDS[2:]
    assert sending.topic == "t"
