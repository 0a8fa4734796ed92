"""③ Capture: reads from the outbox table what became visible since a position, each row once.

One implementation a kind of database: `snapshot` on PostgreSQL, `serial` on SQLite, `portable` on
MariaDB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import sqlalchemy as sa

    from outbox.envelope import Envelope


class Position(Protocol):
    """How far a route has come; a frozen value."""

    def to_json(self) -> dict[str, Any]:
        """Return what the checkpoint stores and `Capture.position` reads."""
        ...


class Page(Protocol):
    """The rows of one read, in the order in which they have to be published."""

    @property
    def envelopes(self) -> Sequence[Envelope]:
        """The events read; none does not yet mean that there are no more (see `is_last`)."""
        ...

    @property
    def is_last(self) -> bool:
        """Nothing more was there to be read at the moment of this read."""
        ...

    def position(self, count: int | None = None, /) -> Position:
        """Return the position once the first `count` events are settled, by default all."""
        ...


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a route has not published yet."""

    count: int
    oldest_at: datetime | None
    """`time` of the event to be published next; None where there is none."""


class Capture(Protocol):
    """Reads pages for one route on a connection of its own; used from one thread at a time.

    Every committed row is in exactly one page, whatever the interleaving of its writers, rows of
    one partition key in the order in which their writers held the key's lock, and no open
    transaction holds up the others.
    """

    def beginning(self) -> Position:
        """Return the position from which every row of the table is read."""
        ...

    def now(self) -> Position:
        """Return a position from which what commits from now on is read."""
        ...

    def position(self, stored: Mapping[str, Any], /) -> Position:
        """Read a stored position.

        Raises `ForeignPositionError` where it was made on another server, and says what to do.
        """
        ...

    def trusts(self, stored: Mapping[str, Any], /) -> bool:
        """Tell whether a position that was kept outside the database surely fits to its rows.

        One that is ahead of them, because the last transactions were lost in a crash, does not.
        """
        ...

    def next_page(self, position: Any, limit: int, /) -> Page:
        """Read on from a position, at most `limit` rows; it never waits for a writer.

        A page holds some 8 MB of data at most, or one event that is larger.

        Raises `CaptureRestartedError` where the server crashed or was replaced since the
        position was read: the caller then has to take the stored one again. Raises
        `ConfigurationError` on a standby or where the tables are missing, and
        `DatabaseUnavailableError` where the database does not answer; it connects anew at the
        next call.
        """
        ...

    def backlog(self, position: Any, /) -> Backlog:
        """Count what is visible now and comes after a position; reads that much of an index."""
        ...

    def close(self) -> None:
        """Give the connection back; idempotent."""
        ...


def open_capture(engine: sa.Engine, source: str = "") -> Capture:
    """Return the capture for the kind of database behind an engine; connects at its first call.

    `source` is for events that have none. Raises `ConfigurationError` for a kind that cannot be
    read.
    """
    match engine.dialect.name:
        case "postgresql":
            from relay.capture.snapshot import SnapshotCapture  # noqa: PLC0415  # needs psycopg

            return SnapshotCapture(engine, source)
        case "sqlite":
            from relay.capture.serial import SerialCapture  # noqa: PLC0415  # as above, needs none

            return SerialCapture(engine, source)
        case "mariadb" | "mysql":
            from relay.capture.portable import PortableCapture  # noqa: PLC0415  # the same

            return PortableCapture(engine, source)
        case other:
            raise ConfigurationError(
                f"the relay cannot read events from {other}; database_url has to start with"
                " postgresql+psycopg://, mariadb+pymysql:// or sqlite://"
            )
