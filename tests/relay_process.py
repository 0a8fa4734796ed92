"""Runs a relay in a process of its own: `python -m tests.relay_process URL ROUTES_JSON [UNTIL]`.

It logs JSON on standard error, and ends as `outbox relay` does.
"""

from __future__ import annotations

import json
import sys
import threading

from outbox import log
from outbox.settings import Settings
from outbox.transports import MODULES
from relay.daemon import Relay, Until, stopped_by_signals


def main(url: str, routes: str, until: str = "forever") -> int:
    MODULES["append"] = "tests.append_transport"
    settings = Settings.model_validate({"database_url": url, "routes": json.loads(routes)})
    log.configure("json")
    stop = threading.Event()
    with stopped_by_signals(stop):
        return Relay(settings).run(stop, Until(until)).exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
