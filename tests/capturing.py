"""Writers and readers that a test of the capture steps by hand."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.capture import Capture, Page

INSERT = "INSERT INTO outbox_event (type, data, partition_key) VALUES ('test.happened', '', %s)"


class Writer:
    """One session that writes events in transactions that the test begins and ends."""

    def __init__(self, url: str) -> None:
        self.connection = connect(url)

    def run(self, statement: str, *parameters: object) -> None:
        self.connection.execute(statement.encode(), parameters)

    def emit(self, key: str = "k") -> int:
        """Insert an event and return its number."""
        row = self.connection.execute(f"{INSERT} RETURNING seq".encode(), (key,)).fetchone()
        assert row is not None
        return int(row[0])

    def take_id(self) -> int:
        """Have the transaction get its id now; return it."""
        row = self.connection.execute("SELECT pg_current_xact_id()::text").fetchone()
        assert row is not None
        return int(row[0])

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()


class Reader:
    """A route that settles what it reads, and forgets all but its stored position in between."""

    def __init__(self, capture: Capture, limit: int, start: Any = None) -> None:
        self.capture = capture
        self.limit = limit
        self.stored = (start or capture.beginning()).to_json()
        self.delivered: list[int] = []

    def page(self, limit: int | None = None) -> Page:
        return self.capture.next_page(self.capture.position(self.stored), limit or self.limit)

    def settle(self, page: Page, count: int | None = None) -> None:
        self.delivered += numbers(page)[:count]
        self.stored = json.loads(json.dumps(page.position(count).to_json()))

    def read(self, limit: int | None = None) -> list[int]:
        """Read and settle one page; return its numbers."""
        page = self.page(limit)
        self.settle(page)
        return numbers(page)

    def drain(self) -> list[int]:
        """Read until nothing more is there; return the numbers."""
        drained: list[int] = []
        while True:
            page = self.page()
            self.settle(page)
            drained += numbers(page)
            assert len(drained) == len(set(drained)), "read twice"
            if page.is_last:
                return drained


def numbers(page: Page) -> list[int]:
    return [envelope.sequence or 0 for envelope in page.envelopes]


def connect(url: str, *, autocommit: bool = False) -> psycopg.Connection[Any]:
    dsn = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(dsn, autocommit=autocommit)


@contextmanager
def writers(url: str, count: int) -> Iterator[list[Writer]]:
    made = [Writer(url) for _ in range(count)]
    try:
        yield made
    finally:
        for writer in made:
            writer.connection.close()
