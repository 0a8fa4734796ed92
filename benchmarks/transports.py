"""Events a second of every transport: from the database by the relay, and received by one worker.

    python -m tools.servers --fetch --postgres --kafka -- python -m benchmarks.transports

One row of the matrix in docs/guide/transports.md has the figures of one contender, by its name. All
relay the same rows, one after the other, with the settings that a route has by default; then one
member of a group receives and acknowledges them. In memory both happen at once: an event counts as
published when it is processed, or waits in a ring that would soon be full. ActiveMQ and the S3
server are started for this alone, unless OUTBOX_TEST_ACTIVEMQ and OUTBOX_TEST_S3 name others, where
their queues and buckets then stay.
"""

from __future__ import annotations

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import sqlalchemy as sa

from benchmarks.command import add_servers, arguments, described, finish, place_at, started_now
from outbox.bench import backlog
from outbox.bench.report import Series
from outbox.bench.rounds import taken
from outbox.settings import Settings
from outbox.table import outbox_checkpoint
from outbox.transports import transport_of
from relay.daemon import Relay, Until
from tools.buckets import options_of, plain_client
from tools.servers import activemq, s3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future

    from outbox.bench.place import Place
    from outbox.bench.report import Figures
    from outbox.transport import Subscriber
    from outbox.transports import Transport

    Route = Mapping[str, Any]
    Make = Callable[[Place], AbstractContextManager[Route]]
    """Yields the settings of a route whose destination is empty."""

GROUP: Final = "bench"
SIZE: Final = 200
AT_ONCE: Final = 500
"""Messages that are acknowledged together, at most."""
WAIT_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 120.0


def measure(place: Place, makes: Mapping[str, Make], *, rows: int, rounds: int) -> Series:
    """Let the transports take turns; the first turns only warm up."""
    backlog.fill(place.url, rows, SIZE)
    turns = {name: partial(_turn, place, rows, make) for name, make in makes.items()}
    found = [taken(turns, number) for number in range(rounds + 1)]
    return Series(kind="transports", where={"rows": rows, "bytes": SIZE}, rounds=found[1:])


def _turn(place: Place, rows: int, make: Make) -> Figures:
    with sa.create_engine(place.url, poolclass=sa.NullPool).begin() as connection:
        connection.execute(sa.delete(outbox_checkpoint))
    with make(place) as given, ThreadPoolExecutor(1) as pool:
        # What a route makes at the broker has its name, and goes with everything of that name.
        name = given["topic"]
        settings = Settings.model_validate(
            {
                "database_url": place.url.render_as_string(hide_password=False),
                "routes": {name: {**given, "start": "beginning"}},
            }
        )
        route = settings.routes[name]
        module, options = transport_of(name, route)
        subscriber = partial(
            cast("Transport", module).subscriber, name, options, GROUP, [given["topic"]]
        )
        meanwhile: Future[float] | None = None
        if route.transport == "memory":
            meanwhile = pool.submit(_received, subscriber, rows)
        started = time.perf_counter()
        summary = Relay(settings).run(until=Until.DRAINED).routes[name]
        seconds = time.perf_counter() - started
        if (summary.published, summary.error) != (rows, None):
            msg = f"{summary.published} of {rows} were published: {summary.error}"
            raise RuntimeError(msg)
        received = _received(subscriber, rows) if meanwhile is None else meanwhile.result()
    return {"published_per_second": rows / seconds, "received_per_second": received}


def _received(make: Callable[[], Subscriber], rows: int) -> float:
    """Receive and acknowledge all; return how many a second came behind the first ones."""
    at_once = min(AT_ONCE, rows // 4)
    with closing(make()) as subscriber:
        count = first = 0
        started = time.perf_counter()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while count < rows:
            deliveries = subscriber.receive(at_once, WAIT_SECONDS)
            if deliveries and not count:
                started, first = time.perf_counter(), len(deliveries)
            subscriber.ack(deliveries)
            count += len(deliveries)
            if time.monotonic() > deadline:
                msg = f"{count} of {rows} were received in {PATIENCE_SECONDS:g} s"
                raise RuntimeError(msg)
        return (count - first) / (time.perf_counter() - started)


@contextmanager
def _kafka(delivery: str, place: Place) -> Iterator[Route]:
    with place.broker.topic("transports") as topic:
        yield place.broker.route(topic, delivery)


@contextmanager
def _activemq(address: str, own: Route, _place: Place) -> Iterator[Route]:
    topic = f"bench-{uuid.uuid4().hex}"
    yield {"transport": "activemq", "brokers": address, "topic": topic, **own}


@contextmanager
def _s3(url: str, form: str, _place: Place) -> Iterator[Route]:
    bucket = f"bench-{uuid.uuid4().hex}"
    plain_client(url).create_bucket(Bucket=bucket)
    yield {"transport": "s3", "topic": bucket, "format": form, **options_of(url, bucket)}


@contextmanager
def _memory(published_when: str, _place: Place) -> Iterator[Route]:
    name = uuid.uuid4().hex
    own = {"broker": name, "groups": {GROUP: "*"}, "published_when": published_when}
    yield {"transport": "memory", "topic": name, **own}


def makes(mq: str, url: str) -> Mapping[str, Make]:
    """Return the contenders, by the names that the contract suite's features have."""
    return {
        "kafka": partial(_kafka, "exactly-once"),
        "kafka, at-least-once": partial(_kafka, "at-least-once"),
        "activemq": partial(_activemq, mq, {"groups": [GROUP]}),
        "activemq, queue": partial(_activemq, mq, {"destination": "queue"}),
        "s3, json": partial(_s3, url, "json"),
        "s3, jsonl": partial(_s3, url, "jsonl"),
        "memory": partial(_memory, "processed"),
        "memory, stored": partial(_memory, "stored"),
    }


def main() -> None:
    """Measure in places of its own, and print a table or JSON."""
    parser = arguments(__doc__, rounds=3)
    add_servers(parser)
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    started_at = started_now()
    with ExitStack() as stack:
        place = stack.enter_context(place_at(parser, options))
        mq = os.environ.get("OUTBOX_TEST_ACTIVEMQ") or stack.enter_context(activemq()).address
        url = os.environ.get("OUTBOX_TEST_S3") or stack.enter_context(s3()).url()
        series = measure(place, makes(mq, url), rows=options.rows, rounds=options.rounds)
        found = described(place.url)
    finish("transports", options, [series], started_at=started_at, server=found)


if __name__ == "__main__":
    main()
