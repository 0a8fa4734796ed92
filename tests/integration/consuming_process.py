"""A worker that kills itself by -9 at a chosen moment; a program of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import sqlalchemy as sa

from outbox.consumer import Consumer
from outbox.worker import Worker
from tests.integration.consuming import QUICK, Counted, ListSubscriber, counted, write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.context import Context
    from outbox.envelope import Envelope
    from outbox.transport import Delivery

COUNT = 60


def log() -> list[Envelope]:
    """Return the same events in every process."""
    return [counted(f"k{n % 5}", n, id=f"event-{n}") for n in range(COUNT)]


def die() -> None:
    """End as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingSubscriber(ListSubscriber):
    """Dies when a batch that has committed is to be acknowledged."""

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        del deliveries
        die()


def main() -> None:
    """Take the database's URL, and the moment: `ack` or `handler`."""
    url, moment = sys.argv[1:]
    consumer = Consumer("tests", database=sa.create_engine(url))

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        write(event, context)
        if moment == "handler" and event.n == 15:
            context.session.flush()
            die()

    subscriber = (DyingSubscriber if moment == "ack" else ListSubscriber)(log())
    settings = QUICK.model_copy(update={"batch_size": 10})
    Worker(consumer, subscriber, settings).run(threading.Event())


if __name__ == "__main__":
    main()
