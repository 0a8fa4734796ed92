"""Runs handlers in one transaction, on an Engine or on an AsyncEngine, and says how it ended."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import Session

from outbox.batch import DONE, Conflict, Fault, Unavailable
from outbox.context import cause, context_of
from outbox.dialect import (
    CONFLICT_NUMBERS,
    MISSING_NUMBERS,
    OUTAGE_NUMBERS,
    REFUSED_NUMBERS,
    is_mysql,
    mysql_number,
)
from outbox.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    NoTransactionError,
    UsageError,
)
from outbox.rolled_back import is_rolled_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from outbox.batch import Outcome
    from outbox.envelope import Envelope
    from outbox.handlers import Call, Handler

CONFLICT_STATES: Final = frozenset({"40001", "40P01", "55P03"})
"""SQLSTATE of a serialization failure, a deadlock, and a lock that took too long."""
OUTAGE_STATES: Final = ("08", "25006", "53", "57P", "58")
"""How the SQLSTATE of an outage begins: connection, read-only, resources, shutdown, system."""
UNPREPARED_STATES: Final = frozenset({"26000", "42P05"})
"""A prepared statement is not there, or another client's is: the session is not the engine's."""
SQLITE_ERROR: Final = 1
"""SQLite's code for what other databases call a programming error: a table is missing."""
SQLITE_LOCKED: Final = frozenset({5, 6})
"""SQLITE_BUSY and SQLITE_LOCKED."""


class Job(NamedTuple):
    """One event to be handled in a transaction."""

    task_index: int
    """Which task of the transaction it is."""
    envelope: Envelope
    calls: Sequence[Call]
    attempt: int


job_of: Final[Callable[[tuple[int, Envelope, Sequence[Call], int]], Job]] = partial(
    tuple.__new__, Job
)
"""Makes one in C, which a named tuple's own constructor does not."""


class HandlerSession(Session):
    """A session that a handler cannot end: the inbox rows of its whole batch are in there."""

    def commit(self) -> NoReturn:
        """Refuse."""
        _refuse("commit")

    def rollback(self) -> NoReturn:
        """Refuse."""
        _refuse("rollback")

    def close(self) -> NoReturn:
        """Refuse."""
        _refuse("close")


def _refuse(verb: str) -> NoReturn:
    raise UsageError(
        f"a handler must not {verb} its session: the worker ends the transaction, with the inbox"
        " rows in it; raise an error to roll back, or use session.begin_nested()"
    )


class SyncTransaction:
    """Runs transactions on an Engine; async handlers run on the worker's event loop."""

    def __init__(
        self, engine: sa.Engine, lock_timeout_seconds: float, runner: asyncio.Runner
    ) -> None:
        """Take the loop for async handlers."""
        self._engine = engine
        self._lock_timeout_seconds = lock_timeout_seconds
        self._runner = runner

    def run(self, prepare: Callable[[Session], Sequence[Job]]) -> Outcome:
        """Prepare, run the jobs and commit, or roll everything back."""
        session = HandlerSession(self._engine, expire_on_commit=False)
        progress = Progress()
        try:
            progress.connection = begin(session, self._lock_timeout_seconds)
            jobs = progress.begin(prepare(session))
            for progress.suspect, envelope, calls, attempt in jobs:
                cause.set(envelope)
                context = context_of(envelope, session, attempt)
                for handler, event in calls:
                    result = handler.function(event, context)
                    if result is not None:
                        self._take(handler, result)
            progress.suspect = None
            progress.check()
            Session.commit(session)
        except Exception as exc:  # noqa: BLE001  # whatever a handler raises is its outcome
            return progress.judge(exc)
        finally:
            cause.set(None)
            Session.close(session)
        return DONE

    def _take(self, handler: Handler, result: Any) -> None:
        if handler.is_async:
            with cancelled_alone():
                self._runner.run(result, context=copy_context())
        else:
            check_result(result)


class AsyncTransaction:
    """Runs transactions on an AsyncEngine; sync handlers run in it by `run_sync`."""

    def __init__(self, engine: AsyncEngine, lock_timeout_seconds: float) -> None:
        """Take the engine, whose connections belong to the running loop."""
        self._engine = engine
        self._lock_timeout_seconds = lock_timeout_seconds

    async def run(self, prepare: Callable[[Session], Sequence[Job]]) -> Outcome:
        """Prepare, run the jobs and commit, or roll everything back."""
        from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415  # needs greenlet

        session = AsyncSession(
            self._engine, sync_session_class=HandlerSession, expire_on_commit=False
        )
        progress = Progress()

        def open_(sync_session: Session) -> Sequence[Job]:
            progress.connection = begin(sync_session, self._lock_timeout_seconds)
            return prepare(sync_session)

        try:
            jobs = progress.begin(await session.run_sync(open_))
            for progress.suspect, envelope, calls, attempt in jobs:
                cause.set(envelope)
                for handler, event in calls:
                    if handler.is_async:
                        with cancelled_alone():
                            await handler.function(event, context_of(envelope, session, attempt))
                    else:
                        await session.run_sync(_call_sync, handler, event, envelope, attempt)
            progress.suspect = None
            progress.check()
            await session.run_sync(Session.commit)
        except Exception as exc:  # noqa: BLE001  # whatever a handler raises is its outcome
            return progress.judge(exc)
        finally:
            cause.set(None)
            await session.run_sync(Session.close)
        return DONE


def _call_sync(
    session: Session, handler: Handler, event: object, envelope: Envelope, attempt: int
) -> None:
    check_result(handler.function(event, context_of(envelope, session, attempt)))


@contextmanager
def cancelled_alone() -> Iterator[None]:
    """Make a failure of a handler's own cancelled task; the worker itself cancels nothing."""
    try:
        yield
    except asyncio.CancelledError as exc:
        raise RuntimeError("a task that the handler awaited was cancelled") from exc


def check_result(result: object) -> None:
    """Raise `UsageError` where a handler that looked sync returned something to be awaited."""
    if result is not None and inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise UsageError(
            "the handler returned an awaitable, but is not declared with `async def`: declare it"
            " so, or let its decorator return an async function"
        )


def begin(session: Session, lock_timeout_seconds: float) -> sa.Connection:
    """Begin the transaction of a batch and return its connection.

    PostgreSQL and MariaDB: READ COMMITTED, because a claim has to see what others have claimed
    meanwhile, and with a lock time-out. SQLite: with the write lock, which no reader can be
    promoted to.
    """
    dialect = session.get_bind().dialect
    if dialect.name == "postgresql" or is_mysql(dialect):
        connection = session.connection(execution_options={"isolation_level": "READ COMMITTED"})
        limit_waits(connection, lock_timeout_seconds)
        return connection
    connection = session.connection()
    if dialect.name == "sqlite":
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    return connection


def limit_waits(connection: sa.Connection, seconds: float) -> None:
    """Let no statement wait longer for a lock.

    On PostgreSQL that is for the transaction. MariaDB and MySQL know it for a session alone, in
    whole seconds: it is set once on each connection of the engine, and stays.
    """
    if connection.dialect.name == "postgresql":
        milliseconds = max(1, round(seconds * 1000))
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")
        return
    limit = max(1, round(seconds))
    if connection.info.get(_LIMIT) != limit:
        connection.exec_driver_sql(f"SET SESSION innodb_lock_wait_timeout = {limit}")
        connection.info[_LIMIT] = limit


_LIMIT: Final = "outbox.lock_timeout"


class Progress:
    """How far a transaction has come, to tell whose fault its failure is."""

    def __init__(self) -> None:
        """Start before the connection."""
        self.connection: sa.Connection | None = None
        self.suspect: int | None = None
        """The task whose handlers run."""
        self._is_prepared = False

    def begin(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Note that from here on handlers run."""
        self._is_prepared = True
        return jobs

    def check(self) -> None:
        """Raise where the transaction is gone although no handler failed: one caught the error."""
        if self._is_rolled_back():
            raise NoTransactionError("the database has rolled the transaction back in a deadlock")

    def judge(self, error: Exception) -> Outcome:
        """Return the outcome of a transaction that raised; ask before its session is closed.

        Raises `ConfigurationError` where the tables or the rights are missing, and where a pooler
        lost what the engine had prepared.
        """
        state, number = sqlstate(error), mysql_number(error)
        if self._is_lost() or (state or "").startswith(OUTAGE_STATES) or number in OUTAGE_NUMBERS:
            return Unavailable(error)
        if state in UNPREPARED_STATES:
            raise ConfigurationError(
                "the engine of the consumer prepares statements, which behind a connection pooler"
                f" are in another session ({getattr(error, 'orig', error)}): make the engine with"
                ' connect_args={"prepare_threshold": None}'
            ) from error
        if not self._is_prepared:
            return _judge_unprepared(error)
        if sqlite_code(error) in SQLITE_LOCKED and self.suspect is None:
            return Unavailable(error)
        if state in CONFLICT_STATES or sqlite_code(error) in SQLITE_LOCKED:
            return Conflict(error, self.suspect)
        if number in CONFLICT_NUMBERS or self._is_rolled_back():
            return Conflict(error, self.suspect)
        return Fault(error, self.suspect)

    def _is_lost(self) -> bool:
        return self.connection is not None and self.connection.invalidated

    def _is_rolled_back(self) -> bool:
        return self.connection is not None and is_rolled_back(self.connection)


def _judge_unprepared(error: Exception) -> Outcome:
    """Judge what was raised before any handler ran: a wait for others, never an event's fault."""
    is_wrong = mysql_number(error) in MISSING_NUMBERS | REFUSED_NUMBERS
    if is_wrong or isinstance(error, sa_exc.ProgrammingError) or sqlite_code(error) == SQLITE_ERROR:
        raise ConfigurationError(
            "the inbox or the dead letters of the consumer's database cannot be used"
            f" ({getattr(error, 'orig', error)}): run `outbox migrate` on it, and give its role"
            " the rights"
        ) from error
    outages = (
        sa_exc.OperationalError,
        sa_exc.InterfaceError,
        sa_exc.TimeoutError,
        OSError,
        DatabaseUnavailableError,  # the one that has the keys of personal data
    )
    return Unavailable(error) if isinstance(error, outages) else Fault(error, None)


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE that a driver gave, wrapped by SQLAlchemy or not."""
    origin = getattr(error, "orig", error)
    state: str | None = getattr(origin, "sqlstate", None) or getattr(origin, "pgcode", None)
    return state


def sqlite_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code; None for another database's error."""
    code: int | None = getattr(getattr(error, "orig", error), "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
