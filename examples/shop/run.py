"""Runs all of the example: takes orders, relays them, and waits until every consumer has them.

    python run.py [ORDERS]

The servers' addresses come from outbox.toml and the environment. What an operator starts as
services are processes here: one relay, which has the consumer of the route in memory in it, and a
worker of each other consumer. They are stopped at the end, and the counts are printed, with what
the audit trail tells of the last order.
"""

from __future__ import annotations

import base64
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
    [*OUTBOX, "relay", "--consume", "consumers:notes"],
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
    # An operator keeps it where secrets are kept; what is encrypted with this one dies with it.
    key = base64.b64encode(os.urandom(32)).decode()
    os.environ.setdefault("OUTBOX_PERSONAL__MASTER_KEY", key)
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
        early = orders // 4
        subprocess.run([sys.executable, "shop_v1.py", str(early)], cwd=HERE, check=True)
        subprocess.run([sys.executable, "shop.py", str(orders - early)], cwd=HERE, check=True)
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
    with Session(engine) as session:
        last = session.scalars(select(Invoice.order_id).order_by(Invoice.number.desc())).first()
    subprocess.run([*OUTBOX, "relay", "--drain", "--route", "audit"], cwd=HERE, check=True)
    subprocess.run([*OUTBOX, "audit", "timeline", str(last)], cwd=HERE, check=True)
    return subprocess.run([*OUTBOX, "audit", "verify"], cwd=HERE, check=False).returncode


def _count(engine: Engine, table: type[Base]) -> int:
    with Session(engine) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def _stop(service: subprocess.Popen[bytes]) -> None:
    service.send_signal(signal.SIGTERM)
    service.wait()


if __name__ == "__main__":
    sys.exit(main())
