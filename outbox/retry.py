"""Back-off: how long to wait before the next attempt."""

from __future__ import annotations

from typing import Final

from tenacity import RetryCallState, Retrying, wait_random_exponential

FIRST_SECONDS: Final = 0.1
"""The shortest wait between two attempts."""


class BackOff:
    """Waits that double up to a maximum, with jitter, so that many do not try in step.

    It only says how long; whoever waits does so on an event that also tells it to stop.
    """

    def __init__(self, max_seconds: float) -> None:
        self._wait = wait_random_exponential(
            multiplier=2 * FIRST_SECONDS, max=max_seconds, min=min(FIRST_SECONDS, max_seconds)
        )
        self.attempt_count = 0

    def next(self) -> float:
        """Return the seconds to wait after one more failed attempt."""
        self.attempt_count += 1
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = self.attempt_count
        return self._wait(state)

    def reset(self) -> None:
        """Begin again with the shortest wait: an attempt succeeded."""
        self.attempt_count = 0
