"""Billing as a process: `outbox consume outbox.demo.worker:billing`.

`python -m outbox.demo.worker` is the one without an inbox. The demo says by the environment where
its database is and what its group is called.
"""

from __future__ import annotations

import os
import threading
from typing import Final

import sqlalchemy as sa

from outbox import settings
from outbox.demo.billing import consumer
from outbox.demo.naive import issue_invoices
from outbox.transports import receiving_transport_of
from relay.daemon import stopped_by_signals

DATABASE: Final = "OUTBOX_DEMO_DATABASE"
GROUP: Final = "OUTBOX_DEMO_GROUP"
ROUTE: Final = "kafka"

engine = sa.create_engine(os.environ[DATABASE])
billing = consumer(engine, os.environ[GROUP])


def main() -> None:
    """Issue invoices without an inbox until told to stop."""
    route = settings.load().route(ROUTE)
    transport, options = receiving_transport_of(ROUTE, route)
    subscriber = transport.subscriber(ROUTE, options, billing.name, [route.options["topic"]])
    stop = threading.Event()
    with stopped_by_signals(stop):
        issue_invoices(subscriber, engine, stop)


if __name__ == "__main__":
    main()
