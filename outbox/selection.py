"""Which stored events somebody asks for, as a condition of SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from outbox import stored
from outbox.table import outbox_event

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Events that meet every condition that is given."""

    type_glob: str | None = None
    """Of their type, with `*` and `?`."""
    key: str | None = None
    """Their partition key."""
    since: datetime | None = None
    """Not older."""
    after: int | None = None
    """Behind this sequence."""
    until: int | None = None
    """Up to this sequence."""

    def query(self) -> sa.Select[Any]:
        """Select them, as `outbox.stored` reads them; in no order."""
        return sa.select(*stored.columns()).where(*self._conditions())

    def count(self) -> sa.Select[Any]:
        """Count them."""
        return sa.select(sa.func.count()).select_from(outbox_event).where(*self._conditions())

    def _conditions(self) -> list[sa.ColumnElement[bool]]:
        event = outbox_event.c
        found: list[sa.ColumnElement[bool]] = []
        if self.type_glob is not None:
            found.append(event.type.like(like(self.type_glob), escape="\\"))
        if self.key is not None:
            found.append(event.partition_key == self.key)
        if self.since is not None:
            found.append(event.time >= self.since)
        if self.after is not None:
            found.append(event.seq > self.after)
        if self.until is not None:
            found.append(event.seq <= self.until)
        return found


def like(glob: str) -> str:
    r"""Return the pattern of SQL's LIKE, with `\` as its escape, for a glob with `*` and `?`."""
    for special in ("\\", "%", "_"):
        glob = glob.replace(special, "\\" + special)
    return glob.replace("*", "%").replace("?", "_")
