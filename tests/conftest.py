"""Lists the fixture plugins; each sets the marker of the server that its fixtures need."""

from __future__ import annotations

import signal

pytest_plugins = [
    "tests.fix_sqlite",
    "tests.fix_postgres",
    "tests.fix_mariadb",
    "tests.fix_kafka",
    "tests.fix_activemq",
    "tests.fix_s3",
]


def pytest_configure() -> None:
    # A shell lets what it starts in the background ignore Ctrl-C, and that is inherited: programs
    # that tests interrupt would not notice.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
