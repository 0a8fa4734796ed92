"""A PostgreSQL server that is silent for too long is given up, as if it had closed the connection.

TCP alone does not notice it: the system of a server that hangs, or of a primary whose disk does,
goes on to acknowledge what it receives.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from relay.database import SILENT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Generator

Result = TypeVar("Result")


class ListeningConnection(psycopg.Connection[Any]):
    """Raises `psycopg.OperationalError`, and is closed, where no answer comes for too long."""

    def wait(self, gen: Generator[Any, Any, Result], *arguments: Any, **options: Any) -> Result:
        """Wait for the server; the driver does every exchange through here, but for connecting."""
        return super().wait(self._listened(gen), *arguments, **options)

    def _listened(self, exchange: Generator[Any, Any, Result]) -> Generator[Any, Any, Result]:
        """Pass an exchange on; the driver resumes it ten times a second, with 0 in a silence."""
        heard_at = time.monotonic()
        try:
            wanted = next(exchange)
            while True:
                ready = yield wanted
                now = time.monotonic()
                if ready:
                    heard_at = now
                elif now - heard_at > SILENT_SECONDS:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer for {SILENT_SECONDS:g} s")
                wanted = exchange.send(ready)
        except StopIteration as done:
            result: Result = done.value
            return result
