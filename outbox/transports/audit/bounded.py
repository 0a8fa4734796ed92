"""A connection to PostgreSQL that is given up at a deadline, whatever the server does."""

from __future__ import annotations

import math
import time

from outbox.exchange import WatchedConnection


class BoundedConnection(WatchedConnection):
    """Raises `psycopg.OperationalError`, and is closed, where an exchange is not over in time."""

    deadline: float = math.inf
    """On the clock of `time.monotonic`."""

    def give_up(self, heard_at: float) -> str | None:
        """See `WatchedConnection.give_up`."""
        del heard_at
        return "the server did not answer in time" if time.monotonic() > self.deadline else None
