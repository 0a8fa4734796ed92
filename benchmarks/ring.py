"""How fast items go from one thread to others: the ring buffer, beside what Python has.

    python -m benchmarks.ring

One producer, and one or three consumers that each get every item and look at each. Python's queues
hand an item to one reader, so there is one of them for each consumer. All have as many slots. The
contenders take turns, so that a change of the machine's pace meets all of them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks.command import arguments, finish, started_now
from outbox.bench.report import Series
from outbox.bench.rounds import taken
from outbox.transports.memory import Block, RingBuffer, Signal, Spin, Yield

if TYPE_CHECKING:
    from outbox.bench.report import Figures
    from outbox.transports.memory import RingConsumer, WaitStrategy

Job = Callable[[], None]
Line = tuple[Job, Sequence[Callable[[], Iterator[int]]]]
"""What the producer does, and what each consumer iterates over."""

CAPACITY: Final = 4096
BATCH: Final = 100


def measure(*, items: int = 300_000, rounds: int = 5) -> Iterator[Series]:
    """Let the contenders take turns, for one consumer and for three."""
    for consumers in (1, 3):
        turns = {name: partial(_turn, make, items, consumers) for name, make in CONTENDERS.items()}
        found = [taken(turns, number) for number in range(rounds + 1)]
        yield Series(
            kind="ring",
            where={"consumers": consumers, "items": items, "capacity": CAPACITY},
            rounds=found[1:],  # the first turns only warm up
            ratios=("items_per_second",),
        )


def _turn(make: Callable[[int, int], Line], items: int, consumers: int) -> Figures:
    produce, streams = make(items, consumers)
    sums = [0] * consumers

    def consume(number: int) -> None:
        total = 0
        for item in streams[number]():
            total += item
        sums[number] = total

    threads = [threading.Thread(target=consume, args=[number]) for number in range(consumers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    produce()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if sums != [items * (items - 1) // 2] * consumers:
        msg = f"not every consumer has had every item: {sums}"
        raise RuntimeError(msg)
    return {"items_per_second": items / seconds}


def _queues(items: int, consumers: int) -> Line:
    queues = [queue.Queue[int](CAPACITY) for _ in range(consumers)]

    def produce() -> None:
        for item in range(items):
            for each in queues:
                each.put(item)

    def stream(own: queue.Queue[int]) -> Iterator[int]:
        for _ in range(items):
            yield own.get()

    return produce, [partial(stream, each) for each in queues]


def _deques(items: int, consumers: int) -> Line:
    changed = threading.Condition()
    deques: list[deque[int]] = [deque() for _ in range(consumers)]

    def produce() -> None:
        for item in range(items):
            with changed:
                while any(len(each) == CAPACITY for each in deques):
                    changed.wait()
                for each in deques:
                    each.append(item)
                changed.notify_all()

    def stream(own: deque[int]) -> Iterator[int]:
        for _ in range(items):
            with changed:
                while not own:
                    changed.wait()
                item = own.popleft()
                changed.notify_all()
            yield item

    return produce, [partial(stream, each) for each in deques]


def _ring(strategy: Callable[[], WaitStrategy], batch: int, items: int, consumers: int) -> Line:
    ring: RingBuffer[int] = RingBuffer(CAPACITY, signal=Signal(strategy()))
    readers = [ring.add_consumer() for _ in range(consumers)]

    def produce() -> None:
        if batch == 1:
            for item in range(items):
                ring.publish(item)
        else:
            for first in range(0, items, batch):
                ring.publish_all(range(first, min(items, first + batch)))
        ring.close()

    def stream(own: RingConsumer[int]) -> Iterator[int]:
        for found in own:
            yield from found

    return produce, [partial(stream, each) for each in readers]


CONTENDERS: Final[dict[str, Callable[[int, int], Line]]] = {
    "queue.Queue": _queues,
    "deque and condition": _deques,
    "ring": partial(_ring, Block, 1),
    "ring, yield": partial(_ring, Yield, 1),
    "ring, spin": partial(_ring, Spin, 1),
    f"ring, {BATCH} at once": partial(_ring, Block, BATCH),
}


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--items", type=int, default=300_000)
    options = parser.parse_args()
    started_at = started_now()
    series = [*measure(items=options.items, rounds=options.rounds)]
    finish("ring", options, series, started_at=started_at)


if __name__ == "__main__":
    main()
