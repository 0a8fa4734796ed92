"""Reads ahead: the next pages wait in memory while the publisher works on one.

What waits is bounded by pages and by bytes; a full queue makes the reader wait, not grow.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from outbox.errors import DatabaseUnavailableError
from outbox.rows import Rows
from relay.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable

    from outbox.errors import TransientError
    from relay.capture import Capture, Page

PAGES: Final = 100
"""Pages that wait, at most; while the broker works on a batch, many small ones may come."""
BYTES: Final = 24_000_000
"""Bytes that wait, at most; one page always may."""
GROUP_ROWS: Final = 20_000
"""Events that are published together, at most, where they come from several pages."""
EMPTY_SECONDS: Final = 1.0
"""How often an idle reader passes on a page without events, which only moves the position."""
ROW_BYTES: Final = 600
"""What an event takes in memory besides its data, about."""


class PageQueue:
    """A bounded queue between one reader and one publisher."""

    def __init__(self, max_pages: int = PAGES, max_bytes: int = BYTES) -> None:
        self._max_pages = max_pages
        self._max_bytes = max_bytes
        self._pages: deque[tuple[Page, int]] = deque()
        self._bytes = 0
        self._is_finished = False
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, page: Page, size: int) -> None:
        """Add a page as soon as there is room, or drop it where the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_room(size))
            if not self._is_closed:
                self._pages.append((page, size))
                self._bytes += size
                self._changed.notify_all()

    def get(self, timeout: float) -> list[Page]:
        """Return the pages that wait, as many as may be published together, but at least one.

        None are there after the time-out, and when none will come any more.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._pages or self._is_finished or self._is_closed, timeout
            )
            taken: list[Page] = []
            count = 0
            while self._pages and not self._is_closed:
                page, size = self._pages[0]
                count += len(page.envelopes)
                if taken and count > GROUP_ROWS:
                    break
                taken.append(page)
                self._bytes -= size
                del self._pages[0]
            self._changed.notify_all()
            return taken

    @property
    def is_exhausted(self) -> bool:
        """Every page was taken, and no other will come."""
        with self._changed:
            return self._is_finished and not self._pages

    def finish(self) -> None:
        """Say that no page will follow."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what waits, and let nobody wait any longer."""
        with self._changed:
            self._is_closed = True
            self._pages.clear()
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        if not self._pages:
            return True
        return len(self._pages) < self._max_pages and self._bytes + size <= self._max_bytes


class Reader:
    """Reads pages from a position on, until told to end or until it has read what was asked."""

    def __init__(
        self,
        capture: Capture,
        position: Any,
        page_size: int,
        queue: PageQueue,
        is_enough: Callable[[Page], bool],
        on_outage: Callable[[TransientError], None],
        ended: threading.Event,
    ) -> None:
        """Read from `position`; `on_outage` waits and returns, or raises to give up."""
        self._capture = capture
        self._position = position
        self._page_size = page_size
        self._queue = queue
        self._is_enough = is_enough
        self._on_outage = on_outage
        self._ended = ended
        self._next_empty = time.monotonic()
        self.wakeup = Wakeup()

    def run(self) -> None:
        """Read until the term ends or `is_enough` says so; raises what the capture raises."""
        while not self._ended.is_set():
            try:
                page = self._capture.next_page(self._position, self._page_size)
            except DatabaseUnavailableError as exc:
                self._on_outage(exc)
                continue
            self._position = page.position()
            is_enough = self._is_enough(page)
            if page.envelopes or is_enough or self._is_due():
                self._queue.put(page, _size(page))
            if is_enough:
                self._queue.finish()
                return
            if page.is_last:
                self.wakeup.wait(found=bool(page.envelopes))

    def _is_due(self) -> bool:
        """Whether nothing was passed on for a while."""
        now = time.monotonic()
        if now < self._next_empty:
            return False
        self._next_empty = now + EMPTY_SECONDS
        return True


def _size(page: Page) -> int:
    return Rows.of(page.envelopes).data_size() + ROW_BYTES * len(page.envelopes)
