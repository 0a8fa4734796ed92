"""A worker on Kafka until SIGTERM; a program of its own."""

from __future__ import annotations

import signal
import sys
import threading

import sqlalchemy as sa

from outbox.consumer import Consumer
from outbox.settings import ConsumerSettings
from outbox.transports.kafka import Options, subscriber
from outbox.worker import Worker
from tests.integration.consuming import Counted, write

NAME = "tests"


def options(bootstrap_servers: str) -> Options:
    """Notice a dead member as early as the broker allows."""
    consumer = {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 500}
    return Options.model_validate({"bootstrap_servers": bootstrap_servers, "consumer": consumer})


def main() -> None:
    """Take the database's URL, the broker's address and the topic."""
    url, bootstrap_servers, topic = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    consumer = Consumer(NAME, database=sa.create_engine(url))
    consumer.on(Counted)(write)
    member = subscriber("events", options(bootstrap_servers), NAME + topic, [topic])
    Worker(consumer, member, ConsumerSettings(batch_size=20)).run(stop)


if __name__ == "__main__":
    main()
