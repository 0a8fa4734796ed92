"""Positions: how far a route has come, as frozen values that say exactly what was delivered."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from outbox.errors import ConfigurationError, ForeignPositionError
from relay.capture.gap import Gap, Gaps, up_to

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relay.capture import Position

SNAPSHOT: Final = "snapshot"
SERIAL: Final = "serial"
PORTABLE: Final = "portable"
KINDS: Final = (SNAPSHOT, SERIAL, PORTABLE)


@dataclass(frozen=True, slots=True)
class Server:
    """The database server that a position was made on."""

    system: str
    """Its system identifier: the same for a server, its standbys and physical copies."""
    incarnation: str
    """A UUID that a crash, a fail-over, a restore or a clone empties; on MariaDB a restart too."""


@dataclass(frozen=True, slots=True)
class LatePass:
    """The late rows of one snapshot while they are read in several pages."""

    target: str
    """The snapshot that the pass brings the position to."""
    transactions: tuple[int, ...]
    """Those that are visible in the target, were not in the position's snapshot, and may have
    rows at or below its floor."""
    cursor: int
    """Of these transactions, every row numbered up to here is delivered."""


@dataclass(frozen=True, slots=True)
class SnapshotPosition:
    """A position on PostgreSQL.

    Delivered is, at any time, exactly: each row visible in `snapshot` and numbered at or below
    `floor`; and, during a late pass, each row of one of its transactions, visible in its target,
    and numbered at or below its cursor. Snapshots are in PostgreSQL's text form.
    """

    floor: int
    snapshot: str
    late: LatePass | None
    server: Server

    def to_json(self) -> dict[str, Any]:
        """Return what `read_snapshot` reads."""
        late = self.late and {
            "target": self.late.target,
            "transactions": list(self.late.transactions),
            "cursor": self.late.cursor,
        }
        return {
            "kind": SNAPSHOT,
            "floor": self.floor,
            "snapshot": self.snapshot,
            "late": late,
            "server": _server_to_json(self.server),
        }


@dataclass(frozen=True, slots=True)
class SerialPosition:
    """A position where writers take turns: each row numbered at or below `floor` is delivered."""

    floor: int

    def to_json(self) -> dict[str, Any]:
        """Return what `read_serial` reads."""
        return {"kind": SERIAL, "floor": self.floor}


@dataclass(frozen=True, slots=True)
class PortablePosition:
    """A position on a database that tells nothing about transactions (MariaDB).

    Delivered is each row numbered at or below `floor` that is in none of the `gaps`, which all
    are at or below it. A number in no gap there was delivered, or will never have a row.
    """

    floor: int
    gaps: Gaps
    server: Server

    @property
    def settled_floor(self) -> int:
        """Each row numbered at or below this is delivered, also those that commit later."""
        return self.gaps[0].first - 1 if self.gaps else self.floor

    def to_json(self) -> dict[str, Any]:
        """Return what `read_portable` reads."""
        return {
            "kind": PORTABLE,
            "floor": self.floor,
            "gaps": [list(gap) for gap in self.gaps],
            "server": _server_to_json(self.server),
        }


def read_snapshot(stored: Mapping[str, Any]) -> SnapshotPosition:
    """Read a stored position of PostgreSQL.

    Raises `ForeignPositionError` for one of another kind of database, and `ConfigurationError`
    for what is no position.
    """
    _check_kind(stored, SNAPSHOT)
    try:
        late = stored["late"]
        return SnapshotPosition(
            floor=int(stored["floor"]),
            snapshot=_snapshot(stored["snapshot"]),
            late=late
            and LatePass(
                target=_snapshot(late["target"]),
                transactions=tuple(int(x) for x in late["transactions"]),
                cursor=int(late["cursor"]),
            ),
            server=_server(stored),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise _unreadable(exc) from exc


def read_serial(stored: Mapping[str, Any]) -> SerialPosition:
    """Read a stored position of SQLite; raises as `read_snapshot` does."""
    _check_kind(stored, SERIAL)
    try:
        return SerialPosition(floor=int(stored["floor"]))
    except (KeyError, TypeError, ValueError) as exc:
        raise _unreadable(exc) from exc


def read_portable(stored: Mapping[str, Any]) -> PortablePosition:
    """Read a stored position of MariaDB; raises as `read_snapshot` does."""
    _check_kind(stored, PORTABLE)
    try:
        gaps = tuple(
            Gap(int(first), int(last), int(seen_at)) for first, last, seen_at in stored["gaps"]
        )
        return PortablePosition(int(stored["floor"]), gaps, _server(stored))
    except (KeyError, TypeError, ValueError) as exc:
        raise _unreadable(exc) from exc


def rewind(position: Position, seq: int) -> Position:
    """Return the position from which every row numbered above `seq` is read again.

    What is still pending at or below `seq` stays pending, and what is delivered there is not
    read again: delivered before, less the rows above `seq`, is delivered after. During a late
    pass that is {visible in the snapshot, number <= min(floor, seq)} and {of the pass's
    transactions, number <= min(cursor, seq)}. Where the cursor has come to the new floor, all
    that the pass still has to read lies above it, so the target takes the snapshot's place.
    """
    match position:
        case SerialPosition(floor):
            return SerialPosition(min(floor, seq))
        case PortablePosition(floor, gaps):
            return replace(position, floor=min(floor, seq), gaps=up_to(gaps, seq))
        case SnapshotPosition(floor, _, LatePass(target, _, cursor)) if cursor >= min(floor, seq):
            return replace(position, floor=min(floor, seq), snapshot=target, late=None)
        case SnapshotPosition(floor):
            return replace(position, floor=min(floor, seq))
        case _:
            raise TypeError(f"a {type(position).__name__} cannot be rewound")


def _server_to_json(server: Server) -> dict[str, str]:
    return {"system": server.system, "incarnation": server.incarnation}


def _server(stored: Mapping[str, Any]) -> Server:
    server = stored["server"]
    return Server(str(server["system"]), str(server["incarnation"]))


def _snapshot(text: str) -> str:
    if re.fullmatch(r"\d+:\d+:(\d+(,\d+)*)?", text) is None:
        raise ValueError(f"{text!r} is no snapshot")
    return text


def _check_kind(stored: Mapping[str, Any], kind: str) -> None:
    found = stored.get("kind")
    if found in KINDS and found != kind:
        raise ForeignPositionError(
            "the stored position was made on another kind of database; to go on with this one,"
            " run `outbox relay --rebase`"
        )
    if found != kind:
        raise _unreadable(f"its kind is {found!r}")


def _unreadable(cause: object) -> ConfigurationError:
    return ConfigurationError(
        f"the stored position cannot be read ({cause!r}); it was not written by this version"
        " of the relay: start the newest one"
    )
