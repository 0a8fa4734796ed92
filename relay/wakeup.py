"""When to read again: soon while events come, ever more rarely while none do."""

from __future__ import annotations

import threading
from typing import Final

BUSY_SECONDS: Final = 0.001
"""The pause after a read that found events, at least."""
SLOW_SECONDS: Final = 0.01
"""The same, at most."""
BUSY_READS: Final = 5
"""Reads in a row after which the pauses begin to double, because they found nothing."""
IDLE_SECONDS: Final = 0.1
"""The longest pause between two reads at first, while nothing happens: ten a second."""
DORMANT_SECONDS: Final = 0.3
"""The same, once `DORMANT_READS` found nothing, so that it will hardly matter: three a second."""
DORMANT_READS: Final = 100
"""Some ten seconds."""


_WEIGHT: Final = 0.2
"""Of the last publish, in how long one is expected to take."""


class Pace:
    """The pauses between reads: they double while reads find nothing.

    The first few do not: what comes 200 times a second is found a millisecond and a half sooner,
    for a quarter more reads.

    While reads find something the pauses are as long as a publish takes. What is read sooner would
    only wait for the one before, and reading it takes from the publisher's processor: with a pause
    of 2 ms in place of 4 ms, a transaction of Kafka took 5 ms in place of 3.
    """

    def __init__(self, shortest: float = BUSY_SECONDS, longest: float = IDLE_SECONDS) -> None:
        self._shortest = shortest
        self._longest = longest
        self._next = shortest
        self._empty_count = 0

    def published(self, seconds: float) -> None:
        """Take in how long a publish took."""
        expected = self._shortest + _WEIGHT * (seconds - self._shortest)
        self._shortest = min(max(expected, BUSY_SECONDS), SLOW_SECONDS)

    def after(self, *, found: bool) -> float:
        """Return the pause after a read that did or did not find events."""
        if found:
            self._next = self._shortest
            self._empty_count = 0
        pause = self._next
        self._empty_count += 1
        if self._empty_count > BUSY_READS:
            is_dormant = self._empty_count > DORMANT_READS
            self._next = min(pause * 2, DORMANT_SECONDS if is_dormant else self._longest)
        return pause


class Wakeup:
    """Waits between reads; whoever knows of new events may end the wait.

    Polling alone is always right. A ring only makes an idle reader read sooner.
    """

    def __init__(self, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        self._bell = threading.Event()

    def ring(self) -> None:
        """End the current wait, or the next one if none is going on; from any thread."""
        self._bell.set()

    def wait(self, *, found: bool) -> None:
        """Pause after a read that did or did not find events."""
        self._bell.wait(self.pace.after(found=found))
        self._bell.clear()
