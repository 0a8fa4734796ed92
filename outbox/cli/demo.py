"""`outbox demo`: the main job, with everything failing around it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from outbox.cli.errors import CommandLineError, FailedError
from outbox.cli.invocation import of

# The demo's event types are those of any shop: only `outbox demo` may declare them, or an
# application that has a type of the same name could not be run by this program.
if TYPE_CHECKING:
    from outbox.demo.story import Comparison
    from outbox.demo.world import World


def demo(
    context: typer.Context,
    *,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="On PostgreSQL and Kafka, with processes killed.")
    ] = False,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="OUTBOX_TEST_POSTGRES",
            metavar="URL",
            help="A PostgreSQL server where it may create a database, which it drops again.",
        ),
    ] = None,
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(
            envvar="OUTBOX_TEST_KAFKA",
            metavar="HOST:PORT",
            help="A Kafka where it may create topics, which it deletes again.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the figures, for scripts.")] = False,
) -> None:
    """Two shops take the same orders; one loses events, the other has an outbox.

    Needs nothing but Python: it uses SQLite and an in-memory broker in a temporary folder.
    """
    run = of(context)
    servers = (database_url, bootstrap_servers) if kafka else None
    with nullcontext() if run.debug else _silence():
        comparison = _told(servers, is_quiet=as_json)
    if as_json:
        run.output.json(comparison.to_json())
    if not comparison.outbox.is_perfect:
        msg = "the shop with an outbox has lost, doubled or reordered something: this is a bug"
        raise FailedError(msg)


@contextmanager
def _silence() -> Iterator[None]:
    """Show no logs: outages and kills are the story here, not news."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _told(servers: tuple[str | None, str | None] | None, *, is_quiet: bool) -> Comparison:
    from outbox.demo.memory import MemoryWorld  # noqa: PLC0415  # declares event types
    from outbox.demo.narrator import Narrator  # noqa: PLC0415  # is of the demo
    from outbox.demo.story import Plan, tell  # noqa: PLC0415  # declares event types

    narrator = Narrator(is_quiet=is_quiet)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="outbox-demo-")))
        world = (
            MemoryWorld(folder, stack) if servers is None else _on_servers(folder, stack, servers)
        )
        comparison = tell(world, narrator, Plan())
        narrator.compare(comparison)
    return comparison


def _on_servers(folder: Path, stack: ExitStack, servers: tuple[str | None, str | None]) -> World:
    from outbox.demo.kafka import KafkaWorld  # noqa: PLC0415  # needs its driver

    database_url, bootstrap_servers = servers
    if not (database_url and bootstrap_servers):
        msg = (
            "--kafka needs a PostgreSQL and a Kafka: give --database-url and --bootstrap-servers,"
            " or run `make demo-kafka` in a checkout, which starts both"
        )
        raise CommandLineError(msg)
    return KafkaWorld(database_url, bootstrap_servers, folder, stack)
