"""What the command lines of measurements share: their arguments, their place, and how they end."""

from __future__ import annotations

import argparse
import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from benchmarks.show import tell
from outbox.bench.machine import machine, server
from outbox.bench.place import open_place
from outbox.bench.report import report
from outbox.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outbox.bench.place import Place
    from outbox.bench.report import Series

PARTITIONS = 3


def arguments(doc: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with what every measurement understands."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--note", default="", help="kept with the figures")
    parser.add_argument("--json", action="store_true")
    return parser


def add_servers(parser: argparse.ArgumentParser) -> None:
    """Let a database and a broker be given, by default those of the tests."""
    parser.add_argument("--url", default=os.environ.get("OUTBOX_TEST_POSTGRES"))
    parser.add_argument("--kafka", default=os.environ.get("OUTBOX_TEST_KAFKA"))


@contextmanager
def place_at(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Iterator[Place]:
    """Make a schema and topics of the measurement's own on the servers that were given."""
    if options.url is None or options.kafka is None:
        parser.error("give --url and --kafka, or run it by `python -m tools.servers`")
    route = {"transport": "kafka", "bootstrap_servers": options.kafka}
    settings = Settings.model_validate({"database_url": options.url, "routes": {"kafka": route}})
    with open_place(settings, "kafka", PARTITIONS) as place:
        yield place


def started_now() -> str:
    """Return when a measurement begins, as reports have it."""
    return datetime.now(UTC).isoformat()


def described(url: str | sa.URL) -> dict[str, str]:
    """Say which database server was measured on."""
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        return server(connection)


def finish(
    name: str,
    options: argparse.Namespace,
    series: Sequence[Series],
    *,
    started_at: str,
    **facts: Any,
) -> None:
    """Print the report; `facts` are what else it is to say, for instance of the server."""
    told = report(
        name, started_at=started_at, machine=machine(), **facts, note=options.note, series=series
    )
    tell(told, as_json=options.json)
