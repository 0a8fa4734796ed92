"""A relay that kills itself at a step: `python -m tests.killed_relay URL ROUTES_JSON STEP COUNT`.

It is a process of its own and ends by SIGKILL, so nothing is flushed, stored or given back. Steps,
in the order in which a batch comes to them:

    take-over   it has turned other relays away, and read the last record
    publish     a batch is about to be produced
    flush       it is produced, but nothing was waited for
    commit      all of it is at the broker, and the transaction is about to be committed
    committing  the broker is being asked to commit, and may have done so
    settle      it is committed, and the database knows nothing of it
    anywhere    some time after the take-over

At the `COUNT`th time that it comes there, it dies. `live` does the same in a process that was
forked, and may freeze there instead.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from outbox import log
from outbox.settings import Settings
from outbox.transports.kafka.publishing import KafkaPublisher
from outbox.transports.kafka.sender import Sender
from outbox.transports.kafka.transactional import TransactionalKafkaPublisher
from relay import guarantee
from relay.daemon import Relay, Until, stopped_by_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FROZEN = "frozen at a step"
"""What a relay writes to its log before it freezes."""


class Place(NamedTuple):
    """Where a step is: before a method of a class or after it, or within a time from there."""

    owner: Any
    name: str
    is_after: bool = False
    within_seconds: float = 0.0


PLACES: Mapping[str, Place] = {
    "take-over": Place(guarantee.ExactlyOnce, "take_over", is_after=True),
    "publish": Place(TransactionalKafkaPublisher, "publish_with"),
    "flush": Place(Sender, "drain"),
    "commit": Place(TransactionalKafkaPublisher, "_commit"),
    "committing": Place(TransactionalKafkaPublisher, "_commit", within_seconds=0.004),
    "settle": Place(guarantee.ExactlyOnce, "publish", is_after=True),
    "anywhere": Place(guarantee.ExactlyOnce, "take_over", is_after=True, within_seconds=0.5),
}
PLAIN_PLACES: Mapping[str, Place] = {
    "take-over": Place(guarantee.AtLeastOnce, "take_over", is_after=True),
    "publish": Place(KafkaPublisher, "publish"),
    "flush": Place(Sender, "drain"),
    "settle": Place(guarantee.AtLeastOnce, "publish", is_after=True),
    "anywhere": Place(guarantee.AtLeastOnce, "take_over", is_after=True, within_seconds=0.5),
}
"""The same for delivery at least once, where nothing is committed at the broker."""
ONCE = frozenset({"take-over", "anywhere"})
"""Steps that a relay comes to once in its life."""


def places_of(delivery: str) -> Mapping[str, Place]:
    return PLACES if delivery == "exactly-once" else PLAIN_PLACES


def end_at(place: Place, count: int, end: Callable[[], None]) -> None:
    """Call `end` at the `count`th time that something comes to a place."""
    original: Callable[..., Any] = getattr(place.owner, place.name)
    left = [count]

    def come() -> None:
        left[0] -= 1
        if left[0] != 0:
            return
        if place.within_seconds:
            threading.Timer(random.uniform(0, place.within_seconds), end).start()
        else:
            end()

    def wrapped(*arguments: Any, **options: Any) -> Any:
        if not place.is_after:
            come()
        result = original(*arguments, **options)
        if place.is_after:
            come()
        return result

    setattr(place.owner, place.name, wrapped)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def freeze() -> None:
    """Stand still until another process wakes this one."""
    sys.stderr.write(FROZEN + "\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGSTOP)


def live(
    url: str, routes: str, log_path: str, until: str, step: str | None, count: int, end: str
) -> None:
    """Run a relay in a process that was forked; its log goes to a file of its own."""
    sys.stderr = Path(log_path).open("w", buffering=1)  # noqa: SIM115  # open until the process ends
    os.dup2(sys.stderr.fileno(), 2)
    random.seed()
    if step is not None:
        delivery = next(iter(json.loads(routes).values()))["delivery"]
        end_at(places_of(delivery)[step], count, freeze if end == "freeze" else die)
    sys.exit(run(url, routes, Until(until)))


def run(url: str, routes: str, until: Until) -> int:
    settings = Settings.model_validate(
        {"database_url": url, "source": "/test", "routes": json.loads(routes)}
    )
    log.configure("json")
    stop = threading.Event()
    with stopped_by_signals(stop):
        return Relay(settings).run(stop, until).exit_code


def main(url: str, routes: str, step: str, count: str) -> int:
    end_at(PLACES[step], int(count), die)
    return run(url, routes, Until.FOREVER)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
