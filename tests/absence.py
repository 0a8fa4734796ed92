"""What happens to a test whose server is not on this machine."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tools.servers import ServerAbsentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@contextmanager
def skipped_unless_ci() -> Iterator[None]:
    """Skip when a server's programs are absent; with CI=true that is an error."""
    try:
        yield
    except ServerAbsentError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def whereabouts(name: str, given: str | None, find: Callable[[], object]) -> str:
    """Say for the report's header which server the tests use: `given`, or one of their own.

    `find` looks for its programs, and returns where they are.
    """
    if given:
        return f"{name}: {given}"
    try:
        return f"{name}: started when needed, from {find()}"
    except ServerAbsentError:
        return f"{name}: absent"


def mark(items: Iterable[pytest.Item], fixtures: frozenset[str], marker: str) -> None:
    """Mark each test that asks for one of the fixtures, directly or through another."""
    for item in items:
        if fixtures.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(marker)
