"""`outbox dead-letters`: events set aside, and what to do with them."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from outbox import dead_letter
from outbox.cli import envelopes, letter_choice
from outbox.cli.errors import FailedError
from outbox.cli.invocation import Invocation, of, require_command
from outbox.cli.letter_choice import (
    AllOption,
    ConsumerOption,
    IdsArgument,
    KeyOption,
    RouteOption,
    TypeOption,
    YesOption,
)
from outbox.cli.output import Column, counted, duration, moment, visible
from outbox.codec import time_text, to_json
from outbox.dead_letter import UNRESOLVED, Filter, Letter, Status
from outbox.envelope import Envelope

app = typer.Typer(
    help="List, show, replay and discard dead letters.",
    callback=require_command,
    invoke_without_command=True,
)

COLUMNS: Final = (
    Column("id", right=True),
    Column("of"),
    Column("status"),
    Column("age", right=True),
    Column("type", shrinks=True),
    Column("key", shrinks=True),
    Column("reason", shrinks=True),
)


class Choice(StrEnum):
    """What `--status` takes."""

    UNRESOLVED = "unresolved"
    DEAD = "dead"
    PARKED = "parked"
    REQUESTED = "requested"
    REPLAYED = "replayed"
    DISCARDED = "discarded"
    ALL = "all"


STATUSES: Final[dict[Choice, frozenset[Status]]] = {
    Choice.UNRESOLVED: UNRESOLVED,
    Choice.DEAD: frozenset({"dead"}),
    Choice.PARKED: frozenset({"parked"}),
    Choice.REQUESTED: frozenset({"requested"}),
    Choice.REPLAYED: frozenset({"replayed"}),
    Choice.DISCARDED: frozenset({"discarded"}),
    Choice.ALL: UNRESOLVED | {"replayed", "discarded"},
}


@app.command("list")
def list_letters(
    context: typer.Context,
    *,
    route: RouteOption = None,
    consumer: ConsumerOption = None,
    event_type: TypeOption = None,
    key: KeyOption = None,
    status: Annotated[Choice, typer.Option(help="Only these.")] = Choice.UNRESOLVED,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines for scripts.")] = False,
) -> None:
    """List dead letters, the oldest first."""
    run = of(context)
    owner = letter_choice.owner(run, route, consumer)
    which = Filter(
        stage=owner.stage,
        owner=owner.name,
        statuses=STATUSES[status],
        type=event_type,
        partition_key=key,
    )
    with run.engine.connect() as connection:
        found = dead_letter.find(connection, which, limit)
        left = dead_letter.count(connection, which) - len(found)
    if as_json:
        for letter in found:
            run.output.json_line(as_document(letter))
        return
    if found or not run.output.is_terminal:
        run.output.table(COLUMNS, [_cells(letter, datetime.now(UTC)) for letter in found])
    else:
        run.output.line("no dead letters", "dim")
    if left and run.output.is_terminal:
        run.output.line(f"and {left:,} more (--limit)", "dim")


@app.command("show")
def show_letter(
    context: typer.Context,
    letter_id: Annotated[int, typer.Argument(metavar="ID", help="Its id in the list.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Show one dead letter in full."""
    run = of(context)
    with run.engine.connect() as connection:
        letter = dead_letter.get(connection, letter_id)
    if letter is None:
        raise FailedError(letter_choice.absent([letter_id]))
    if as_json:
        run.output.json(as_document(letter))
        return
    run.output.fields(_fields(letter))
    envelopes.show_data(run.output, letter.content.data)


@app.command("replay")
def replay_letters(
    context: typer.Context,
    ids: IdsArgument = None,
    *,
    route: RouteOption = None,
    consumer: ConsumerOption = None,
    everything: AllOption = False,
    wait: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Wait so long for what becomes of them."),
    ] = None,
) -> None:
    """Ask for dead letters to be tried again, in the order of their keys.

    A running relay or worker does it; the parked ones behind them follow by themselves.
    """
    run = of(context)
    which = letter_choice.choice(run, ids, route, consumer, everything=everything)
    with run.engine.begin() as connection:
        chosen = letter_choice.require(connection, which)
        dead_letter.request(connection, chosen if ids else which)
        requested = letter_choice.ids_of(connection, chosen, "requested")
        parked = letter_choice.ids_of(connection, chosen, "parked")
    for text in _announcement(requested, parked, chosen):
        run.output.line(text)
    if wait is not None and requested:
        _await(run, requested, wait)


@app.command("discard")
def discard_letters(
    context: typer.Context,
    ids: IdsArgument = None,
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with the letter.")],
    route: RouteOption = None,
    consumer: ConsumerOption = None,
    everything: AllOption = False,
    yes: YesOption = False,
) -> None:
    """Give dead letters up for good; the parked ones behind them then go on."""
    run = of(context)
    which = letter_choice.choice(run, ids, route, consumer, everything=everything)
    with run.engine.begin() as connection:
        chosen = letter_choice.require(connection, which)
        if not ids and not yes:
            run.confirm(f"Discard {counted(len(chosen), 'dead letter')} for good?")
        discarded = dead_letter.discard(connection, chosen, reason)
    run.output.line(f"discarded {counted(discarded, 'dead letter')}")


def as_document(letter: Letter) -> dict[str, Any]:
    """Return a letter for JSON; the event stands in it in CloudEvents' JSON format."""
    content = letter.content
    if isinstance(content, Envelope):
        event: dict[str, Any] | None = to_json(content)
        message = None
    else:
        event, message = None, {"topic": content.topic, "data": envelopes.text_of(content.data)}
    return {**facts_of(letter), "event": event, "message": message}


def facts_of(letter: Letter) -> dict[str, Any]:
    """Return for JSON what became of a letter, without what is in it."""
    return {
        "id": letter.id,
        "stage": letter.stage,
        "owner": letter.owner,
        "status": letter.status,
        "reason": letter.reason,
        "attempt_count": letter.attempt_count,
        "first_failed_at": time_text(letter.first_failed_at),
        "last_failed_at": time_text(letter.last_failed_at),
        "resolved_at": letter.resolved_at and time_text(letter.resolved_at),
        "note": letter.note,
        "place": letter.place,
    }


def _cells(letter: Letter, now: datetime) -> tuple[object, ...]:
    envelope = letter.envelope
    return (
        letter.id,
        f"{'route' if letter.stage == 'relay' else letter.stage} {letter.owner}",
        letter.status,
        duration((now - letter.first_failed_at).total_seconds()),
        "(not an event)" if envelope is None else envelope.type,
        letter.partition_key,
        letter.reason,
    )


def _fields(letter: Letter) -> list[tuple[str, object]]:
    envelope = letter.envelope
    return [
        ("dead letter", letter.id),
        ("of", f"{'route' if letter.stage == 'relay' else letter.stage} {letter.owner}"),
        ("status", letter.status),
        ("reason", letter.reason),
        ("attempts", letter.attempt_count),
        ("first failed", moment(letter.first_failed_at)),
        ("last failed", moment(letter.last_failed_at)),
        ("resolved", moment(letter.resolved_at)),
        ("note", letter.note),
        ("place", letter.place),
        *(envelopes.fields(envelope) if envelope else [("topic", letter.content.topic)]),
    ]


def _announcement(requested: list[int], parked: list[int], chosen: list[int]) -> list[str]:
    lines = []
    if requested:
        lines.append(
            f"{counted(len(requested), 'dead letter')} will be tried again by the running relay"
            " or worker, in the order of their keys"
        )
    if parked:
        lines.append(
            f"{counted(len(parked), 'parked event')} will follow as soon as no dead letter"
            " stands before them"
        )
    if len(requested) + len(parked) < len(chosen):
        done = len(chosen) - len(requested) - len(parked)
        lines.append(f"{counted(done, 'letter')} had been replayed before and stay so")
    return lines


def _await(run: Invocation, requested: list[int], seconds: float) -> None:
    """Wait until each letter is replayed; raises `FailedError` where one is not."""
    after = letter_choice.wait_for(run, requested, seconds)
    replayed = sum(status == "replayed" for status, _ in after.values())
    failures = {number: reason for number, (status, reason) in after.items() if status == "dead"}
    waiting = sum(status == "requested" for status, _ in after.values())
    run.output.line(f"replayed {counted(replayed, 'dead letter')}")
    if failures:
        number, reason = next(iter(failures.items()))
        msg = (
            f"{counted(len(failures), 'dead letter')} failed again; letter {number}:"
            f" {visible(reason)}"
        )
        raise FailedError(msg)
    if waiting:
        msg = (
            f"{counted(waiting, 'dead letter')} not tried within {seconds:g} s: is the relay or"
            " worker running (`outbox status`), or does an earlier letter of the key stand before?"
        )
        raise FailedError(msg)
