"""Reading ahead is bounded, and ends when it is told to."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from outbox.testing import envelope
from relay import reader
from relay.reader import BYTES, PageQueue, Reader, next_limit

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


class Backlog:
    """A capture with so many events of one size."""

    def __init__(self, count: int, size: int) -> None:
        self.limits: list[int] = []
        self._count = count
        self._event = envelope("t", data=bytes(size))

    def next_page(self, _position: object, limit: int) -> Page:
        self.limits.append(limit)
        count = min(limit, self._count)
        self._count -= count
        return Placed("backlog", [self._event] * count, is_last=self._count == 0)


class Placed(Page):
    def position(self, count: int | None = None, /) -> Any:
        return count


def read_all(capture: Any, page_size: int) -> None:
    queue = PageQueue(max_pages=1_000, max_bytes=10**12)
    ended = threading.Event()
    Reader(capture, None, page_size, queue, lambda page: page.is_last, print, ended).run()


def test_a_backlog_of_large_events_is_read_in_small_pages_from_the_first_on() -> None:
    capture = Backlog(1_000, 100_000)
    read_all(capture, 50_000)
    assert max(limit * 100_000 for limit in capture.limits) <= BYTES


def test_pages_of_small_events_soon_have_their_full_size() -> None:
    capture = Backlog(20_000, 200)
    read_all(capture, 5_000)
    assert capture.limits == [100, 400, 1_600, 5_000, 5_000, 5_000, 5_000]


def test_a_page_is_never_larger_than_it_is_set_to_be() -> None:
    capture = Backlog(10, 200)
    read_all(capture, 3)
    assert set(capture.limits) == {3}


def test_pages_of_large_events_have_fewer_rows() -> None:
    assert next_limit(5000, 5000, 5000 * 200) == 5000
    assert next_limit(5000, 5000, 5000 * 1_000_000) == BYTES // 1_000_000
    assert next_limit(5000, 1, 10 * BYTES) == 1
    assert next_limit(5000, 0, 0) == 5000
