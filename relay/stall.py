"""Standing still: why, for how long, and when to try again."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from outbox.errors import DestinationRefusedError, OutboxError, PermanentError
from outbox.retry import BackOff

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

log = logging.getLogger(__name__)

TELL_SECONDS: Final = 30.0
"""The time between two log lines about one stall."""


class TermOverError(Exception):
    """The term was ended while something waited; it is no failure."""


class GaveUpError(OutboxError):
    """A relay that was to finish could not, within its patience."""


class Patience:
    """How long a relay that is to finish goes on without any progress; for ever if None."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._since = time.monotonic()

    def progressed(self) -> None:
        """Begin to count anew."""
        self._since = time.monotonic()

    def check(self, route: str, error: object) -> None:
        """Raise `GaveUpError` if there was no progress for too long."""
        if self._seconds is not None and time.monotonic() - self._since >= self._seconds:
            raise GaveUpError(
                f"route {route}: gave up after {self._seconds:g} s without progress: {error}"
            )


class Stall:
    """Waits out what keeps one thread of a route from going on."""

    def __init__(
        self,
        route: str,
        max_seconds: float,
        patience: Patience,
        ended: threading.Event,
        report: Callable[[str | None], None] | None = None,
    ) -> None:
        """Wait up to `max_seconds` at a time; `report` is told the reason, and None at the end."""
        self._route = route
        self._back_off = BackOff(max_seconds)
        self._patience = patience
        self._ended = ended
        self._report = report
        self._told_at: float | None = None

    def wait(self, error: OutboxError) -> None:
        """Tell why, and wait before the next attempt.

        Raises `TermOverError` when the term ends meanwhile, and `GaveUpError`.
        """
        self._tell(error)
        if self._report is not None:
            self._report(str(error))
        self._patience.check(self._route, error)
        if self._ended.wait(self._back_off.next()):
            raise TermOverError

    def over(self) -> None:
        """Note that it goes on."""
        self._patience.progressed()
        if self._told_at is not None:
            log.info("route goes on", extra={"route": self._route})
            self._told_at = None
        self._back_off.reset()

    def _tell(self, error: OutboxError) -> None:
        now = time.monotonic()
        if self._told_at is not None and now - self._told_at < TELL_SECONDS:
            return
        self._told_at = now
        needs_operator = isinstance(error, DestinationRefusedError | PermanentError)
        level = logging.ERROR if needs_operator else logging.WARNING
        facts = {"route": self._route, "error": str(error), "kind": type(error).__name__}
        log.log(level, "route stands still", extra=facts)
