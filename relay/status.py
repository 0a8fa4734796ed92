"""How each route is doing, from the database alone: it needs neither the broker nor a relay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from outbox import clock, dead_letter
from outbox.errors import ConfigurationError
from outbox.table import outbox_checkpoint as checkpoint
from relay.capture import Backlog, open_capture
from relay.database import transaction
from relay.lease import is_paused
from relay.start import starting_position

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from outbox.dead_letter import Status
    from outbox.settings import RouteSettings, Settings
    from relay.capture import Capture


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStatus:
    """One route, as the database sees it at one moment."""

    route: str
    backlog_count: int | None
    """Events of any type that the route has not settled yet; None where that cannot be told."""
    oldest_at: datetime | None
    """`time` of the oldest of them; None where there is none."""
    lag_seconds: float | None
    """Its age by the database's clock: 0 where there is none, None where that cannot be told."""
    dead_count: int
    """Dead letters, those included that are to be tried again."""
    parked_count: int
    """Events parked behind them."""
    is_paused: bool
    """An operator has paused it, so no relay runs it."""
    holder: str | None
    """The relay that runs it now; None where none does."""
    lease_expires_at: datetime | None
    floor: int | None
    """The sequence that it has come to, but for late rows; None where it never ran."""
    advanced_at: datetime | None
    """When its position was last stored."""
    error: str | None
    """Why it stands still; None where it flows, as far as is known."""
    error_at: datetime | None


def route_status(engine: sa.Engine, settings: Settings) -> list[RouteStatus]:
    """Return the status of every route of the settings.

    Raises `DatabaseUnavailableError`, and `ConfigurationError` where the tables are missing.
    """
    query = sa.select(
        checkpoint,
        (checkpoint.c.expires_at > clock.now()).label("is_held"),
        is_paused().label("is_paused"),
    )
    with transaction(engine) as connection:
        rows = {row.route: row for row in connection.execute(query)}
        read_at = connection.scalar(sa.select(clock.now()))
        letters = dead_letter.tally(connection, "relay")
    capture = open_capture(engine)
    try:
        return [
            _status(engine, capture, name, route, rows.get(name), letters, read_at)
            for name, route in settings.routes.items()
        ]
    finally:
        capture.close()


def _status(
    engine: sa.Engine,
    capture: Capture,
    name: str,
    settings: RouteSettings,
    row: sa.Row[Any] | None,
    letters: Mapping[tuple[str, Status], int],
    read_at: datetime | None,
) -> RouteStatus:
    error = row and row.error
    backlog: Backlog | None = None
    try:
        backlog = _backlog(engine, capture, settings, row and row.position)
    except ConfigurationError as exc:
        error = str(exc)
    paused = row is not None and bool(row.is_paused)
    is_held = row is not None and bool(row.is_held) and not paused
    return RouteStatus(
        route=name,
        backlog_count=None if backlog is None else backlog.count,
        oldest_at=None if backlog is None else backlog.oldest_at,
        lag_seconds=_lag(backlog, read_at),
        dead_count=letters.get((name, "dead"), 0) + letters.get((name, "requested"), 0),
        parked_count=letters.get((name, "parked"), 0),
        is_paused=paused,
        holder=row.holder if row is not None and is_held else None,
        lease_expires_at=row.expires_at if row is not None and is_held else None,
        floor=row.position["floor"] if row is not None and row.position else None,
        advanced_at=row and row.advanced_at,
        error=error,
        error_at=row and row.error_at,
    )


def _backlog(
    engine: sa.Engine, capture: Capture, settings: RouteSettings, stored: Mapping[str, Any] | None
) -> Backlog:
    if stored is not None:
        return capture.backlog(capture.position(stored))
    if settings.start == "now":
        return Backlog(0, None)
    return capture.backlog(starting_position(engine, capture, settings.start))


def _lag(backlog: Backlog | None, read_at: datetime | None) -> float | None:
    if backlog is None or read_at is None:
        return None
    if backlog.oldest_at is None:
        return 0.0
    return max(0.0, (read_at - backlog.oldest_at).total_seconds())
