"""A relay of an audit route that ends itself: `python -m tests.killed_audit URL STEP COUNT END`.

It is a process of its own and ends by SIGKILL, or stands still until another process wakes it.
Steps, in the order in which a batch comes to them:

    publish    a batch is about to be appended
    insert     its records are made behind the head, and about to be inserted
    inserting  the database is being asked to insert them, and may have done so
    inserted   they are in the trail, and nobody knows
    settle     the route knows it, and its position is not stored

At the `COUNT`th time that it comes there, it ends: `die` or `freeze`.
"""

from __future__ import annotations

import json
import sys

from outbox.transports.audit.publishing import AuditPublisher
from relay import guarantee
from relay.daemon import Until
from tests.killed_relay import Place, die, end_at, freeze, run

LEASE_SECONDS = 1
ROUTES = {"audit": {"transport": "audit", "lease_seconds": LEASE_SECONDS, "page_size": 10}}

PLACES = {
    "publish": Place(AuditPublisher, "publish"),
    "insert": Place(AuditPublisher, "_insert"),
    "inserting": Place(AuditPublisher, "_insert", within_seconds=0.01),
    "inserted": Place(AuditPublisher, "_insert", is_after=True),
    "settle": Place(guarantee.AtLeastOnce, "publish", is_after=True),
}


def main(url: str, step: str, count: str, end: str) -> int:
    end_at(PLACES[step], int(count), freeze if end == "freeze" else die)
    return run(url, json.dumps(ROUTES), Until.FOREVER)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
