"""Statements that a server was sent by this process, by libpq's own trace of the protocol.

What a driver is asked to execute is not all: `BEGIN` and `COMMIT` are statements too. The trace has
a line for each message to the server, whoever caused it, and needs no right and no extension.
"""

from __future__ import annotations

import os
import re
import tempfile
from typing import TYPE_CHECKING, Any, Final

from psycopg import NotSupportedError
from psycopg.pq import Trace

if TYPE_CHECKING:
    import psycopg

SENT: Final = re.compile(rb"^F\t\d+\t(?:Query|Execute)\t", re.MULTILINE)
"""A statement as text, or one that was prepared: what the protocol has to have one executed."""


class Statements:
    """Counts what is sent on the connections that it watches."""

    def __init__(self) -> None:
        self._trace = tempfile.TemporaryFile()  # noqa: SIM115  # until closed
        self._is_watching = False

    def watch(self, connection: psycopg.Connection[Any]) -> None:
        """Count on this connection too, from now on."""
        # A descriptor of its own, which libpq keeps; all share one place in the file, its end.
        descriptor = os.dup(self._trace.fileno())
        try:
            connection.pgconn.trace(descriptor)
        except NotSupportedError:
            os.close(descriptor)
            return
        connection.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        self._is_watching = True

    def count(self) -> int | None:
        """Return how many there were so far; None where none is watched, or the driver cannot."""
        if not self._is_watching:
            return None
        size = os.fstat(self._trace.fileno()).st_size
        return len(SENT.findall(os.pread(self._trace.fileno(), size, 0)))

    def close(self) -> None:
        """Forget the trace; what is watched must be closed by then."""
        self._trace.close()
