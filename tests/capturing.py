"""Writers and readers that a test of the capture steps by hand."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pymysql
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.capture import Capture, Page

INSERT = "INSERT INTO outbox_event (type, data, partition_key) VALUES ('test.happened', '', %s)"
INSERT_WITH_SUBJECT = (
    "INSERT INTO outbox_event (type, data, partition_key, subject)"
    " VALUES ('test.happened', '', %s, %s)"
)


class Writer(ABC):
    """One session that writes events in transactions that the test begins and ends."""

    connection: Any

    @abstractmethod
    def emit(self, key: str = "k", subject: str | None = None) -> int:
        """Insert an event and return its number."""

    @abstractmethod
    def take_id(self) -> int:
        """Have the transaction get its id now; return it, where the database tells it."""

    def run(self, statement: str, *parameters: object) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters)

    def value(self, statement: str, *parameters: object) -> int:
        """Return the number that is the only answer."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            (found,) = cursor.fetchone()
        return int(found)

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()


class PostgresWriter(Writer):
    """The same on PostgreSQL."""

    def __init__(self, url: str) -> None:
        self.connection = connect(url)

    def emit(self, key: str = "k", subject: str | None = None) -> int:
        return self.value(f"{INSERT_WITH_SUBJECT} RETURNING seq", key, subject)

    def take_id(self) -> int:
        return self.value("SELECT pg_current_xact_id()::text")


class MariaWriter(Writer):
    """The same on MariaDB."""

    def __init__(self, url: str) -> None:
        self.connection = connect_mariadb(url)

    def emit(self, key: str = "k", subject: str | None = None) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute(INSERT_WITH_SUBJECT, (key, subject))
            return int(cursor.lastrowid)

    def take_id(self) -> int:
        """Begin, where nothing more can be taken before the first row is written."""
        self.run("SELECT 1 FROM outbox_event WHERE seq = 0")
        return 0


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


def connect_mariadb(url: str) -> pymysql.Connection[Any]:
    at = sa.make_url(url)
    return pymysql.connect(
        host=at.host or "127.0.0.1",
        port=at.port or 3306,
        user=at.username,
        password=str(at.password or ""),
        database=at.database,
    )


@contextmanager
def writers(url: str, count: int) -> Iterator[list[Writer]]:
    kind = PostgresWriter if url.startswith("postgresql") else MariaWriter
    made: list[Writer] = [kind(url) for _ in range(count)]
    try:
        yield made
    finally:
        for writer in made:
            writer.connection.close()
