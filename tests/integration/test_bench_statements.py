"""What `outbox bench` counts as a statement is what the server is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from outbox.bench.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa


@pytest.fixture
def statements() -> Iterator[Statements]:
    made = Statements()
    yield made
    made.close()


@pytest.fixture
def connection(
    statements: Statements, postgres_engine: sa.Engine
) -> Iterator[psycopg.Connection[Any]]:
    url = postgres_engine.url.set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as made:
        yield made


def test_begin_and_commit_are_statements_too(
    statements: Statements, connection: psycopg.Connection[Any]
) -> None:
    statements.watch(connection)
    assert statements.count() == 0
    connection.execute("SELECT 1")
    connection.commit()
    assert statements.count() == 3


def test_prepared_ones_are_counted_each_time_and_their_preparation_is_not(
    statements: Statements, connection: psycopg.Connection[Any]
) -> None:
    connection.autocommit = True
    connection.prepare_threshold = 1
    statements.watch(connection)
    for number in range(5):
        connection.execute("SELECT %s::int, 'Execute'", [number])
    assert statements.count() == 5


def test_all_connections_that_are_watched_are_one_sum(
    statements: Statements, connection: psycopg.Connection[Any]
) -> None:
    connection.autocommit = True
    with psycopg.connect(connection.info.dsn, autocommit=True) as other:
        for each in (connection, other):
            statements.watch(each)
        for each in (connection, other, connection):
            each.execute("SELECT 1")
        assert statements.count() == 3


def test_where_nothing_is_watched_there_is_no_number(statements: Statements) -> None:
    assert statements.count() is None
