"""ActiveMQ: one broker a session, topics by name alone.

The broker is the one at OUTBOX_TEST_ACTIVEMQ, or is started when the first test asks for it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.absence import mark, own_server, shared_server, whereabouts
from tools.servers import ActiveMqServer, activemq
from tools.servers.activemq import JARS

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "OUTBOX_TEST_ACTIVEMQ"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark(items, frozenset({"activemq_server", "own_activemq"}), "activemq")


def pytest_report_header() -> str:
    return whereabouts("activemq", os.environ.get(VARIABLE), JARS.find)


@pytest.fixture(scope="session")
def activemq_server() -> Iterator[str]:
    """The address (host:port) of the session's broker; tests share it, so none may stop it."""
    yield from shared_server(VARIABLE, JARS.find, activemq, lambda server: server.address)


@pytest.fixture
def own_activemq() -> Iterator[ActiveMqServer]:
    """A broker of the test's own, to stop, kill and freeze."""
    with own_server(JARS.find, activemq) as server:
        yield server
