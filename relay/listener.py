"""Hears the doorbell of applications, and rings the routes.

Polling goes on beside it, as often as without: it is what finds the events of an application that
has no doorbell, and of every ring that was lost.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from outbox.doorbell import CHANNEL
from outbox.retry import BackOff
from outbox.settings import shown
from relay.capture.connection import connect
from relay.pooler import Pooling, find_pooling

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    import sqlalchemy as sa

log = logging.getLogger(__name__)

GAP_SECONDS: Final = 0.005
"""The shortest time between two rings of the routes, however many applications ring."""
RETRY_SECONDS: Final = 30.0
"""The longest wait before it connects again."""
CLOSE_SECONDS: Final = 1.0
"""How long the end of a relay waits for a listener whose server does not answer."""


class Listener:
    """Calls a function whenever the doorbell of a PostgreSQL database rings, while a block lasts.

    It is called once more after each connection, since nobody tells what rang before. A listener
    that is not connected logs so, once, and tries again. Through a pooler in transaction mode,
    where another client would get what this one listens for, it does not listen at all.
    """

    def __init__(self, engine: sa.Engine, on_ring: Callable[[], None]) -> None:
        """Connect as the engine does, but outside of its pool; `on_ring` runs on its thread."""
        self._engine = engine
        self._pool = engine.pool.recreate()
        self._name = shown(engine.url)
        self._on_ring = on_ring
        self._closing = threading.Event()
        self._back_off = BackOff(RETRY_SECONDS)
        self._thread = threading.Thread(target=self._run, name="relay-listener", daemon=True)

    def __enter__(self) -> Self:
        self._waker, self._woken = socket.socketpair()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._waker.close()  # which makes its other end readable
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        with self._woken:
            while not self._closing.is_set():
                try:
                    if find_pooling(self._engine) is Pooling.TRANSACTION:
                        return  # the check at the start of a relay tells it
                    with closing(connect(self._pool, self._name)) as connection:
                        self._listen(connection)
                except Exception as exc:  # noqa: BLE001  # nobody else could be told of it
                    self._tell(exc)
                    self._closing.wait(self._back_off.next())

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        """Hear rings until the end; raises where the connection is lost."""
        for (channel,) in connection.execute(CHANNEL).fetchall():
            connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        if self._back_off.attempt_count:
            log.info("doorbell is heard again")
            self._back_off.reset()
        self._on_ring()
        with selectors.DefaultSelector() as selector:
            for readable in (connection, self._woken):
                selector.register(readable, selectors.EVENT_READ)
            while not self._closing.is_set():
                selector.select()
                connection.pgconn.consume_input()
                if _has_rung(connection):
                    self._on_ring()
                self._closing.wait(GAP_SECONDS)

    def _tell(self, error: Exception) -> None:
        if not self._back_off.attempt_count:
            facts = {"error": str(error), "kind": type(error).__name__}
            log.warning("doorbell is not heard: polling alone", extra=facts)


def _has_rung(connection: psycopg.Connection[Any]) -> bool:
    """Take all the rings that have arrived."""
    has_rung = False
    while connection.pgconn.notifies() is not None:
        has_rung = True
    return has_rung
