"""A ring buffer between threads, after the LMAX Disruptor: a bounded queue that many read.

    ring: RingBuffer[Order] = RingBuffer(1024)
    journal = ring.add_consumer()
    billing = ring.add_consumer(after=[journal])     # sees nothing that the journal has not done

    ring.publish(order, timeout=1.0)                 # one thread, or several

    for batch in billing:                            # a thread for each consumer
        charge(batch)                                # everything that waited

Slots are allocated once and used again and again. Everybody has one number, a *sequence*: that of
the producers is how many items were published, that of a consumer how many of them it is done
with. A slot is free once every consumer is done with its item, so the slowest one makes the
producers wait. Nothing is copied for a further consumer, and being done with a whole batch is one
assignment.

Source: Thompson, Farley, Barker, Gee, Stewart, "Disruptor: High performance alternative to bounded
queues for exchanging data between concurrent threads", LMAX, 2011. Here all take turns by one
lock: Python has no compare-and-set, and a lock that nobody holds costs as much as one would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from outbox.errors import OutboxError, TransientError
from outbox.transports.memory.waiting import Signal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")

BATCH: Final = 1024
"""Items that an iterating consumer takes at once, at most."""


class RingFullError(TransientError):
    """The slowest consumer left no room in time; nothing of what was to be published was."""


class RingClosedError(OutboxError):
    """The ring was closed: nothing more can be published."""


class RingBuffer(Generic[T]):
    """Preallocated slots between producers and consumers, all of them threads of one process.

    What is published is seen by every consumer, in one order for all: that of publishing. Without
    consumers nobody holds up the producers, and the oldest items are overwritten.
    """

    def __init__(self, capacity: int, *, signal: Signal | None = None) -> None:
        """Allocate `capacity` slots, a power of two; raises `ValueError` for another number.

        `signal` has the lock, and how to wait, by default `Block`. Rings that share one can be
        waited for together.
        """
        if capacity < 1 or capacity & (capacity - 1):
            msg = f"the capacity of a ring has to be a power of two, not {capacity}"
            raise ValueError(msg)
        self.capacity: Final = capacity
        self.signal: Final = signal or Signal()
        self._lock = self.signal.lock
        self._mask = capacity - 1
        self._slots: list[Any] = [None] * capacity
        self._published = 0
        # Up to this sequence there is room for sure, and the ring is open: consumers are looked at
        # only when it is reached.
        self._limit = capacity
        self._consumers: list[RingConsumer[T]] = []
        self._is_closed = False

    @property
    def published(self) -> int:
        """How many items were published so far: the sequence of the producers."""
        return self._published

    @property
    def processed(self) -> int:
        """How many items every consumer is done with; all that were published, where is none."""
        return min((each.sequence for each in self._consumers), default=self._published)

    @property
    def oldest(self) -> int:
        """The sequence before the oldest item that is still there."""
        return max(0, self._published - self.capacity)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be published."""
        return self._is_closed

    def publish(self, item: T, timeout: float | None = None) -> int:
        """Store an item, and return its sequence: 1 for the first one.

        Waits until every consumer is done with what is in the slot; `timeout` is in seconds, and
        None waits as long as it takes. Raises `RingFullError` after it, `RingClosedError`.
        """
        with self._lock:
            # Each step here counts as many times as there are items.
            sequence = self._published
            if sequence >= self._limit:
                self._claim(1, timeout)
                sequence = self._published
            self._slots[sequence & self._mask] = item
            self._published = sequence = sequence + 1
            if self.signal.waiting_count:
                self.signal.notify()
            return sequence

    def publish_all(self, items: Sequence[T], timeout: float | None = None) -> int:
        """Store items side by side, all or none; return the sequence of the last one.

        Otherwise as `publish`. Raises `ValueError` for more items than there are slots.
        """
        count = len(items)
        if count > self.capacity:
            msg = f"{count} items do not fit into a ring of {self.capacity}"
            raise ValueError(msg)
        with self._lock:
            if self._published + count > self._limit:
                self._claim(count, timeout)
            self.put(items)
            self.signal.notify()
            return self._published

    def room(self) -> int:
        """Return how many items can be stored now; with the signal's lock held."""
        self._limit = self.processed + self.capacity
        return self._limit - self._published

    def put(self, items: Sequence[T]) -> None:
        """Store items for which there is room; with the signal's lock held; notifies nobody."""
        count = len(items)
        first = self._published & self._mask
        before_end = min(count, self.capacity - first)
        self._slots[first : first + before_end] = items[:before_end]
        self._slots[: count - before_end] = items[before_end:]
        self._published += count

    def items(self, start: int, end: int) -> list[T]:
        """Return the items of the sequences after `start` up to `end`, which are still there."""
        first, last = start & self._mask, end & self._mask
        if start >= end:
            return []
        if first < last:
            return cast("list[T]", self._slots[first:last])
        return cast("list[T]", self._slots[first:] + self._slots[:last])

    def add_consumer(
        self, *, after: Sequence[RingConsumer[T]] = (), from_oldest: bool = True
    ) -> RingConsumer[T]:
        """Return a new consumer, without which from now on no slot becomes free.

        It begins with the oldest item that is still there, or with the next one. It is shown an
        item once all those in `after` are done with it.
        """
        with self._lock:
            return self.attach(after=after, from_oldest=from_oldest)

    def attach(
        self, *, after: Sequence[RingConsumer[T]] = (), from_oldest: bool = True
    ) -> RingConsumer[T]:
        """Do the same with the signal's lock held."""
        consumer = RingConsumer(self, self.oldest if from_oldest else self._published, after)
        self._consumers.append(consumer)
        self._limit = 0
        return consumer

    def remove(self, consumer: RingConsumer[T]) -> None:
        """Wait for a consumer no longer, nor let those after it; idempotent."""
        with self._lock:
            self.drop(consumer)

    def drop(self, consumer: RingConsumer[T]) -> None:
        """Do the same with the signal's lock held."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)
            consumer.is_removed = True
            self.signal.notify()

    def close(self) -> None:
        """Let nothing more be published; consumers get what is left, and then end. Idempotent."""
        with self._lock:
            self._is_closed = True
            self._limit = 0
            self.signal.notify()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every consumer is done with everything published; tell whether they are."""
        with self._lock:
            return self.signal.wait(lambda: self.processed >= self._published, timeout)

    def _claim(self, count: int, timeout: float | None) -> None:
        """Wait until so many slots are free."""
        self.signal.wait(lambda: self._is_closed or self.room() >= count, timeout)
        if self._is_closed:
            raise RingClosedError("the ring is closed: nothing more can be published")
        if self.room() < count:
            raise RingFullError(
                f"no room for {count} more in a ring of {self.capacity}: its slowest consumer is"
                f" {self._published - self.processed} behind"
            )


class RingConsumer(Generic[T]):
    """One reader of a ring; `RingBuffer.add_consumer` makes it. One thread at a time uses it."""

    def __init__(
        self, ring: RingBuffer[T], sequence: int, after: Sequence[RingConsumer[T]]
    ) -> None:
        self.sequence = sequence
        """How many items it is done with."""
        self.is_removed = False
        self._ring = ring
        self._after = after

    @property
    def available(self) -> int:
        """Up to which sequence there are items for it: published, and done by those before it."""
        before = [each.sequence for each in self._after if not each.is_removed]
        return min([self._ring.published, *before])

    @property
    def is_over(self) -> bool:
        """Whether nothing is left for it, and nothing more will come."""
        is_last = self._ring.is_closed and self.sequence >= self._ring.published
        return is_last or self.is_removed

    def read(self, limit: int, timeout: float | None = None) -> list[T]:
        """Return 1 to `limit` items after those that it is done with; the same until it is.

        None after `timeout` seconds (None waits as long as it takes), and when it is over.
        """
        with self._ring.signal.lock:
            is_there = self._ring.signal.wait(
                lambda: self.available > self.sequence or self.is_over, timeout
            )
            if not is_there or self.is_removed:
                return []
            return self._ring.items(self.sequence, min(self.available, self.sequence + limit))

    def advance(self, count: int) -> None:
        """Be done with the next `count` items; raises `ValueError` for more than are there."""
        with self._ring.signal.lock:
            if not 0 <= count <= self.available - self.sequence:
                msg = f"{count} items are not there: {self.available - self.sequence} are"
                raise ValueError(msg)
            self.sequence += count
            self._ring.signal.notify()

    def __iter__(self) -> Iterator[list[T]]:
        """Yield everything that waits, again and again, until it is over.

        A batch is done with when the next one is asked for: what was under way when a loop broke
        off comes again.
        """
        while items := self.read(BATCH):
            yield items
            self.advance(len(items))
