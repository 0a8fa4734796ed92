"""`outbox bench`: how fast it is here, each figure beside what one would write by hand."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import sqlalchemy as sa
import typer

from outbox.cli.errors import CommandLineError
from outbox.cli.invocation import Invocation, of, require_command
from outbox.cli.output import Column
from outbox.errors import ConfigurationError

# Its modules declare an event type and need both drivers: only a measurement loads them.
if TYPE_CHECKING:
    from outbox.bench.place import Database, Place
    from outbox.bench.report import Series

app = typer.Typer(
    name="bench",
    help="Measure on this database and broker, beside hand-written code, in the same run.",
    rich_markup_mode=None,
)

# It warns of a rollback that an interruption broke, and of nothing that is not raised as well.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

MAX_PARTITIONS: Final = 100
BACKLOGS: Final = (50_000, 200_000)
SIZES: Final = (200, 2_048)
COUNTS: Final = (1, 10)

Where = TypeVar("Where", bound="Database")

Route = Annotated[
    str | None, typer.Option(metavar="NAME", help="The Kafka route; by default the first one.")
]
Rounds = Annotated[int, typer.Option(min=1, metavar="N", help="How often each takes its turn.")]
Partitions = Annotated[
    int, typer.Option(min=1, max=MAX_PARTITIONS, metavar="N", help="Of each topic.")
]
Delivery = Annotated[
    list[str] | None,
    typer.Option(metavar="WHAT", help="Instead of the route's own; may be repeated."),
]
Note = Annotated[
    str, typer.Option(metavar="TEXT", help="Kept with the figures, e.g. the broker's version.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document, for scripts.")]


@app.callback(invoke_without_command=True)
def _bench(context: typer.Context) -> None:
    require_command(context)


@app.command("relay")
def relay(
    context: typer.Context,
    *,
    rows: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N", help="The backlog (50,000 and 200,000); repeatable."),
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option("--bytes", min=48, metavar="N", help="Of an event (200 and 2048)."),
    ] = None,
    rounds: Rounds = 3,
    large_rounds: Annotated[
        int, typer.Option(min=1, metavar="N", help="At most, of backlogs beyond a million.")
    ] = 2,
    page_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Of the hand-written script.")
    ] = 10_000,
    held_open: Annotated[
        bool, typer.Option("--held-open", help="Measure beside an open transaction as well.")
    ] = False,
    delivery: Delivery = None,
    partitions: Partitions = 3,
    route: Route = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """How fast a backlog goes to Kafka, and with how much memory."""
    from outbox.bench import relay as bench  # noqa: PLC0415  # see above

    def measure(place: Place) -> Iterable[Series]:
        plan = bench.Plan(
            backlogs=rows or BACKLOGS,
            sizes=size or SIZES,
            deliveries=_deliveries(place, delivery),
            rounds=rounds,
            large_rounds=large_rounds,
            page=page_size,
            has_held_open=held_open,
        )
        return bench.measure(place, plan, _tell)

    run = of(context)
    _run(run, "relay", _place(run, route, partitions), measure, note, as_json=as_json)


@app.command("late")
def late(
    context: typer.Context,
    *,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="Of the transaction.")] = 1_000_000,
    size: Annotated[int, typer.Option("--bytes", min=48, metavar="N", help="Of an event.")] = 200,
    rounds: Rounds = 2,
    delivery: Delivery = None,
    partitions: Partitions = 3,
    route: Route = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """How fast a large transaction goes to Kafka that commits after others were delivered."""
    from outbox.bench import late as bench  # noqa: PLC0415  # see above

    def measure(place: Place) -> Iterable[Series]:
        deliveries = _deliveries(place, delivery)
        plan = bench.Plan(rows=rows, size=size, deliveries=deliveries, rounds=rounds)
        return bench.measure(place, plan, _tell)

    run = of(context)
    _run(run, "late", _place(run, route, partitions), measure, note, as_json=as_json)


@app.command("latency")
def latency(
    context: typer.Context,
    *,
    per_second: Annotated[
        int, typer.Option(min=1, metavar="N", help="Commits a second, an event each.")
    ] = 200,
    seconds: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="Of each contender in each round.")
    ] = 10.0,
    idle: Annotated[
        float, typer.Option(min=0, metavar="S", help="How long to watch an idle relay.")
    ] = 20.0,
    without_doorbell: Annotated[
        bool, typer.Option("--without-doorbell", help="Measure without one as well.")
    ] = False,
    size: Annotated[int, typer.Option("--bytes", min=48, metavar="N", help="Of an event.")] = 200,
    rounds: Rounds = 3,
    delivery: Delivery = None,
    partitions: Partitions = 3,
    route: Route = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """How long from a commit to a record that a consumer can read, and what idling costs."""
    from outbox.bench import latency as bench  # noqa: PLC0415  # see above

    def measure(place: Place) -> Iterable[Series]:
        plan = bench.Plan(
            per_second=per_second,
            seconds=seconds,
            size=size,
            deliveries=_deliveries(place, delivery),
            rounds=rounds,
            doorbells=(True, False) if without_doorbell else (True,),
            idle_seconds=idle,
        )
        return bench.measure(place, plan, _tell)

    run = of(context)
    _run(run, "latency", _place(run, route, partitions), measure, note, as_json=as_json)


@app.command("emit")
def emit(
    context: typer.Context,
    *,
    events: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N", help="In a transaction (1 and 10); repeatable."),
    ] = None,
    size: Annotated[int, typer.Option("--bytes", min=48, metavar="N", help="Of an event.")] = 200,
    rounds: Rounds = 200,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """How much emit costs a transaction; needs no broker."""
    from outbox.bench import emit as bench  # noqa: PLC0415  # see above
    from outbox.bench.place import open_database  # noqa: PLC0415  # see above

    plan = bench.Plan(counts=events or COUNTS, size=size, rounds=rounds)
    run = of(context)
    place = open_database(run.settings)
    _run(run, "emit", place, lambda at: bench.measure(at, plan, _tell), note, as_json=as_json)


@app.command("consume")
def consume(
    context: typer.Context,
    *,
    events: Annotated[int, typer.Option(min=1, metavar="N", help="So many a turn.")] = 20_000,
    size: Annotated[int, typer.Option("--bytes", min=48, metavar="N", help="Of an event.")] = 200,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Events in one transaction.")
    ] = 500,
    rounds: Rounds = 5,
    partitions: Partitions = 3,
    route: Route = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """How many events a second a worker handles, each once."""
    from outbox.bench import consume as bench  # noqa: PLC0415  # see above

    plan = bench.Plan(count=events, size=size, batch=batch_size, rounds=rounds)
    run = of(context)
    place = _place(run, route, partitions)
    _run(run, "consume", place, lambda at: bench.measure(at, plan, _tell), note, as_json=as_json)


def _deliveries(place: Place, chosen: list[str] | None) -> Sequence[str]:
    """Return what is to be measured; raises `CommandLineError` for what no route can be set to."""
    for delivery in chosen or ():
        try:
            place.broker.route("any", delivery)
        except ConfigurationError as exc:
            msg = f"--delivery {delivery} is not known: {exc}"
            raise CommandLineError(msg) from exc
    return list(dict.fromkeys(chosen or [place.broker.delivery]))


def _place(run: Invocation, route: str | None, partitions: int) -> AbstractContextManager[Place]:
    from outbox.bench.place import open_place  # noqa: PLC0415  # see above

    return open_place(run.settings, _kafka_route(run, route), partitions)


def _run(
    run: Invocation,
    name: str,
    place: AbstractContextManager[Where],
    measure: Callable[[Where], Iterable[Series]],
    note: str,
    *,
    as_json: bool,
) -> None:
    """Measure in a place of its own, and print."""
    from outbox.bench.apart import measured  # noqa: PLC0415  # see above
    from outbox.bench.machine import machine, server  # noqa: PLC0415  # see above
    from outbox.bench.report import report  # noqa: PLC0415  # see above

    started_at = datetime.now(UTC)
    try:
        with _terminable(), place as at:
            engine = sa.create_engine(at.url, poolclass=sa.NullPool)
            with engine.connect() as connection:
                described = server(connection)
            series = measured(lambda: measure(at))
    except ConfigurationError as exc:
        raise CommandLineError(str(exc)) from exc
    found = report(
        name,
        started_at=started_at.isoformat(),
        machine=machine(),
        server=described,
        note=note,
        series=series,
    )
    if as_json:
        run.output.json(found)
    else:
        _print(run, found)


def _kafka_route(run: Invocation, chosen: str | None) -> str:
    """Return the chosen route, or the first one on Kafka, or the first one at all."""
    if chosen is not None:
        return run.known_route(chosen)
    names = run.route_names(None)
    kafka = [name for name in names if run.settings.route(name).transport == "kafka"]
    return [*kafka, *names][0]


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(text: str) -> None:
    """Say what is going on to somebody who waits."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{text}\n")


def _print(run: Invocation, found: dict[str, Any]) -> None:
    from outbox.bench.tables import machine_line, tables  # noqa: PLC0415  # see above

    for table in tables(found):
        columns = [
            Column(title, right=index >= table.left) for index, title in enumerate(table.titles)
        ]
        run.output.table(columns, table.rows)
        run.output.line()
    run.output.line(machine_line(found))
