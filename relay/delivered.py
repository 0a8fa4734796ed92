"""Which events every route has delivered, told from the stored positions: only those may go.

A route is whatever has a position in the database, because other relays may have routes that these
settings do not name; and whatever the settings name, because it may be about to start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from outbox.errors import ConfigurationError
from relay.capture.position import read_portable, read_serial, read_snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outbox.settings import RouteSettings

    Stored = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Delivered:
    """Each row numbered up to the floor and visible in all of the snapshots is delivered."""

    floor: int
    snapshots: tuple[str, ...]
    """None where the floor alone tells."""
    slowest: str
    """The route that the floor is of."""


@dataclass(frozen=True, slots=True)
class Held:
    """No event may go."""

    reason: str


def delivered(
    settings: Mapping[str, RouteSettings],
    stored: Mapping[str, Stored],
    dialect: str,
    system: str | None,
) -> Delivered | Held:
    """Return what all routes together have delivered, or why nothing may go.

    `stored` is the position of every route in the database, `system` the identifier of the server
    (PostgreSQL). A route that never ran holds everything, unless it is to start with what commits
    from then on. During a late pass the floor and the snapshot still say no more than what is
    delivered; what the pass itself has delivered above that waits for its end.
    """
    positions: dict[str, Mapping[str, Any]] = {}
    for name in sorted(settings.keys() | stored.keys()):
        position = stored.get(name)
        if position is not None:
            positions[name] = position
        elif name not in settings:
            return Held(f"route {name} has no position yet, and stands in the database alone")
        elif settings[name].start != "now":
            return Held(f"route {name} never ran, and is to start with events of the past")
    if not positions:
        return Held("no route has run yet")
    floors: dict[str, int] = {}
    snapshots: dict[str, None] = {}
    for name, position in positions.items():
        try:
            floors[name], snapshot = _read(position, dialect, system)
        except ConfigurationError as exc:
            return Held(f"route {name}: {exc}")
        if snapshot is not None:
            snapshots[snapshot] = None
    slowest = min(floors, key=floors.__getitem__)
    return Delivered(floors[slowest], tuple(snapshots), slowest)


def _read(position: Mapping[str, Any], dialect: str, system: str | None) -> tuple[int, str | None]:
    """Return the floor of a position and its snapshot, where it has one."""
    match dialect:
        case "postgresql":
            read = read_snapshot(position)
            if read.server.system != system:
                raise ConfigurationError(
                    "its position was made on another database server; run `outbox relay --rebase`"
                )
            return read.floor, read.snapshot
        case "sqlite":
            return read_serial(position).floor, None
        case "mariadb" | "mysql":
            return read_portable(position).settled_floor, None
        case other:
            raise ConfigurationError(f"it cannot be told what was delivered from {other}")
