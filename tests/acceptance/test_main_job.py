"""The main job over Kafka, with everything killed while it works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.acceptance.main_job import (
    TOPIC,
    Apart,
    Load,
    Raised,
    compare,
    effects,
    expect_once,
    raised,
    run,
    show,
)
from tools.servers import kafka

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import sqlalchemy as sa

    from tools.servers import KafkaServer

PARTITION_COUNT = 4

SETTINGS = """
source = "/counting"

[routes.kafka]
transport = "kafka"
bootstrap_servers = "{bootstrap_servers}"
topic = "{{type_prefix}}"
lease_seconds = {lease_seconds}
consumer = {{ "session.timeout.ms" = "6000" }}
page_size = 500

[consumers.counting]
batch_size = 200
"""


@pytest.fixture
def broker() -> Iterator[KafkaServer]:
    """A Kafka of this test's own, because it is restarted."""
    with kafka(properties={"num.partitions": str(PARTITION_COUNT)}) as server:
        yield server


@pytest.mark.timeout(600)
def test_each_committed_event_has_one_effect_in_order(
    postgres_engine: sa.Engine,
    broker: KafkaServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load = Load(8_000, relay_kills=3, worker_kills=2)
    expect_all_once(load, 3, postgres_engine, broker, tmp_path, capsys)


@pytest.mark.timeout(600)
def test_the_same_holds_on_mariadb(
    mariadb_engine: sa.Engine,
    broker: KafkaServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load = Load(1_000, relay_kills=1, worker_kills=1)
    expect_all_once(load, 3, mariadb_engine, broker, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_of_a_hundred_thousand_committed_events_has_one_effect_in_order(
    postgres_engine: sa.Engine,
    broker: KafkaServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load = Load(100_000, relay_kills=10, worker_kills=6, writer_rate=100, timeout_seconds=900)
    expect_all_once(load, 5, postgres_engine, broker, tmp_path, capsys)


def expect_all_once(
    load: Load,
    lease_seconds: float,
    engine: sa.Engine,
    broker: KafkaServer,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = SETTINGS.format(
        bootstrap_servers=broker.bootstrap_servers, lease_seconds=lease_seconds
    )
    run(Apart(load, engine, folder, settings, broker))
    done, records = compare(engine, effects(engine)), compare(engine, list(topic_content(broker)))
    show(capsys, effects=done, records=records)
    expect_once(done, at_least=load.event_count)
    expect_once(records, at_least=load.event_count)


def topic_content(broker: KafkaServer) -> Iterator[Raised]:
    """Read the committed records of the whole topic, partition by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "count",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    for number in range(PARTITION_COUNT):
        partition = TopicPartition(TOPIC, number, 0)
        _, high = consumer.get_watermark_offsets(partition, timeout=10)
        consumer.assign([partition])
        while True:
            message = consumer.poll(10)
            assert message is not None, "a transaction was left open"
            error = message.error()
            if error is None:
                yield raised(message.value() or b"")
            elif (message.offset() or 0) >= high:
                break
    consumer.close()
