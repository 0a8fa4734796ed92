"""What a relay costs that has nothing to do: its CPU, the server's, and statements a second.

    python -m benchmarks.idle

One route to the in-memory broker, on a server of its own that counts statements (Linux).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from rich.console import Console

from outbox import migration
from outbox.settings import Settings
from relay.daemon import Relay, spare_collector
from tools.servers import postgres

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

WARM_SECONDS = 3.0
"""What a relay has to start, before it is idle."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Of one idle relay with one route."""

    seconds: float
    relay_cpu_percent: float
    """Of one core."""
    server_cpu_percent: float
    """Of one core, by the server's processes for the relay."""
    statements_per_second: float


def measure(seconds: float = 30.0) -> Idle:
    """Run an idle relay in a process of its own beside a PostgreSQL server of its own."""
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    spawn = multiprocessing.get_context("spawn")
    with postgres(settings=settings) as server, psycopg.connect(server.dsn()) as connection:
        connection.autocommit = True
        connection.execute("CREATE EXTENSION pg_stat_statements")
        migration.upgrade(server.url())
        stop = spawn.Event()
        relay = spawn.Process(target=run, args=(server.url(), stop))
        relay.start()
        try:
            time.sleep(WARM_SECONDS)
            before, started = _used(connection, relay.pid), time.monotonic()
            time.sleep(seconds)
            after, passed = _used(connection, relay.pid), time.monotonic() - started
        finally:
            stop.set()
            relay.join()
    mine, theirs, statements = (b - a for a, b in zip(before, after, strict=True))
    return Idle(passed, 100 * mine / passed, 100 * theirs / passed, statements / passed)


def run(url: str, stop: Event) -> None:
    """Run a relay as its command does, until told to stop."""
    routes = {"idle": {"transport": "memory"}}
    settings = Settings.model_validate({"database_url": url, "routes": routes})
    spare_collector()
    with Relay(settings).running():
        stop.wait()


def _used(connection: psycopg.Connection[Any], relay: int | None) -> tuple[float, float, int]:
    """Return seconds of CPU of the relay and of its server processes, and statements so far."""
    pids = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'outbox relay%'"
    )
    # Those of this connection are not the relay's.
    (statements,) = connection.execute(
        "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements"
        " WHERE query NOT LIKE '%pg_stat_%'"
    ).fetchall()[0]
    return _cpu(relay or 0), sum(_cpu(pid) for (pid,) in pids), statements


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print a line or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.seconds)
    if options.json:
        print(json.dumps(asdict(result)))
        return
    Console().print(
        f"idle for {result.seconds:.0f} s: relay {result.relay_cpu_percent:.2f} % of a core, server"
        f" {result.server_cpu_percent:.2f} %, {result.statements_per_second:.1f} statements/s"
        f" ({os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()})"
    )


if __name__ == "__main__":
    main()
