"""Capture where writers take turns (SQLite): numbers are in commit order, so a floor is enough."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from outbox import stored
from outbox.errors import ConfigurationError, DatabaseUnavailableError
from outbox.settings import shown
from outbox.table import outbox_event
from relay.capture import Backlog
from relay.capture.position import SerialPosition, read_serial
from relay.capture.sizing import Sizing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from outbox.envelope import Envelope

_SEQ: Final = outbox_event.c.seq


@dataclass(frozen=True, slots=True)
class SerialPage:
    """Rows above a floor."""

    envelopes: Sequence[Envelope]
    is_last: bool
    start: SerialPosition

    def position(self, count: int | None = None, /) -> SerialPosition:
        """Return the floor after the first `count` rows, by default all."""
        settled = self.envelopes[:count]
        return SerialPosition(settled[-1].sequence or 0) if settled else self.start


class SerialCapture:
    """Reads rows by number alone; each read is one short transaction that holds up no writer.

    A number is drawn while the writer holds the database's only write lock, so no row with a
    smaller one can appear after it. In WAL mode a reader never waits for a writer; in the other
    modes it may find the database locked, which is a `DatabaseUnavailableError`.
    """

    def __init__(self, engine: sa.Engine, source: str) -> None:
        """Take connections from this engine's pool, one for the length of a read.

        `source` is for events that have none.
        """
        self._engine = engine
        self._sizing = Sizing()
        self._query = sa.select(*stored.columns(source)).order_by(_SEQ)

    def beginning(self) -> SerialPosition:
        """Return the floor below every row."""
        return SerialPosition(0)

    def now(self) -> SerialPosition:
        """Return the highest number there is as the floor."""
        with self._reading() as connection:
            return SerialPosition(connection.scalar(sa.select(sa.func.max(_SEQ))) or 0)

    def position(self, stored: Mapping[str, Any], /) -> SerialPosition:
        """Read a stored floor."""
        return read_serial(stored)

    def trusts(self, stored: Mapping[str, Any], /) -> bool:
        """Say no: nothing tells whether the last transactions were lost with the machine."""
        del stored
        return False

    def next_page(self, position: SerialPosition, limit: int, /) -> SerialPage:
        """Read at most `limit` rows above a floor."""
        limit = self._sizing.limit(limit)
        query = self._query.where(position.floor < _SEQ).limit(limit)
        with self._reading() as connection:
            envelopes = stored.read(connection, query)
        self._sizing.read(len(envelopes), sum(len(envelope.data) for envelope in envelopes))
        return SerialPage(envelopes, is_last=len(envelopes) < limit, start=position)

    def backlog(self, position: SerialPosition, /) -> Backlog:
        """Count the rows above a floor."""
        pending = position.floor < _SEQ
        oldest = sa.select(outbox_event.c.time).where(pending).order_by(_SEQ).limit(1)
        query = sa.select(sa.func.count(), oldest.scalar_subquery()).where(pending)
        with self._reading() as connection:
            count, oldest_at = connection.execute(query.select_from(outbox_event)).one()
        return Backlog(count, oldest_at)

    def close(self) -> None:
        """Do nothing: no connection outlives a read."""

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """Lend a connection; the one place where SQLite's errors become ours."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except sa.exc.DBAPIError as exc:
            code = getattr(exc.orig, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_ERROR:
                raise ConfigurationError(
                    f"cannot read the outbox tables of {self._name()} ({exc.orig}): create or"
                    " upgrade them by `outbox migrate`"
                ) from exc
            if code == sqlite3.SQLITE_NOTADB:
                raise ConfigurationError(
                    f"{self._name()} is no SQLite database: correct database_url"
                ) from exc
            raise DatabaseUnavailableError(f"cannot read {self._name()}: {exc.orig}") from exc

    def _name(self) -> str:
        return shown(self._engine.url)
