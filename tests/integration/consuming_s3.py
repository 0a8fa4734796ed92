"""A worker by settings alone, until SIGTERM; a program of its own.

`python -m tests.integration.consuming_s3 URL SETTINGS_JSON`: the database of its effects, and the
settings, which say where it receives from.
"""

from __future__ import annotations

import signal
import sys
import threading

import sqlalchemy as sa

from outbox.consumer import Consumer
from outbox.settings import Settings
from outbox.worker import open_worker
from tests.integration.consuming import Counted, write

NAME = "tests"


def main() -> None:
    url, settings = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    consumer = Consumer(NAME, database=sa.create_engine(url))
    consumer.on(Counted)(write)
    open_worker(consumer, Settings.model_validate_json(settings)).run(stop)


if __name__ == "__main__":
    main()
