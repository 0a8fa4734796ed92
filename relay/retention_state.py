"""What retention has come to: kept in the row of its lease for the next holder, and to be shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from outbox import partitions
from outbox.settings import RESERVED
from outbox.table import outbox_checkpoint as checkpoint
from outbox.table import outbox_event
from relay.database import transaction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outbox.settings import Settings

NAME: Final = f"{RESERVED}retention"
"""The row of `outbox_checkpoint` that holds its lease."""


@dataclass(slots=True, kw_only=True)
class Walk:
    """How far the walk over one table has come."""

    started_at: datetime
    """When it began, by the database's clock."""
    cursor: Any = None
    is_over: bool = False
    held: str | None = None
    """Why it left rows that are old enough."""

    def to_json(self) -> dict[str, Any]:
        """Return what `read` reads."""
        return {
            "started_at": self.started_at.isoformat(),
            "cursor": self.cursor,
            "is_over": self.is_over,
            "held": self.held,
        }

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Walk:
        """Read a stored walk."""
        return cls(**{**stored, "started_at": datetime.fromisoformat(stored["started_at"])})


@dataclass(slots=True)
class State:
    """What the row of the lease holds as its position."""

    passed_at: datetime | None = None
    """When the last pass ended."""
    deleted: dict[str, int] = field(default_factory=dict)
    """Rows deleted by the last pass, or so far by the one that is going on, by table."""
    walks: dict[str, Walk] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what `read` reads."""
        return {
            "kind": "retention",
            "passed_at": self.passed_at and self.passed_at.isoformat(),
            "deleted": self.deleted,
            "walks": {name: walk.to_json() for name, walk in self.walks.items()},
        }

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> State:
        """Read a stored state; none is that of a database where nothing was ever deleted."""
        if stored is None:
            return cls()
        passed_at = stored["passed_at"]
        return cls(
            passed_at and datetime.fromisoformat(passed_at),
            dict(stored["deleted"]),
            {name: Walk.read(walk) for name, walk in stored["walks"].items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionStatus:
    """What `outbox status` shows of it."""

    passed_at: datetime | None
    """When everything that was old enough was last looked through; None where it never was."""
    deleted: Mapping[str, int]
    """Rows that this deleted, by table; or so far, while it is going on."""
    held: Mapping[str, str]
    """Why rows are kept that are old enough, by table."""
    unknown_routes: Sequence[str]
    """Routes that have a position here, for which events are kept, but are not in the settings."""
    error: str | None
    """Why it cannot work; None where it can, as far as is known."""
    error_at: datetime | None


def retention_status(engine: sa.Engine, settings: Settings) -> RetentionStatus | None:
    """Return how it is doing; None where the settings have no age for anything."""
    if not settings.retention.is_on:
        return None
    with transaction(engine) as connection:
        rows = {row.route: row for row in connection.execute(sa.select(checkpoint))}
    own = rows.get(NAME)
    state = State.read(None if own is None else own.position)
    names = {name for name in rows if not name.startswith(RESERVED)} - settings.routes.keys()
    return RetentionStatus(
        passed_at=state.passed_at,
        deleted=state.deleted,
        held={table: walk.held for table, walk in state.walks.items() if walk.held is not None},
        unknown_routes=sorted(names) if settings.retention.events is not None else [],
        error=None if own is None else own.error,
        error_at=None if own is None else own.error_at,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """What `outbox status` shows of an outbox that has partitions."""

    count: int
    room_count: int
    """Numbers that the partitions still take; when they are drawn, producers fail."""
    is_short: bool
    """Fewer are ahead than a relay lets it come to."""


def partition_status(engine: sa.Engine) -> PartitionStatus | None:
    """Return how much room there is; None where there are no partitions."""
    if engine.dialect.name != "postgresql":
        return None
    with transaction(engine) as connection:
        if not partitions.is_partitioned(connection):
            return None
        found = partitions.partitions(connection)
        # Not the sequence, which a role that only looks may not read.
        last = connection.scalar(sa.select(sa.func.max(outbox_event.c.seq))) or 0
    ahead = [each for each in found if each.lower > last]
    return PartitionStatus(
        count=len(found),
        room_count=sum(
            each.upper - max(each.lower, last + 1) for each in found if each.upper > last
        ),
        is_short=len(ahead) < partitions.SHORT,
    )
