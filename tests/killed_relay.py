"""A relay that kills itself at a step: `python -m tests.killed_relay URL ROUTES_JSON STEP COUNT`.

It is a process of its own and ends by SIGKILL, so nothing is flushed, stored or given back. Steps,
in the order in which a batch comes to them:

    take-over   it has turned other relays away, and read the last record
    publish     a batch is about to be produced
    flush       it is produced, but nothing was waited for
    commit      all of it is at the broker, and the transaction is about to be committed
    settle      it is committed, and the database knows nothing of it

At the `COUNT`th time that it comes there, it dies.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from outbox import log
from outbox.settings import Settings
from outbox.transports.kafka.sender import Sender
from outbox.transports.kafka.transactional import TransactionalKafkaPublisher
from relay import guarantee
from relay.daemon import Relay, Until, stopped_by_signals

if TYPE_CHECKING:
    from collections.abc import Callable

PLACES: dict[str, tuple[Any, str, bool]] = {
    "take-over": (guarantee.ExactlyOnce, "take_over", True),
    "publish": (TransactionalKafkaPublisher, "publish_with", False),
    "flush": (Sender, "drain", False),
    "commit": (TransactionalKafkaPublisher, "_commit", False),
    "settle": (guarantee.ExactlyOnce, "publish", True),
}
"""Where a step is: a class, its method, and whether it comes after the method or before it."""


def die_at(step: str, count: int) -> None:
    owner, name, is_after = PLACES[step]
    original: Callable[..., Any] = getattr(owner, name)
    left = [count]

    def come() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        if not is_after:
            come()
        result = original(*arguments, **options)
        if is_after:
            come()
        return result

    setattr(owner, name, wrapped)


def main(url: str, routes: str, step: str, count: str) -> int:
    settings = Settings.model_validate(
        {"database_url": url, "source": "/test", "routes": json.loads(routes)}
    )
    log.configure("json")
    die_at(step, int(count))
    stop = threading.Event()
    with stopped_by_signals(stop):
        return Relay(settings).run(stop, Until.FOREVER).exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
