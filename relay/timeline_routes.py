"""Where the events of a timeline went, and by when, told from the positions of the routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa

from outbox.chunks import rows_with
from outbox.errors import OutboxError
from outbox.rows import Rows
from outbox.table import outbox_checkpoint, outbox_event
from outbox.transports import audit, transport_of
from outbox.transports.topic import TopicTemplate
from relay.delivered import Delivered, Held, delivered
from relay.expiry import is_delivered, system_of
from relay.filter import EventFilter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from outbox.letter import Letter
    from outbox.settings import RouteSettings, Settings
    from relay.timeline_events import Event

    Name = tuple[str, str]
    Handled = Mapping[Name, Sequence[tuple[str, datetime]]]
    Letters = Mapping[Name, Sequence[Letter]]

State = Literal["delivered", "passed", "waiting", "set aside", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One event on one route that carries it by today's settings."""

    route: str
    destination: str
    """The transport, and the topic or bucket where that is known."""
    state: State
    """`delivered`; `passed` by the position of a route that may not have carried it, because it
    began behind it or carried others then; `waiting`; `set aside` as a dead letter; `unknown`."""
    by: datetime | None = None
    """When it was delivered at the latest; None where nothing that is stored tells."""
    reason: str | None = None
    """Why it is unknown."""


def passages(
    connection: sa.Connection,
    settings: Settings,
    events: Sequence[Event],
    handled: Handled,
    letters: Letters,
) -> dict[Event, list[Passage]]:
    """Return the passages of events on all routes of the settings."""
    stored = {row.route: row for row in connection.execute(sa.select(outbox_checkpoint))}
    found: dict[Event, list[Passage]] = {event: [] for event in events}
    envelopes = Rows.of([event.envelope for event in events])
    trail = _trail_of(settings)
    for route, own in settings.routes.items():
        row = stored.get(route)
        carried = [events[index] for index in EventFilter(own.types, own.where).select(envelopes)]
        told = None if row is None else _told(connection, route, own, row.position)
        settled = _settled(connection, told, carried)
        for event in carried:
            proofs = list(_proofs(settings, route, handled.get(event.name, ())))
            is_recorded = route == trail and event.position is not None
            if is_recorded and event.recorded_at is not None:
                proofs.append(event.recorded_at)
            own_letters = [
                letter
                for letter in letters.get(event.name, ())
                if letter.stage == "relay" and letter.owner == route
            ]
            state = _state(own, told, event, settled, is_proved=is_recorded or bool(proofs))
            if state == "delivered" and route == trail and not is_recorded:
                state = "passed"  # the trail would have it
            if own_letters:
                proofs = [each.resolved_at for each in own_letters if each.resolved_at is not None]
                state = "delivered" if own_letters[-1].status == "replayed" else "set aside"
            elif row is not None and row.advanced_at is not None and event in settled:
                proofs.append(row.advanced_at)
            if state is not None:
                found[event].append(
                    Passage(
                        route=route,
                        destination=_destination(own, event),
                        state=state,
                        by=min(proofs, default=None) if state in _GONE else None,
                        reason=told.reason if isinstance(told, Held) else None,
                    )
                )
    return found


_GONE: Final = frozenset({"delivered", "passed"})


def _told(
    connection: sa.Connection, route: str, own: RouteSettings, position: Any
) -> Delivered | Held | None:
    """Return what a route has delivered, by its position; None where it has none."""
    if position is None:
        return None
    system = system_of(connection)
    return delivered({route: own}, {route: position}, connection.dialect.name, system)


def _state(
    own: RouteSettings,
    told: Delivered | Held | None,
    event: Event,
    settled: set[Event],
    *,
    is_proved: bool,
) -> State | None:
    """Return how an event stands with a route; None where the route never saw it, nor will."""
    if is_proved:
        return "delivered"
    if told is None:
        return "waiting" if event.is_stored else None
    if not event.is_stored:
        return "passed"  # retention deletes what every route has settled, of those there were
    if event in settled:
        return "delivered" if own.start == "beginning" else "passed"
    return "unknown" if isinstance(told, Held) else "waiting"


def _settled(
    connection: sa.Connection, told: Delivered | Held | None, events: Sequence[Event]
) -> set[Event]:
    """Return those events that a route has settled."""
    if not isinstance(told, Delivered):
        return set()
    stored = {event.sequence: event for event in events if event.is_stored}
    query = sa.select(outbox_event.c.seq).where(*is_delivered(told))
    rows = rows_with(connection, query, outbox_event.c.seq, stored)
    return {stored[row.seq] for row in rows}


def _trail_of(settings: Settings) -> str | None:
    """Return the route that alone writes the trail of this database, where there is one."""
    found = [
        route
        for route, own in settings.routes.items()
        if own.transport == "audit" and _is_kept_here(settings, route, own)
    ]
    return found[0] if len(found) == 1 else None


def _is_kept_here(settings: Settings, route: str, own: RouteSettings) -> bool:
    _, options = transport_of(route, own, settings.url)
    assert isinstance(options, audit.Options)  # noqa: S101  # of that transport
    return audit.database_of(route, options) == settings.url


def _proofs(
    settings: Settings, route: str, handled: Sequence[tuple[str, datetime]]
) -> Iterator[datetime]:
    """Yield when a consumer has processed an event that it only has from this route."""
    for consumer, processed_at in handled:
        if _route_of(settings, consumer) == route:
            yield processed_at


def _route_of(settings: Settings, consumer: str) -> str | None:
    """Return the route that a consumer receives from, where that is sure."""
    own = settings.consumers.get(consumer)
    if own is not None and own.route is not None:
        return own.route
    # Else it is the first one by the settings of its worker, which need not be these.
    routes = [name for name, route in settings.routes.items() if route.transport != "audit"]
    return routes[0] if len(routes) == 1 else None


def _destination(own: RouteSettings, event: Event) -> str:
    options = own.options
    if "bucket" in options:
        return f"{own.transport}, bucket {options['bucket']}"
    if own.transport not in _WITH_TOPICS:
        return own.transport
    try:
        topic = TopicTemplate(str(options.get("topic", "{type_prefix}"))).topic(event.envelope)
    except OutboxError:
        return own.transport
    return f"{own.transport}, topic {topic}"


_WITH_TOPICS: Final = frozenset({"kafka", "activemq", "memory"})
