"""A schema registry: one server a session, subjects by names of each test's own.

The server is the one at OUTBOX_TEST_REGISTRY, or is started when the first test asks for it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.absence import mark, own_server, shared_server, whereabouts
from tools.servers import RegistryServer, registry
from tools.servers.registry import JARS

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "OUTBOX_TEST_REGISTRY"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, frozenset({"registry_url", "own_registry"}), "registry")


def pytest_report_header() -> str:
    return whereabouts("registry", os.environ.get(VARIABLE), JARS.find)


@pytest.fixture(scope="session")
def registry_url() -> Iterator[str]:
    """The URL of the session's registry; tests share it, so none may stop it."""
    yield from shared_server(VARIABLE, JARS.find, registry, lambda server: server.url)


@pytest.fixture
def own_registry() -> Iterator[RegistryServer]:
    """A registry of the test's own, to stop and freeze."""
    with own_server(JARS.find, registry) as server:
        yield server
