"""Which dead letters a command means: by id, of a route or a consumer, or all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import sqlalchemy as sa
import typer

from outbox.chunks import in_chunks
from outbox.cli.errors import CommandLineError, FailedError
from outbox.dead_letter import CHUNK, Filter, Stage, Status
from outbox.table import outbox_dead_letter as letters

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outbox.cli.invocation import Invocation

POLL_SECONDS: Final = 0.1

IdsArgument = Annotated[
    list[int] | None, typer.Argument(metavar="ID", help="Ids from `dead-letters list`.")
]
RouteOption = Annotated[
    str | None, typer.Option("--route", metavar="NAME", help="Those of this route.")
]
ConsumerOption = Annotated[
    str | None, typer.Option("--consumer", metavar="NAME", help="Those of this consumer.")
]
TypeOption = Annotated[
    str | None, typer.Option("--type", metavar="TYPE", help="Those of this event type.")
]
KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Those of this partition key.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All that are unresolved.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose letters are meant; None stands for everybody's."""

    stage: Stage | None = None
    name: str | None = None


def owner(run: Invocation, route: str | None, consumer: str | None) -> Owner:
    """Return the owner that the options name; raises `CommandLineError` for an unknown route."""
    if route is not None and consumer is not None:
        msg = "give --route or --consumer, not both"
        raise CommandLineError(msg)
    if route is not None:
        return Owner("relay", run.known_route(route))
    return Owner() if consumer is None else Owner("consumer", consumer)


def choice(
    run: Invocation,
    ids: Sequence[int] | None,
    route: str | None,
    consumer: str | None,
    *,
    everything: bool,
) -> Filter:
    """Return what the command line chose; raises `CommandLineError` unless it is one thing."""
    ways = [bool(ids), route is not None or consumer is not None, everything]
    if ways.count(True) != 1:
        msg = "say which dead letters: their ids, or --route NAME, or --consumer NAME, or --all"
        raise CommandLineError(msg)
    if ids:
        statuses: frozenset[Status] = frozenset(
            {"dead", "parked", "requested", "replayed", "discarded"}
        )
        return Filter(ids=ids, statuses=statuses)
    chosen = owner(run, route, consumer)
    return Filter(stage=chosen.stage, owner=chosen.name)


def require(connection: sa.Connection, which: Filter) -> list[int]:
    """Return the ids of the letters; raises `FailedError` where one, or every, is missing."""
    found = list(
        connection.scalars(
            sa.select(letters.c.id).where(*which.conditions()).order_by(letters.c.id)
        )
    )
    missing = sorted(set(which.ids or ()) - set(found))
    if missing:
        raise FailedError(absent(missing))
    if not found:
        msg = "there is no such dead letter (see `outbox dead-letters list`)"
        raise FailedError(msg)
    return found


def absent(ids: Sequence[int]) -> str:
    """Say that there are no letters of these ids."""
    numbers = ", ".join(map(str, ids))
    return f"there is no dead letter {numbers} (see `outbox dead-letters list`)"


def ids_of(connection: sa.Connection, ids: Sequence[int], status: Status) -> list[int]:
    """Return those of the letters that have a status."""
    return [number for number, (found, _) in _statuses(connection, ids) if found == status]


def wait_for(run: Invocation, ids: Sequence[int], seconds: float) -> dict[int, tuple[Status, str]]:
    """Wait, at most so long, until none is requested any more; return status and reason of each."""
    deadline = time.monotonic() + seconds
    while True:
        with run.engine.connect() as connection:
            states = dict(_statuses(connection, ids))
        is_settled = all(status != "requested" for status, _ in states.values())
        if is_settled or time.monotonic() >= deadline:
            return states
        time.sleep(POLL_SECONDS)


def _statuses(
    connection: sa.Connection, ids: Sequence[int]
) -> Iterator[tuple[int, tuple[Status, str]]]:
    query = sa.select(letters.c.id, letters.c.status, letters.c.reason)
    for chunk in in_chunks(ids, CHUNK):
        for number, status, reason in connection.execute(query.where(letters.c.id.in_(chunk))):
            yield number, (status, reason)
