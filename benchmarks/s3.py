"""Objects a second to S3: the publisher against a bare boto3 loop over a pool of threads.

    python -m benchmarks.s3                  # a server of its own
    OUTBOX_TEST_S3=http://KEY:SECRET@host:port python -m benchmarks.s3

Both store the same number of JSON objects of the same size, with as many threads, on the same
server, where their bucket stays; they take turns, so that a change of the machine's pace meets
both. The loop's objects are ready-made; the publisher encodes its events, names them, and writes
the log besides.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.command import arguments, finish, started_now
from outbox.bench.report import Series
from outbox.bench.rounds import taken
from outbox.envelope import Envelope, new_id
from outbox.structured import encode
from outbox.transport import PUBLISHED
from outbox.transports import s3 as transport
from outbox.transports.s3.client import make_client
from tools.buckets import options_of, plain_client
from tools.servers import s3

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from outbox.bench.report import Figures
    from outbox.transports.s3 import Options

TIMEOUT = 60.0


def events(count: int) -> list[Envelope]:
    """Return events of 200 bytes of data over a hundred keys."""
    return [
        Envelope(
            id=new_id(),
            source="/bench",
            type="bench.account.changed",
            time=datetime.now(UTC),
            data=json.dumps({"account": n % 100, "pad": "x" * 170}).encode(),
            partition_key=str(n % 100),
            sequence=n + 1,
        )
        for n in range(count)
    ]


def bare(options: Options, batch: Sequence[Envelope]) -> float:
    """Store ready-made objects by a pool of threads; return the seconds."""
    bodies = [encode(event, on_one_line=False) for event in batch]
    client = make_client(options, connect_seconds=5, read_seconds=30)
    name = uuid.uuid4().hex

    def put(number: int) -> None:
        client.put_object(
            Bucket=options.bucket,
            Key=f"bare/{name}/{number:020d}.json",
            Body=bodies[number],
            ContentType="application/cloudevents+json",
        )

    with ThreadPoolExecutor(options.concurrency) as pool:
        started = time.perf_counter()
        list(pool.map(put, range(len(bodies))))
        seconds = time.perf_counter() - started
    client.close()
    return seconds


def published(options: Options, batch: Sequence[Envelope]) -> float:
    """Publish as a relay does, exactly once; return the seconds."""
    with closing(transport.publisher("bench", options, TIMEOUT)) as publisher:
        publisher.take_over(uuid.uuid4().hex)
        started = time.perf_counter()
        outcomes = publisher.publish_with(batch, b"{}")
        seconds = time.perf_counter() - started
    if list(outcomes) != [PUBLISHED] * len(batch):
        raise SystemExit(f"not all were published: {outcomes[0]}")
    return seconds


def measure(url: str, *, count: int, rounds: int) -> Series:
    """Let the two take turns in one bucket; the first turns only warm up."""
    options = _options(url)

    def turn(store: Callable[[Options, Sequence[Envelope]], float]) -> Figures:
        batch = events(count)
        return {"events_per_second": count / store(options, batch)}

    turns = {"boto3": partial(turn, bare), "publisher": partial(turn, published)}
    return Series(
        kind="s3",
        where={"events": count, "threads": options.concurrency},
        rounds=[taken(turns, number) for number in range(rounds + 1)][1:],
        ratios=("events_per_second",),
    )


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--events", type=int, default=2_000, help="of one turn")
    options = parser.parse_args()
    started_at = started_now()
    with ExitStack() as stack:
        url = os.environ.get("OUTBOX_TEST_S3") or stack.enter_context(s3()).url()
        series = measure(url, count=options.events, rounds=options.rounds)
    finish("s3", options, [series], started_at=started_at)


def _options(url: str) -> Options:
    options = transport.Options.model_validate(options_of(url, f"bench-{uuid.uuid4().hex}"))
    plain_client(url).create_bucket(Bucket=options.bucket)
    return options


if __name__ == "__main__":
    main()
