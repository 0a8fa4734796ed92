"""A connection to PostgreSQL that is given up at a deadline, whatever the server does.

TCP alone does not notice a server that hangs: its system goes on to acknowledge what it receives.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Generator

Result = TypeVar("Result")


class BoundedConnection(psycopg.Connection[Any]):
    """Raises `psycopg.OperationalError`, and is closed, where an exchange is not over in time."""

    deadline: float = math.inf
    """On the clock of `time.monotonic`."""

    def wait(self, gen: Generator[Any, Any, Result], *arguments: Any, **options: Any) -> Result:
        """Wait for the server; the driver does every exchange through here, but for connecting."""
        return super().wait(self._bounded(gen), *arguments, **options)

    def _bounded(self, exchange: Generator[Any, Any, Result]) -> Generator[Any, Any, Result]:
        """Pass an exchange on; the driver resumes it ten times a second, with 0 in a silence."""
        try:
            wanted = next(exchange)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > self.deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("the server did not answer in time")
                wanted = exchange.send(ready)
        except StopIteration as done:
            result: Result = done.value
            return result
