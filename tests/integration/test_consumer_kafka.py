"""Two workers of one group on a real Kafka: one is killed, the other takes over."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from outbox.consumer import Consumer
from outbox.settlement import Counts
from outbox.transport import PUBLISHED
from outbox.transports.kafka import Options, subscriber
from outbox.transports.kafka.publishing import KafkaPublisher
from outbox.worker import Worker
from tests.integration import consuming_kafka
from tests.integration.consuming import Base, Counted, counted, effects, working, write
from tests.waiting import eventually

if TYPE_CHECKING:
    import sqlalchemy as sa

    from tests.fix_kafka import TopicFactory

COUNT = 2_000
KEY_COUNT = 40


def test_a_killed_worker_and_a_replay_of_the_topic_change_no_effect(
    postgres_engine: sa.Engine, bootstrap_servers: str, new_topic: TopicFactory
) -> None:
    Base.metadata.create_all(postgres_engine)
    topic = new_topic(4)
    fill(bootstrap_servers, topic)
    url = postgres_engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", consuming_kafka.__name__, url, bootstrap_servers, topic]
    with ExitStack() as stack:
        victim, survivor = (stack.enter_context(subprocess.Popen(command)) for _ in range(2))
        stack.callback(survivor.kill)
        stack.callback(victim.kill)
        wait_for(postgres_engine, 100)
        victim.kill()
        wait_for(postgres_engine, COUNT)
        survivor.send_signal(signal.SIGTERM)
        assert survivor.wait(30) == 0
    assert_once_and_in_order(postgres_engine)
    assert replay(postgres_engine, bootstrap_servers, topic) == Counts(duplicate=COUNT)
    assert_once_and_in_order(postgres_engine)


def fill(bootstrap_servers: str, topic: str) -> None:
    options = Options.model_validate({"bootstrap_servers": bootstrap_servers, "topic": topic})
    relay = KafkaPublisher("events", options, 30)
    log = [counted(f"k{n % KEY_COUNT}", n) for n in range(COUNT)]
    assert set(relay.publish(log)) == {PUBLISHED}
    relay.close()


def replay(engine: sa.Engine, bootstrap_servers: str, topic: str) -> Counts:
    """Receive the topic from its start, as another group of the same consumer."""
    consumer = Consumer(consuming_kafka.NAME, database=engine)
    consumer.on(Counted)(write)
    options = consuming_kafka.options(bootstrap_servers)
    worker = Worker(consumer, subscriber("events", options, f"again-{topic}", [topic]))
    with working(worker):
        eventually(lambda: worker.counts.duplicate >= COUNT, why=lambda: worker.counts)
    return worker.counts


def wait_for(engine: sa.Engine, count: int) -> None:
    eventually(lambda: len(effects(engine)) >= count, why=lambda: f"{len(effects(engine))} effects")


def assert_once_and_in_order(engine: sa.Engine) -> None:
    done = effects(engine)
    assert len(done) == COUNT
    for key in {key for key, _ in done}:
        expected = [n for n in range(COUNT) if f"k{n % KEY_COUNT}" == key]
        assert [n for k, n in done if k == key] == expected
