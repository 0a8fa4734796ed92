"""`outbox status`: how each route is doing."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any, Final

import sqlalchemy as sa
import typer

from outbox import dead_letter
from outbox.cli.invocation import of
from outbox.cli.output import Column, Output, counted, duration, moment
from outbox.codec import time_text
from outbox.dead_letter import Status
from relay.retention_state import (
    PartitionStatus,
    RetentionStatus,
    partition_status,
    retention_status,
)
from relay.status import RouteStatus, route_status

ROUTE_COLUMNS: Final = (
    Column("route", shrinks=True),
    Column("state"),
    Column("lag", right=True),
    Column("backlog", right=True),
    Column("dead", right=True),
    Column("parked", right=True),
    Column("holder", shrinks=True),
    Column("expires"),
)
NOUNS: Final = {
    "events": "event",
    "partitions": "partition",
    "inbox": "inbox row",
    "dead_letters": "dead letter",
}
"""What the rows are called that retention deletes, by its setting."""
CONSUMER_COLUMNS: Final = (
    Column("consumer"),
    Column("dead", right=True),
    Column("parked", right=True),
)


def status(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Show lag, backlog, dead letters and lease of each route, from the database alone."""
    run = of(context)
    run.route_names(None)
    routes = route_status(run.engine, run.settings)
    consumers = _consumers(run.engine)
    retention = retention_status(run.engine, run.settings)
    partitions = partition_status(run.engine)
    if as_json:
        run.output.json(
            {
                "routes": [{"state": state_of(route), **_document(route)} for route in routes],
                "consumers": consumers,
                "retention": retention and _document(retention),
                "partitions": partitions and _document(partitions),
            }
        )
    else:
        _show(run.output, routes, consumers)
        if retention is not None:
            _show_retention(run.output, retention)
        if partitions is not None:
            _show_partitions(run.output, partitions)


def state_of(route: RouteStatus) -> str:
    """Say in one word how a route is doing."""
    if route.is_paused:
        return "paused"
    if route.holder is None:
        return "stopped"
    return "running" if route.error is None else "held"


def _show(output: Output, routes: list[RouteStatus], consumers: list[dict[str, Any]]) -> None:
    output.table(ROUTE_COLUMNS, [_cells(route) for route in routes])
    for route in routes:
        if route.oldest_at is not None:
            text = f"oldest unsent event of {route.route}: {moment(route.oldest_at)}"
            output.line(text, "dim")
    for route in routes:
        if route.error is not None:
            since = "" if route.error_at is None else f" since {moment(route.error_at)}"
            output.line(f"{route.route} {_verb(route)}{since}: {route.error}", "bold red")
    if consumers:
        output.line()
        output.table(CONSUMER_COLUMNS, [list(each.values()) for each in consumers])


def _verb(route: RouteStatus) -> str:
    if route.is_paused:
        return "is paused"
    return "ended" if route.holder is None else "stands still"


def _cells(route: RouteStatus) -> tuple[object, ...]:
    expires = route.lease_expires_at
    return (
        route.route,
        state_of(route),
        "?" if route.lag_seconds is None else duration(route.lag_seconds),
        "?" if route.backlog_count is None else f"{route.backlog_count:,}",
        f"{route.dead_count:,}",
        f"{route.parked_count:,}",
        route.holder or "-",
        "-" if expires is None else f"{expires:%H:%M:%SZ}",
    )


def _show_retention(output: Output, retention: RetentionStatus) -> None:
    output.line()
    if retention.passed_at is None:
        output.line("retention has not run yet: a relay does it, or `outbox retention`")
    else:
        counts = [
            counted(count, NOUNS[table]) for table, count in retention.deleted.items() if count
        ]
        did = " and ".join(counts) or "nothing"
        output.line(
            f"retention deleted {did} when it last ran, {moment(retention.passed_at)}", "dim"
        )
    for table, reason in retention.held.items():
        output.line(f"older {NOUNS[table]}s are kept: {reason}")
    for name in retention.unknown_routes:
        output.line(
            f"events are kept for route {name}, which is not in these settings; if no relay has it"
            f" any more: `outbox routes forget {name}`"
        )
    if retention.error is not None:
        output.line(
            f"retention cannot work since {moment(retention.error_at)}: {retention.error}",
            "bold red",
        )


def _show_partitions(output: Output, found: PartitionStatus) -> None:
    room = f"{found.count} partitions with room for {counted(found.room_count, 'event')} more"
    if found.is_short:
        output.line(
            f"only {room}: then producers fail. Run `outbox migrate --partition-rows N`, and let a"
            " relay run whose role may alter outbox_event",
            "bold red",
        )
    else:
        output.line(room, "dim")


def _document(found: RouteStatus | RetentionStatus | PartitionStatus) -> dict[str, Any]:
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    return {
        name: time_text(value) if isinstance(value, datetime) else value
        for name, value in values.items()
    }


def _consumers(engine: sa.Engine) -> list[dict[str, Any]]:
    """Return the consumers that have unresolved letters in this database."""
    with engine.connect() as connection:
        tally: dict[tuple[str, Status], int] = dead_letter.tally(connection, "consumer")
    return [
        {
            "consumer": name,
            "dead_count": tally.get((name, "dead"), 0) + tally.get((name, "requested"), 0),
            "parked_count": tally.get((name, "parked"), 0),
        }
        for name in sorted({owner for owner, _ in tally})
    ]
