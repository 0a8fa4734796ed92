"""Runs all of the example: takes orders, relays them, and waits until every consumer has them.

    python run.py [ORDERS]

The servers' addresses come from outbox.toml and the environment. What an operator starts as
services are processes here: one relay, which has the audit in it, and a worker of each other
consumer. They are stopped at the end, and the counts are printed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from shop import Base
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

HERE = Path(__file__).parent
OUTBOX = [sys.executable, "-m", "outbox"]
SERVICES = [
    [*OUTBOX, "relay", "--consume", "consumers:audit"],
    [*OUTBOX, "consume", "consumers:billing"],
    [*OUTBOX, "consume", "consumers:shipping"],
    [*OUTBOX, "consume", "consumers:analytics"],
]
SECONDS = 120.0
"""After so long without all effects it gives up."""


def main() -> int:
    """Run it; return the exit code."""
    orders = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    os.environ.setdefault("OUTBOX_CONFIG", str(HERE / "outbox.toml"))
    subprocess.run([*OUTBOX, "migrate"], cwd=HERE, check=True)
    from consumers import Invoice, Note, Parcel, Sale, engine  # noqa: PLC0415  # reads the settings

    Base.metadata.create_all(engine)
    places: dict[str, type[Base]] = {
        "Kafka": Invoice,
        "ActiveMQ": Parcel,
        "S3": Sale,
        "memory": Note,
    }
    before = {place: _count(engine, table) for place, table in places.items()}
    with ExitStack() as stack:
        services = [subprocess.Popen(each, cwd=HERE) for each in SERVICES]
        for service in services:
            stack.callback(_stop, service)
        subprocess.run([sys.executable, "shop.py", str(orders)], cwd=HERE, check=True)
        deadline = time.monotonic() + SECONDS
        while True:
            found = {place: _count(engine, table) for place, table in places.items()}
            effects = {place: found[place] - before[place] for place in places}
            if all(count >= orders for count in effects.values()):
                break
            ended = [service.args for service in services if service.poll() is not None]
            if ended or time.monotonic() > deadline:
                print(f"not all effects are there: {effects}; ended: {ended}", file=sys.stderr)
                return 1
            time.sleep(0.1)
    for place, table in places.items():
        print(f"{place:<8}  {_count(engine, table) - before[place]} of {orders} orders")
    return 0


def _count(engine: Engine, table: type[Base]) -> int:
    with Session(engine) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def _stop(service: subprocess.Popen[bytes]) -> None:
    service.send_signal(signal.SIGTERM)
    service.wait()


if __name__ == "__main__":
    sys.exit(main())
