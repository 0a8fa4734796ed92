from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox.errors import ConfigurationError, DatabaseUnavailableError
from outbox.table import outbox_event
from relay.capture import Capture, open_capture
from relay.capture.position import SerialPosition
from tests.capturing import Reader, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def capture(sqlite_engine: sa.Engine) -> Iterator[Capture]:
    opened = open_capture(sqlite_engine)
    yield opened
    opened.close()


def emit(engine: sa.Engine, count: int = 1) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.insert(outbox_event), [{"type": "test.happened", "data": b"{}"}] * count
        )


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_every_row_is_read_once_by_number(
    capture: Capture, sqlite_engine: sa.Engine, limit: int
) -> None:
    reader = Reader(capture, limit)
    emit(sqlite_engine, 14)
    assert reader.drain() == list(range(1, 15))
    emit(sqlite_engine)
    assert reader.drain() == [15]


def test_a_page_is_settled_by_prefix(capture: Capture, sqlite_engine: sa.Engine) -> None:
    emit(sqlite_engine, 5)
    page = capture.next_page(capture.beginning(), 5)
    assert not page.is_last
    assert [page.position(count) for count in range(6)] == [SerialPosition(n) for n in range(6)]
    assert page.position() == SerialPosition(5)
    rest = capture.next_page(page.position(2), 10)
    assert (numbers(rest), rest.is_last) == ([3, 4, 5], True)
    empty = capture.next_page(SerialPosition(5), 10)
    assert (empty.position(), empty.is_last) == (SerialPosition(5), True)


def test_now_leaves_out_what_is_there(capture: Capture, sqlite_engine: sa.Engine) -> None:
    assert capture.now() == SerialPosition(0)
    emit(sqlite_engine, 3)
    assert capture.now() == SerialPosition(3)


def test_the_backlog_is_counted(capture: Capture, sqlite_engine: sa.Engine) -> None:
    assert capture.backlog(capture.beginning()).oldest_at is None
    emit(sqlite_engine, 3)
    backlog = capture.backlog(SerialPosition(1))
    assert backlog.count == 2
    assert backlog.oldest_at is not None
    assert backlog.oldest_at.tzinfo is not None


def test_a_locked_database_is_unavailable(capture: Capture, sqlite_url: str) -> None:
    writer = sa.create_engine(sqlite_url, poolclass=sa.NullPool)
    with writer.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = DELETE")
    own = sa.create_engine(sqlite_url, connect_args={"timeout": 0}, poolclass=sa.NullPool)
    impatient = open_capture(own)
    with writer.connect() as connection:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseUnavailableError, match="locked"):
            impatient.next_page(SerialPosition(0), 10)
        connection.rollback()
    assert impatient.next_page(SerialPosition(0), 10).is_last


def test_a_reader_in_wal_mode_does_not_wait_for_a_writer(
    capture: Capture, sqlite_engine: sa.Engine
) -> None:
    emit(sqlite_engine)
    with sqlite_engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.execute(sa.insert(outbox_event), {"type": "test.happened", "data": b""})
        assert numbers(capture.next_page(SerialPosition(0), 10)) == [1]
        connection.rollback()
    assert numbers(capture.next_page(SerialPosition(0), 10)) == [1]


def test_missing_tables_are_told_with_the_command_that_makes_them(tmp_path: Path) -> None:
    capture = open_capture(
        sa.create_engine(f"sqlite:///{tmp_path}/empty.db", poolclass=sa.NullPool)
    )
    with pytest.raises(ConfigurationError, match="outbox migrate"):
        capture.next_page(SerialPosition(0), 10)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    path.write_text("something else, long enough to be no header" * 100)
    capture = open_capture(sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool))
    with pytest.raises(ConfigurationError, match="no SQLite database"):
        capture.now()


def test_other_databases_are_refused_with_what_is_supported() -> None:
    class Engine:
        class dialect:  # noqa: N801  # as SQLAlchemy names it
            name = "oracle"

    with pytest.raises(ConfigurationError, match=r"oracle.*postgresql\+psycopg://.*sqlite://"):
        open_capture(Engine())  # type: ignore[arg-type]  # all that it looks at
