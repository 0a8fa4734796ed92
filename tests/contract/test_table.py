"""The example of docs/guide/transports.md that has both sides, under both suites."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from outbox.testing import PublisherContract, SubscriberContract
from tests.table import code, example, make_tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from outbox.transport import Publisher, Subscriber


class TableUnderTest:
    oversize = 1_000_001

    def __init__(self, file: Path) -> None:
        make_tables(file)
        self._file = file
        self._module = example()
        self._options = self._module.Options(file=str(file))

    def topic(self) -> str:
        return uuid.uuid4().hex

    def publisher(self, timeout: float) -> Publisher:
        made: Publisher = self._module.publisher("route", self._options, timeout)
        return made

    def subscriber(self, group: str, topic: str) -> Subscriber:
        made: Subscriber = self._module.subscriber("route", self._options, group, [topic])
        return made

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Keep everybody from the file, as somebody does who locks it and does not come back."""
        with closing(sqlite3.connect(self._file, isolation_level=None)) as locking:
            locking.execute("BEGIN EXCLUSIVE")
            yield


class TestTable(PublisherContract, SubscriberContract):
    @pytest.fixture
    def transport(self, tmp_path: Path) -> TableUnderTest:
        return TableUnderTest(tmp_path / "events.db")


def test_the_example_is_as_long_as_an_example_may_be() -> None:
    assert len([line for line in code().splitlines() if line.strip()]) <= 130
