"""Envelopes that wait in a Session or Connection for the statement that writes them.

    emit ─▶ pending ──┬─ the flush has written the state ─┐
                      ├─ a savepoint is about to begin ───┼─▶ one INSERT
                      ├─ a commit is about to begin ──────┘
                      └─ the transaction or savepoint ends otherwise ─▶ dropped

Written after the state, because then the writer holds its aggregate's lock when the row gets its
number: events of one aggregate are numbered in the order in which their writers held the lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.orm import Session, SessionTransaction

from outbox.doorbell import note_written
from outbox.errors import NoTransactionError, UsageError
from outbox.insert import INSERT, insert, is_autocommit
from outbox.keys import require_key_store
from outbox.rolled_back import is_rolled_back, watch

if TYPE_CHECKING:
    from outbox.envelope import Envelope
    from outbox.sealing import Secrets

_KEY: Final = "outbox.pending"
"""Where `Session.info` keeps it."""


class Pending:
    """What one Session or Connection has still to write."""

    __slots__ = ("commits", "envelopes", "is_flushing", "secrets")

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.secrets: dict[str, Secrets] = {}
        """Personal values of these envelopes, by the event's id."""
        self.is_flushing = False
        """A flush has begun, and our hook at its end is still to come."""
        self.commits: dict[SessionTransaction, int] = {}
        """How often a commit was announced, by the innermost level that was open then."""

    def write(self, connection: sa.Connection) -> None:
        """Insert all of it; after a failure it is still pending, so no commit can lose it."""
        if is_rolled_back(connection):
            raise NoTransactionError(
                "the database has rolled this transaction back in a deadlock, so the event would"
                " commit without its state: roll back, and try the whole transaction again"
            )
        if self.secrets:
            self._seal(connection)
        insert(connection, self.envelopes)
        note_written(connection)
        self.drop()

    def drop(self) -> None:
        """Forget what was not written."""
        self.envelopes = []
        self.secrets = {}

    def add(self, envelope: Envelope, secrets: Secrets | None) -> None:
        """Take one more."""
        self.envelopes.append(envelope)
        if secrets:
            self.secrets[envelope.id] = secrets

    def _seal(self, connection: sa.Connection) -> None:
        """Encrypt the personal values, each with its subject's key; only once, should it fail."""
        subjects = {subject for each in self.secrets.values() for subject in each.subjects}
        keys = require_key_store().provide(connection, subjects)
        self.envelopes = [
            self.secrets[envelope.id].seal(envelope, keys)
            if envelope.id in self.secrets
            else envelope
            for envelope in self.envelopes
        ]
        self.secrets = {}


def add_to_session(session: Session, envelope: Envelope, secrets: Secrets | None) -> None:
    """Let an envelope commit with a Session's transaction.

    Raises `NoTransactionError` where none is open, and `UsageError` where the Session does not
    know which of its databases has the outbox.
    """
    if not session.in_transaction():
        raise NoTransactionError(
            "no transaction is open on this Session: emit inside `with session.begin():`, or after"
            " the change that the event tells of"
        )
    if not session.is_active:
        raise NoTransactionError(
            "the transaction of this Session has failed or is ending, so nothing can join it: roll"
            " back and begin a new one"
        )
    pending = _pending(session)
    if not pending.envelopes:
        _check_bind(session)
    pending.add(envelope, secrets)
    if pending.commits and _level(session) in pending.commits:
        _write_late(session, pending)


def _pending(session: Session) -> Pending:
    pending: Pending | None = session.info.get(_KEY)
    if pending is None:
        pending = session.info[_KEY] = Pending()
    return pending


def _check_bind(session: Session) -> None:
    try:
        bind = session.get_bind(clause=INSERT)
    except sa.exc.UnboundExecutionError as exc:
        raise UsageError(
            "this Session has no database for outbox_event: give it a bind, or add the table to"
            " its binds: Session(binds={..., outbox.metadata.tables['outbox_event']: engine})"
        ) from exc
    if bind.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        raise NoTransactionError(
            "this Session is in AUTOCOMMIT, so the event would not commit with the state: use an"
            " isolation level with transactions"
        )
    watch(bind.engine)


def _write_late(session: Session, pending: Pending) -> None:
    """Write what another listener emits after our own hook of its commit has run."""
    is_flushing = session._flushing  # noqa: SLF001  # a flush inside a flush is refused
    if is_flushing and pending.is_flushing:
        return  # our hook at the end of that flush writes
    if not is_flushing:
        session.flush()
    if pending.envelopes:
        pending.write(_connection(session))


def _level(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


def _connection(session: Session) -> sa.Connection:
    return session.connection(bind_arguments={"clause": INSERT})


@sa.event.listens_for(Session, "before_flush")
def _before_flush(session: Session, *_: object) -> None:
    pending: Pending | None = session.info.get(_KEY)
    if pending is not None:
        pending.is_flushing = True


@sa.event.listens_for(Session, "after_flush_postexec")
def _after_flush(session: Session, _context: object) -> None:
    pending: Pending | None = session.info.get(_KEY)
    if pending is not None:
        pending.is_flushing = False
        if pending.envelopes:
            pending.write(_connection(session))


@sa.event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    """Write at the end of the transaction, and of each savepoint that is released."""
    pending: Pending | None = session.info.get(_KEY)
    if pending is None:
        if _is_last(session):
            return  # a transaction without events pays for nothing more
        pending = _pending(session)
    if pending.envelopes:
        session.flush()  # the state first, and `_after_flush` writes
        if pending.envelopes:  # there was no state to flush
            pending.write(_connection(session))
    level = _level(session)
    if level is not None:
        pending.commits[level] = pending.commits.get(level, 0) + 1


def _is_last(session: Session) -> bool:
    """Tell whether nothing can be emitted once our hooks have run: no other listener follows."""
    listeners: Any = session.dispatch
    return (
        len(listeners.before_commit) == 1
        and len(listeners.after_flush_postexec) == 1
        and len(listeners.after_transaction_end) == 1
    )


@sa.event.listens_for(Session, "after_transaction_create")
def _after_create(session: Session, transaction: SessionTransaction) -> None:
    """Write what was emitted before a savepoint outside of it: SAVEPOINT is not yet sent."""
    if transaction.nested:
        pending: Pending | None = session.info.get(_KEY)
        if pending is not None and pending.envelopes and transaction.parent is not None:
            pending.write(transaction.parent.connection(None, clause=INSERT))


@sa.event.listens_for(Session, "after_transaction_end")
def _after_end(session: Session, transaction: SessionTransaction) -> None:
    """Drop what a transaction or savepoint has not written: it has been rolled back."""
    pending: Pending | None = session.info.get(_KEY)
    if pending is None or not (transaction.nested or transaction.parent is None):
        return
    pending.drop()
    pending.is_flushing = False
    # A commit announces itself before it releases the savepoints that are still open. What was
    # announced here and did not end this level is the commit of a level outside.
    count = pending.commits.pop(transaction, 0) - 1
    if count > 0 and transaction.parent is not None:
        pending.commits[transaction.parent] = count


_of_connection: Final[WeakKeyDictionary[sa.Connection, Pending]] = WeakKeyDictionary()


def add_to_connection(
    connection: sa.Connection, envelope: Envelope, secrets: Secrets | None
) -> None:
    """Let an envelope commit with a Connection's transaction.

    Raises `NoTransactionError` where none is open.
    """
    transaction = connection.get_transaction()
    if transaction is None:
        raise NoTransactionError(
            "no transaction is open on this Connection: emit inside `with connection.begin():`, or"
            " after the statement that the event tells of"
        )
    if not transaction.is_active:
        raise NoTransactionError(
            "the transaction of this Connection was rolled back: emit in a new one"
        )
    if is_autocommit(connection):
        raise NoTransactionError(
            "this Connection is in AUTOCOMMIT, so the event would not commit with the state: use"
            " an isolation level with transactions"
        )
    pending = _of_connection.get(connection)
    if pending is None:
        pending = _of_connection[connection] = Pending()
        _listen(connection)
    pending.add(envelope, secrets)


def _listen(connection: sa.Connection) -> None:
    watch(connection.engine)
    # On this Connection alone: a listener of the Engine would slow down each of its statements.
    sa.event.listen(connection, "savepoint", _write_connection)
    for name in ("commit", "prepare_twophase", "commit_twophase"):
        sa.event.listen(connection, name, _write_at_end)
    for name in ("rollback", "rollback_savepoint", "rollback_twophase"):
        sa.event.listen(connection, name, _drop_connection)


def _write_connection(connection: sa.Connection, *_: Any) -> None:
    pending = _of_connection.get(connection)
    if pending is not None and pending.envelopes:
        pending.write(connection)


def _write_at_end(connection: sa.Connection, *_: Any) -> None:
    try:
        _write_connection(connection)
    except BaseException:
        # SQLAlchemy would give the connection back to its pool without a rollback, and whoever
        # came next would commit the state without its event.
        _drop_connection(connection)
        if not connection.invalidated:
            connection.dialect.do_rollback(connection.connection)
        raise


def _drop_connection(connection: sa.Connection, *_: Any) -> None:
    pending = _of_connection.get(connection)
    if pending is not None:
        pending.drop()
