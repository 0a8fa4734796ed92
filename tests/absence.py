"""What happens to a test whose server is not on this machine."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

from tools.servers import ServerAbsentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

Server = TypeVar("Server")


@contextmanager
def skipped_unless_ci() -> Iterator[None]:
    """Skip when a server's programs are absent; with CI=true that is an error."""
    try:
        yield
    except ServerAbsentError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@contextmanager
def own_server(
    find: Callable[[], object], start: Callable[[], AbstractContextManager[Server]]
) -> Iterator[Server]:
    """Run a server while the block lasts; `find` looks for its programs."""
    with skipped_unless_ci():
        find()
    with start() as server:
        yield server


def shared_server(
    variable: str,
    find: Callable[[], object],
    start: Callable[[], AbstractContextManager[Server]],
    address: Callable[[Server], str],
) -> Iterator[str]:
    """Yield the address of the session's server: the one that the environment names, or our own."""
    given = os.environ.get(variable)
    if given:
        yield given
        return
    with own_server(find, start) as server:
        yield address(server)


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
