"""When to read again: soon while events come, ever more rarely while none do."""

from __future__ import annotations

import threading
from typing import Final

BUSY_SECONDS: Final = 0.002
IDLE_SECONDS: Final = 0.1
"""The longest pause between two reads: ten statements a second while nothing happens."""


class Pace:
    """The pauses between reads: they double while reads find nothing."""

    def __init__(self, shortest: float = BUSY_SECONDS, longest: float = IDLE_SECONDS) -> None:
        self._shortest = shortest
        self._longest = longest
        self._next = shortest

    def after(self, *, found: bool) -> float:
        """Return the pause after a read that did or did not find events."""
        if found:
            self._next = self._shortest
        pause = self._next
        self._next = min(pause * 2, self._longest)
        return pause


class Wakeup:
    """Waits between reads; whoever knows of new events may end the wait.

    Polling alone is always right. A ring only makes an idle reader read sooner.
    """

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        self._bell = threading.Event()

    def ring(self) -> None:
        """End the current wait, or the next one if none is going on; from any thread."""
        self._bell.set()

    def wait(self, *, found: bool) -> None:
        """Pause after a read that did or did not find events."""
        self._bell.wait(self._pace.after(found=found))
        self._bell.clear()
