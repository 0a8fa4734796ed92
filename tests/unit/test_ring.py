"""The ring buffer: who waits for whom, and that nothing is lost, doubled or reordered."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.transports.memory.ring import RingBuffer, RingClosedError, RingFullError
from outbox.transports.memory.waiting import STRATEGIES, Block, Signal
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from outbox.transports.memory.ring import RingConsumer
    from outbox.transports.memory.waiting import WaitStrategy

PATIENCE = 30.0


@pytest.fixture(params=sorted(STRATEGIES))
def strategy(request: pytest.FixtureRequest) -> Callable[[], WaitStrategy]:
    return STRATEGIES[request.param]


@pytest.fixture
def ring() -> RingBuffer[int]:
    return RingBuffer(4)


class Threads:
    """Threads that end with the test; an error in one of them is the test's."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def start(self, run: Callable[[], object]) -> threading.Thread:
        def guarded() -> None:
            try:
                run()
            except BaseException as exc:  # noqa: BLE001  # raised again by join
                self._errors.append(exc)

        thread = threading.Thread(target=guarded, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a thread waits for ever"
        if self._errors:
            raise self._errors[0]


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads()
    yield made
    made.join()


@pytest.mark.parametrize("capacity", [-1, 0, 3, 1000])
def test_only_a_power_of_two_is_a_capacity(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"power of two, not {capacity}"):
        RingBuffer(capacity)


def test_every_consumer_gets_everything_in_the_order_of_publishing(ring: RingBuffer[int]) -> None:
    consumers = [ring.add_consumer() for _ in range(3)]
    assert [ring.publish(number) for number in range(3)] == [1, 2, 3]
    for consumer in consumers:
        assert consumer.read(10) == [0, 1, 2]
        assert consumer.read(2) == [0, 1], "what it is not done with comes again"
        consumer.advance(2)
        assert consumer.read(10) == [2]


def test_a_full_ring_makes_the_producer_wait_and_then_says_so(ring: RingBuffer[int]) -> None:
    slow, quick = ring.add_consumer(), ring.add_consumer()
    ring.publish_all([0, 1, 2, 3])
    quick.advance(4)
    started_at = time.monotonic()
    with pytest.raises(RingFullError, match=r"no room for 1 more in a ring of 4.* is 4 behind"):
        ring.publish(4, timeout=0.05)
    assert time.monotonic() - started_at >= 0.05
    slow.advance(1)
    assert ring.publish(4, timeout=0) == 5
    assert quick.read(9) == [4]
    assert slow.read(9) == [1, 2, 3, 4]


def test_a_waiting_producer_goes_on_as_soon_as_the_slowest_consumer_is_done(
    strategy: Callable[[], WaitStrategy], threads: Threads
) -> None:
    ring: RingBuffer[int] = RingBuffer(2, signal=Signal(strategy()))
    slow, quick = ring.add_consumer(), ring.add_consumer()
    ring.publish_all([0, 1])
    done: list[int] = []
    threads.start(lambda: done.append(ring.publish(2, timeout=PATIENCE)))
    quick.advance(2)
    assert not ring.join(0.05)
    assert not done
    slow.advance(1)
    eventually(lambda: done == [3])


def test_items_side_by_side_are_stored_all_or_none(ring: RingBuffer[int]) -> None:
    consumer = ring.add_consumer()
    ring.publish_all([0, 1])
    with pytest.raises(RingFullError, match="no room for 3 more"):
        ring.publish_all([2, 3, 4], timeout=0)
    assert ring.published == 2
    ring.publish_all([2, 3])
    assert ring.publish_all([]) == 4
    assert consumer.read(9) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="5 items do not fit into a ring of 4"):
        ring.publish_all([0] * 5)


def test_without_consumers_the_oldest_are_overwritten(ring: RingBuffer[int]) -> None:
    for number in range(10):
        ring.publish(number, timeout=0)
    assert ring.add_consumer().read(9) == [6, 7, 8, 9]
    late = ring.add_consumer(from_oldest=False)
    assert late.read(9, timeout=0) == []
    with pytest.raises(RingFullError):
        ring.publish(10, timeout=0)


def test_a_removed_consumer_holds_nobody_up(ring: RingBuffer[int]) -> None:
    gone, stays = ring.add_consumer(), ring.add_consumer()
    follows = ring.add_consumer(after=[gone, stays])
    ring.publish_all([0, 1, 2, 3])
    stays.advance(4)
    assert follows.read(9, timeout=0) == []
    ring.remove(gone)
    ring.remove(gone)
    assert gone.read(9) == []
    assert follows.read(9) == [0, 1, 2, 3]
    follows.advance(4)
    assert ring.publish_all([4, 5, 6, 7], timeout=0) == 8


def test_whoever_comes_after_sees_only_what_all_before_it_are_done_with(
    ring: RingBuffer[int],
) -> None:
    journal, replica = ring.add_consumer(), ring.add_consumer()
    billing = ring.add_consumer(after=[journal, replica])
    audit = ring.add_consumer(after=[billing])
    ring.publish_all([0, 1, 2])
    journal.advance(3)
    assert billing.read(9, timeout=0) == []
    replica.advance(2)
    assert billing.read(9) == [0, 1]
    assert audit.read(9, timeout=0) == []
    billing.advance(1)
    assert audit.read(9) == [0]


def test_nobody_is_done_with_what_is_not_there(ring: RingBuffer[int]) -> None:
    first = ring.add_consumer()
    second = ring.add_consumer(after=[first])
    ring.publish_all([0, 1])
    first.advance(1)
    for consumer, count in ((first, 2), (second, 2), (second, -1)):
        with pytest.raises(ValueError, match=f"{count} items are not there"):
            consumer.advance(count)


def test_a_closed_ring_takes_nothing_and_gives_all_that_it_has(ring: RingBuffer[int]) -> None:
    consumer = ring.add_consumer()
    ring.publish_all([0, 1, 2])
    ring.close()
    ring.close()
    with pytest.raises(RingClosedError):
        ring.publish(3)
    with pytest.raises(RingClosedError):
        ring.publish_all([3, 4])
    assert list(consumer) == [[0, 1, 2]]
    assert consumer.is_over
    assert consumer.read(9) == []
    assert ring.join(0)


def test_closing_ends_every_wait(strategy: Callable[[], WaitStrategy], threads: Threads) -> None:
    ring: RingBuffer[int] = RingBuffer(1, signal=Signal(strategy()))
    behind, ahead = ring.add_consumer(), ring.add_consumer()
    ring.publish(0)
    ahead.advance(1)
    refused = threading.Event()

    def publish() -> None:
        with pytest.raises(RingClosedError):
            ring.publish(1)
        refused.set()

    threads.start(publish)
    ended = threads.start(lambda: ahead.read(9))
    ring.close()
    assert refused.wait(PATIENCE)
    ended.join(PATIENCE)
    assert not ended.is_alive()
    assert behind.read(9) == [0]


def test_a_batch_whose_loop_broke_off_comes_again(ring: RingBuffer[int]) -> None:
    consumer = ring.add_consumer()
    ring.publish_all([0, 1])

    def work() -> None:
        for _ in consumer:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        work()
    ring.publish(2)
    ring.close()
    assert list(consumer) == [[0, 1, 2]]


def test_many_producers_and_chains_of_consumers_lose_and_reorder_nothing(
    strategy: Callable[[], WaitStrategy], threads: Threads
) -> None:
    ring: RingBuffer[tuple[int, int]] = RingBuffer(64, signal=Signal(strategy()))
    first, second = ring.add_consumer(), ring.add_consumer()
    consumers = [first, second, ring.add_consumer(after=[first, second])]
    seen: list[list[tuple[int, int]]] = [[] for _ in consumers]
    count = 2000

    def produce(producer: int) -> None:
        for number in range(0, count, 4):
            ring.publish((producer, number), timeout=PATIENCE)
            ring.publish_all([(producer, number + more) for more in (1, 2, 3)], timeout=PATIENCE)

    def consume(consumer: RingConsumer[tuple[int, int]], into: list[tuple[int, int]]) -> None:
        for batch in consumer:
            into += batch

    for consumer, into in zip(consumers, seen, strict=True):
        threads.start(partial(consume, consumer, into))
    for producing in [threads.start(partial(produce, number)) for number in range(3)]:
        producing.join(PATIENCE)
    assert ring.join(PATIENCE)
    ring.close()
    threads.join()
    assert seen[0] == seen[1] == seen[2], "one order for all"
    for producer in range(3):
        own = [number for each, number in seen[0] if each == producer]
        assert own == list(range(count))


def test_rings_of_one_signal_are_waited_for_together(threads: Threads) -> None:
    signal = Signal(Block())
    rings: Sequence[RingBuffer[int]] = [RingBuffer(2, signal=signal) for _ in range(3)]
    found: list[int] = []

    def wait() -> None:
        with signal.lock:
            assert signal.wait(lambda: any(ring.published for ring in rings), PATIENCE)
            found.extend(ring.published for ring in rings)

    threads.start(wait)
    rings[1].publish(0)
    eventually(lambda: found == [0, 1, 0])


@given(
    capacity=st.sampled_from([1, 2, 4, 8]),
    steps=st.lists(st.tuples(st.sampled_from(["publish", "all", "read"]), st.integers(0, 8))),
)
def test_a_ring_is_a_bounded_queue(capacity: int, steps: list[tuple[str, int]]) -> None:
    ring: RingBuffer[int] = RingBuffer(capacity)
    consumer = ring.add_consumer()
    model: list[int] = []
    following = 0
    for step, count in steps:
        numbers = list(range(following, following + (1 if step == "publish" else count)))
        if step == "read":
            assert consumer.read(count, timeout=0) == model[:count]
            done = min(count, len(model))
            consumer.advance(done)
            del model[:done]
        elif len(model) + len(numbers) > capacity:
            with pytest.raises((RingFullError, ValueError)):
                ring.publish_all(numbers, timeout=0)
        else:
            if step == "publish":
                ring.publish(numbers[0], timeout=0)
            else:
                ring.publish_all(numbers, timeout=0)
            model += numbers
            following += len(numbers)
