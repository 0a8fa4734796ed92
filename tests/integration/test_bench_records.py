"""What `outbox bench` counts at the broker is what a consumer of committed records gets."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Message, Producer

from outbox.bench import records
from outbox.bench.place import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.fix_kafka import TopicFactory


def produce(producer: Producer, topic: str, sequence: Iterable[tuple[str, int]]) -> None:
    for key, number in sequence:
        headers: list[tuple[str, str | bytes | None]] = [("ce_sequence", str(number))]
        producer.produce(topic, b"", key, headers=headers)
    assert producer.flush(30) == 0


def test_what_is_committed_only_after_the_end_was_read_is_counted_too(
    bootstrap_servers: str, new_topic: TopicFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = new_topic(1)
    config: dict[str, Any] = {"bootstrap.servers": bootstrap_servers}
    producer = Producer({**config, "transactional.id": str(uuid.uuid4())})
    producer.init_transactions()
    producer.begin_transaction()
    produce(producer, topic, [("k", number) for number in range(1, 6)])

    read_to_its_end = Event()
    is_record = records._is_record

    def noted(message: Message) -> bool:
        if not is_record(message):
            read_to_its_end.set()
            return False
        return True

    monkeypatch.setattr(records, "_is_record", noted)
    with ThreadPoolExecutor(1) as thread:
        counted = thread.submit(records.count, config, topic, 1, 5)
        assert read_to_its_end.wait(30)
        assert not counted.done()
        producer.commit_transaction()
        assert counted.result(60).count == 5


def test_an_event_behind_a_later_one_of_its_key_is_found(
    bootstrap_servers: str, new_topic: TopicFactory
) -> None:
    config: dict[str, Any] = {"bootstrap.servers": bootstrap_servers}
    good, bad = new_topic(3), new_topic(3)
    produce(Producer(config), good, [("a", 1), ("b", 9), ("a", 2), ("c", 3)])
    produce(Producer(config), bad, [("a", 1), ("b", 9), ("a", 3), ("a", 2)])
    assert records.count(config, good, 3, 4, by_key=True).count == 4
    with pytest.raises(BenchError, match="event 2 arrived after event 3 of its key"):
        records.count(config, bad, 3, 4, by_key=True)
    assert records.count(config, bad, 3, 4).count == 4, "it is looked at only if asked for"
