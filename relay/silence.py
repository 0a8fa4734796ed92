"""A PostgreSQL server that is silent for too long is given up, as if it had hung up."""

from __future__ import annotations

import time

from outbox.exchange import WatchedConnection
from relay.database import SILENT_SECONDS


class ListeningConnection(WatchedConnection):
    """Raises `psycopg.OperationalError`, and is closed, where no answer comes for too long."""

    def give_up(self, heard_at: float) -> str | None:
        """See `WatchedConnection.give_up`."""
        is_over = time.monotonic() - heard_at > SILENT_SECONDS
        return f"no answer for {SILENT_SECONDS:g} s" if is_over else None
