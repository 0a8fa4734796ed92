"""Reading ahead is bounded, and ends when it is told to."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from outbox.testing import envelope
from relay import reader
from relay.reader import PageQueue, Reader
from relay.wakeup import Pace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope
    from relay.capture import Position


@dataclass(frozen=True)
class Page:
    name: str
    envelopes: Sequence[Envelope] = ()
    is_last: bool = False

    def position(self, count: int | None = None, /) -> Position:
        raise NotImplementedError


A, B, C = Page("a"), Page("b"), Page("c")


def putting(queue: PageQueue, page: Page, size: int) -> threading.Thread:
    thread = threading.Thread(target=queue.put, args=(page, size))
    thread.start()
    return thread


@pytest.mark.parametrize(("pages", "size"), [(1, 0), (10, 60)])
def test_a_full_queue_makes_the_reader_wait(pages: int, size: int) -> None:
    queue = PageQueue(max_pages=pages, max_bytes=100)
    queue.put(A, size)
    thread = putting(queue, B, size)
    thread.join(0.05)
    assert thread.is_alive()
    assert queue.get(0) == [A]
    thread.join(10)
    assert queue.get(0) == [B]


def test_one_page_always_fits() -> None:
    queue = PageQueue(max_bytes=100)
    queue.put(A, 1_000_000)
    assert queue.get(0) == [A]


def test_what_waits_is_taken_together_up_to_a_number_of_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "GROUP_ROWS", 5)
    events = [envelope("t")] * 3
    pages = [Page("a", events), Page("b", events[:2]), Page("c"), Page("d", events)]
    queue = PageQueue()
    for page in pages:
        queue.put(page, 0)
    assert [queue.get(0), queue.get(0), queue.get(0)] == [pages[:3], pages[3:], []]


def test_a_queue_is_exhausted_once_it_is_finished_and_empty() -> None:
    queue = PageQueue()
    queue.put(A, 0)
    queue.finish()
    assert not queue.is_exhausted
    assert queue.get(60) == [A]
    assert queue.is_exhausted
    assert queue.get(60) == []


def test_a_closed_queue_lets_nobody_wait() -> None:
    queue = PageQueue(max_pages=1)
    queue.put(A, 0)
    thread = putting(queue, B, 0)
    queue.close()
    thread.join(10)
    assert not thread.is_alive()
    assert queue.get(60) == []
    queue.put(C, 0)
    assert queue.get(60) == []


def test_an_empty_queue_is_waited_for_only_so_long() -> None:
    assert PageQueue().get(0.01) == []


class Idle:
    """A capture that finds nothing."""

    def __init__(self, ended: threading.Event) -> None:
        self.reads = 0
        self._ended = ended

    def next_page(self, _position: object, _limit: int) -> Page:
        self.reads += 1
        if self.reads == 20:
            self._ended.set()
        return Placed("idle", is_last=True)


class Placed(Page):
    def position(self, count: int | None = None, /) -> Any:
        return count


def test_a_page_without_events_is_passed_on_only_now_and_then() -> None:
    queue, ended = PageQueue(), threading.Event()
    capture: Any = Idle(ended)
    made = Reader(capture, None, 10, queue, lambda _: False, print, ended)
    made.wakeup.pace = Pace(longest=0.0)
    made.run()
    assert (capture.reads, len(queue.get(0))) == (20, 1)


def test_the_last_page_is_passed_on_without_events_too() -> None:
    queue, ended = PageQueue(), threading.Event()
    capture: Any = Idle(ended)
    made = Reader(capture, None, 10, queue, lambda _: capture.reads == 5, print, ended)
    made.wakeup.pace = Pace(longest=0.0)
    made.run()
    assert len(queue.get(0)) == 2
    assert queue.is_exhausted
