"""A relay to S3 that kills itself: `python -m tests.killed_s3 URL ROUTES_JSON STEP COUNT`.

Steps, in the order in which a batch comes to them:

    take-over  its first entry is in the log
    upload     an object is about to be stored; `COUNT` says which one
    entry      all objects are stored, and the entry that lists them is about to be created
    listed     the entry is created, and its publisher does not know yet
    settle     it is published, and the database knows nothing of it
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from outbox.transports.s3.chain import Chain
from outbox.transports.s3.publishing import S3Publisher
from outbox.transports.s3.store import Store
from relay import guarantee
from relay.daemon import Until
from tests.killed_relay import Place, die, end_at, run

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACES: Mapping[str, Place] = {
    "take-over": Place(guarantee.ExactlyOnce, "take_over", is_after=True),
    "upload": Place(Store, "put"),
    "entry": Place(S3Publisher, "_append"),
    "listed": Place(Chain, "create", is_after=True),
    "settle": Place(guarantee.ExactlyOnce, "publish", is_after=True),
}


def main(url: str, routes: str, step: str, count: str) -> int:
    end_at(PLACES[step], int(count), die)
    return run(url, routes, Until.FOREVER)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
