"""`EventPublisher`: `emit` for code that has no session at hand."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Session

from outbox import settings as settings_module
from outbox.doorbell import Doorbell
from outbox.emitter import emit
from outbox.engine import make_engine
from outbox.errors import NoTransactionError
from outbox.settings import MAX_RECORD_BYTES, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Unpack

    from outbox.emitter import Attributes
    from outbox.envelope import Envelope

_ambient: ContextVar[Mapping[EventPublisher, Session] | None] = ContextVar(
    "outbox_ambient", default=None
)


class EventPublisher:
    """Publishes events in the transaction that surrounds the call.

        publisher = outbox.EventPublisher(settings)

        with publisher.transaction() as session:
            session.add(order)
            publisher.publish(OrderPlaced(...))      # here, or anywhere below

    The transaction is known to the code that runs inside the block, in its thread or asyncio task;
    a thread that it starts has none. Each publisher has its own. Asynchronous code passes its
    `AsyncSession` to `outbox.emit` instead.
    """

    def __init__(
        self, settings: Settings | sa.Engine | None = None, *, doorbell: bool = False
    ) -> None:
        """Take an engine, or settings, by default from `outbox.toml` and the environment.

        The settings give the database, the events' `source` and the limit of their size. With
        `doorbell` it has an `outbox.Doorbell` of its own, which `close` ends.
        """
        self._source: str | None = None
        self._size_limit = MAX_RECORD_BYTES
        if isinstance(settings, sa.Engine):
            self._engine = settings
        else:
            settings = settings or settings_module.load()
            self._engine = make_engine(settings.url, "outbox publisher")
            self._source = settings.source
            self._size_limit = settings.max_record_bytes
        self._doorbell = Doorbell(self._engine) if doorbell else None

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Yield a Session in a transaction that commits at the end, or is rolled back on an error.

        Inside another transaction of this publisher it is a savepoint of that one, on the same
        Session: an error undoes the inner block alone, and nothing commits before the outermost.
        """
        outer = self._session()
        if outer is not None:
            with outer.begin_nested():
                yield outer
            return
        with Session(self._engine) as session, session.begin():
            token = _ambient.set({**(_ambient.get() or {}), self: session})
            try:
                yield session
            finally:
                _ambient.reset(token)

    def publish(self, event: object, **attributes: Unpack[Attributes]) -> Envelope:
        """Emit an event in the surrounding transaction; see `outbox.emit`.

        Raises `NoTransactionError` outside of `transaction()`, and what `emit` raises.
        """
        session = self._session()
        if session is None:
            raise NoTransactionError(
                "no transaction surrounds this call: publish inside `with publisher.transaction():`"
                " of the same publisher and thread, or pass a session to outbox.emit"
            )
        attributes["source"] = attributes.get("source") or self._source
        return emit(session, event, size_limit=self._size_limit, **attributes)

    def close(self) -> None:
        """Close the pooled connections and the doorbell; idempotent.

        The publisher stays usable, and rings no more.
        """
        if self._doorbell is not None:
            self._doorbell.close()
        self._engine.dispose()

    def _session(self) -> Session | None:
        return (_ambient.get() or {}).get(self)
