"""The doorbell: after a commit it tells relays that wait that there are events.

    commit ─▶ ring ─▶ a thread with a connection of its own: NOTIFY ─▶ relay (LISTEN): read now

Not in the business transaction: there a NOTIFY takes a lock of the whole server before the commit
is written to disk, and gives it back afterwards, so that commits would queue behind one another.
Nothing rests on it: whatever fails here, the relay's next look finds the events.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import sqlalchemy as sa

from outbox.errors import UsageError
from outbox.retry import BackOff

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from sqlalchemy.ext.asyncio import AsyncEngine

log = logging.getLogger(__name__)

CHANNEL: Final = (
    "SELECT 'outbox_' || relnamespace FROM pg_class WHERE oid = 'outbox_event'::regclass"
)
"""The channel's name; by the table's schema, because the server keeps databases apart itself."""
RING: Final = f"SELECT pg_notify(({CHANNEL}), '')"
INTERVAL_SECONDS: Final = 0.02
"""The shortest time between two rings of one process.

A relay that found something looks again after 1 ms, five times, and then after 2, 4, 8 … ms: eight
times within this time, so that more rings would only cost.
"""
REST_SECONDS: Final = 60.0
"""A connection that was not used for so long is closed; the next ring opens another one."""
RETRY_SECONDS: Final = 30.0
"""The longest wait after a ring that failed."""
CLOSE_SECONDS: Final = 1.0
"""How long `close` waits for the last ring."""

_WRITTEN: Final = "outbox.written"
"""Where a pooled connection's `info` says that its transaction has written events."""


def note_written(connection: sa.Connection) -> None:
    """Remember, until the connection's transaction ends, that it has written events."""
    connection.info[_WRITTEN] = True


class Doorbell:
    """Rings after each commit of an engine that wrote events, so that an idle relay reads at once.

        doorbell = outbox.Doorbell(engine)      # once a process, where the engine is made

    It hears the commits of every Session and Connection of the engine, asynchronous ones included;
    what commits otherwise, a driver's own connection for instance, calls `ring`. Many commits are
    one ring, at most fifty a second. A commit pays for setting a flag, waits for nothing and
    sees no failure: those are logged, once, and tried again after a while.

    The first ring starts a daemon thread, which connects as the engine does, outside of its pool;
    a minute without rings closes that connection. A process that was forked starts its own.
    """

    def __init__(self, engine: sa.Engine | AsyncEngine) -> None:
        """Listen to the commits of an engine on PostgreSQL; raises `UsageError` for another."""
        found: object = getattr(engine, "sync_engine", engine)
        if not isinstance(found, sa.Engine):
            raise UsageError(f"a Doorbell needs a SQLAlchemy engine, not {type(engine).__name__}")
        if found.dialect.name != "postgresql":
            raise UsageError(
                f"a doorbell rings on PostgreSQL only, not on {found.dialect.name}: leave it out,"
                " the relay looks for events by itself"
            )
        self._engine = found
        self._is_closed = False
        self._ringer: _Ringer | None = None
        self._starting = threading.Lock()
        self._undo = [
            _call_after(found.dialect, "do_begin", _forget),
            _call_after(found.dialect, "do_commit", self._on_commit),
            _call_after(found.dialect, "do_commit_twophase", self._on_commit),
        ]
        _doorbells.add(self)

    def ring(self) -> None:
        """Tell relays that events were committed; from any thread, returns at once, never raises.

        Call it after the commit: a relay that looks earlier finds nothing.
        """
        ringer = self._ringer or self._start()
        if ringer is not None:
            ringer.ring()

    def close(self) -> None:
        """Send the last ring, at most a second long, and end the thread; idempotent.

        Commits of the engine ring no more.
        """
        with self._starting:
            self._is_closed = True
            ringer, self._ringer = self._ringer, None
        for undo in self._undo:
            undo()
        if ringer is not None:
            ringer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def after_fork(self) -> None:
        """Forget the thread and the connection, which are the parent's."""
        self._ringer = None
        self._starting = threading.Lock()

    def _start(self) -> _Ringer | None:
        with self._starting:
            if self._ringer is None and not self._is_closed:
                ringer = _Ringer(self._engine)
                try:
                    ringer.start()
                except RuntimeError as exc:  # no more threads, or the interpreter is ending
                    log.warning("doorbell does not ring", extra={"error": str(exc)})
                    self._is_closed = True
                    return None
                self._ringer = ringer
            return self._ringer

    def _on_commit(self, connection: Any) -> None:
        if _forget(connection):
            self.ring()


def _forget(connection: Any) -> bool:
    """Begin anew with what a transaction has written; return whether it wrote events."""
    # A driver's own connection, which is no concern of ours, may have an `info` of another kind.
    info = getattr(connection, "info", None)
    return isinstance(info, dict) and bool(info.pop(_WRITTEN, False))


def _call_after(
    dialect: sa.Dialect, name: str, function: Callable[[Any], object]
) -> Callable[[], None]:
    """Let a method of a dialect call a function afterwards; return what takes it out again.

    SQLAlchemy announces a Connection's commit before it, never after it.
    """
    original = getattr(dialect, name)
    is_in = True

    def method(connection: Any, *arguments: Any, **options: Any) -> None:
        original(connection, *arguments, **options)
        if is_in:
            function(connection)

    def undo() -> None:
        nonlocal is_in
        is_in = False
        if vars(dialect).get(name) is method:  # unless somebody else's stands before it now
            setattr(dialect, name, original)

    setattr(dialect, name, method)
    return undo


class _Ringer:
    """The thread that rings, and its connection."""

    def __init__(self, engine: sa.Engine) -> None:
        options = {"isolation_level": "AUTOCOMMIT"}
        pool = engine.pool.recreate()
        self._engine = sa.Engine(pool, engine.dialect, engine.url, execution_options=options)
        self._is_wanted = False
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._back_off = BackOff(RETRY_SECONDS)
        self._thread = threading.Thread(target=self._run, name="outbox-doorbell", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ring(self) -> None:
        self._is_wanted = True
        if not self._woken.is_set():  # far cheaper than to set it again
            self._woken.set()

    def close(self) -> None:
        self._closing.set()
        self._woken.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while self._is_wanted or not self._closing.is_set():
            self._wait(None)
            if not self._is_wanted:
                continue
            try:
                self._connect()
            except Exception as exc:  # noqa: BLE001  # nobody else could be told of it
                self._tell(exc)
                self.ring()
                if self._closing.wait(self._back_off.next()):
                    return

    def _wait(self, seconds: float | None) -> bool:
        """Wait for a ring, and tell whether there may be one."""
        is_woken = self._woken.wait(seconds)
        # Before anyone asks what is wanted: who rings after that wakes us again.
        self._woken.clear()
        return is_woken

    def _connect(self) -> None:
        """Ring on one connection, until it rests or is lost."""
        if self._engine.dialect.is_async:
            asyncio.run(self._connect_async())
            return
        try:
            with self._engine.connect() as connection:
                self._ring(connection)
        finally:
            self._engine.dispose()

    async def _connect_async(self) -> None:
        from sqlalchemy.ext.asyncio import AsyncEngine  # noqa: PLC0415  # needs greenlet

        engine = AsyncEngine(self._engine)
        try:
            async with engine.connect() as connection:
                # The loop has nothing else to do, so it may be blocked.
                await connection.run_sync(self._ring)
        finally:
            await engine.dispose()

    def _ring(self, connection: sa.Connection) -> None:
        is_used = True
        while is_used:
            if self._is_wanted:
                self._is_wanted = False
                self._send(connection)
            if self._closing.wait(INTERVAL_SECONDS) and not self._is_wanted:
                return
            is_used = self._wait(REST_SECONDS)

    def _send(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(RING)
        if self._back_off.attempt_count:
            log.info("doorbell rings again")
            self._back_off.reset()

    def _tell(self, error: Exception) -> None:
        if not self._back_off.attempt_count:
            facts = {"error": str(getattr(error, "orig", error)), "kind": type(error).__name__}
            log.warning("doorbell does not ring", extra=facts)


_doorbells: Final[WeakSet[Doorbell]] = WeakSet()


def _after_fork() -> None:
    for doorbell in _doorbells:
        doorbell.after_fork()


def _close_all() -> None:
    for doorbell in list(_doorbells):
        doorbell.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_close_all)
