"""A connection to PostgreSQL that gives up an exchange whose answer does not come.

TCP alone does not notice a server that hangs, or a primary whose disk does: its system goes on to
acknowledge what it receives.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Generator

Result = TypeVar("Result")


class WatchedConnection(psycopg.Connection[Any]):
    """Raises `psycopg.OperationalError`, and is closed, where a silence is not to be waited out."""

    def give_up(self, heard_at: float) -> str | None:
        """Say why to wait no longer; asked in a silence, since `heard_at` of `time.monotonic`."""
        raise NotImplementedError

    def wait(self, gen: Generator[Any, Any, Result], *arguments: Any, **options: Any) -> Result:
        """Wait for the server; the driver does every exchange through here, but for connecting."""
        return super().wait(self._watched(gen), *arguments, **options)

    def _watched(self, exchange: Generator[Any, Any, Result]) -> Generator[Any, Any, Result]:
        """Pass an exchange on; the driver resumes it ten times a second, with 0 in a silence."""
        heard_at = time.monotonic()
        try:
            wanted = next(exchange)
            while True:
                ready = yield wanted
                if ready:
                    heard_at = time.monotonic()
                else:
                    reason = self.give_up(heard_at)
                    if reason is not None:
                        self.pgconn.finish()
                        raise psycopg.OperationalError(reason)
                wanted = exchange.send(ready)
        except StopIteration as done:
            result: Result = done.value
            return result
