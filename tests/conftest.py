"""Lists the fixture plugins; each sets the marker of the server that its fixtures need."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator

# Its assertions say what they compared, as those of tests do.
pytest.register_assert_rewrite("outbox.testing")

# How long an example takes says more of the machine than of the code.
settings.register_profile(
    "patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")

pytest_plugins = [
    "tests.fix_sqlite",
    "tests.fix_postgres",
    "tests.fix_mariadb",
    "tests.fix_kafka",
    "tests.fix_activemq",
    "tests.fix_s3",
    "tests.fix_registry",
]


def pytest_configure() -> None:
    # A shell lets what it starts in the background ignore Ctrl-C, and that is inherited: programs
    # that tests interrupt would not notice.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let what a test logs reach another process, though it be no text: tests of that log it."""
    report = yield
    report.sections = [
        (title, content.encode(errors="backslashreplace").decode())
        for title, content in report.sections
    ]
    return report
