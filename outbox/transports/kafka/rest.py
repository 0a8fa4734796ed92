"""How long to leave the broker alone between two transactions."""

from __future__ import annotations

from typing import Final

RETRY_SECONDS: Final = 0.02
"""After so long librdkafka asks again, where the broker has not completed the last transaction."""
SHORTEST: Final = 0.001
LONGEST: Final = 0.01
_EASED: Final = 0.95


class Rest:
    """Learns a pause from how long small transactions take; pure.

    A broker answers a commit before it has marked every partition. Whoever begins another
    transaction in between is turned back, and comes again after `RETRY_SECONDS`: a wait of a few
    milliseconds saves twenty. What commits meanwhile goes into the same transaction.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def after(self, seconds: float) -> None:
        """Take in how long a transaction of a few events was waited for."""
        if seconds >= RETRY_SECONDS:
            self.seconds = min(LONGEST, max(SHORTEST, self.seconds * 2))
        else:
            self.seconds *= _EASED
            if self.seconds < SHORTEST / 2:
                self.seconds = 0.0
