"""What the capture by gaps rests on, on a real MariaDB."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

import outbox
from outbox.errors import (
    CaptureRestartedError,
    ConfigurationError,
    DatabaseUnavailableError,
    ForeignPositionError,
)
from outbox.table import outbox_event
from relay.capture import open_capture, portable
from relay.capture.gap import Gap
from relay.capture.portable import PortableCapture
from relay.capture.position import PortablePosition
from relay.capture.sizing import PAGE_BYTES
from tests.capturing import Reader, Writer, connect_mariadb, numbers, writers
from tools.servers import MariaDbServer, mariadb

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def capture(mariadb_engine: sa.Engine) -> Iterator[PortableCapture]:
    opened = open_capture(mariadb_engine)
    assert isinstance(opened, PortableCapture)
    yield opened
    opened.close()


@pytest.fixture
def sessions(mariadb_url: str) -> Iterator[list[Writer]]:
    with writers(mariadb_url, 2) as made:
        yield made


@pytest.fixture
def _closing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let gaps be old as soon as they are seen."""
    monkeypatch.setattr(portable, "_gap_seconds", lambda _: -60)
    monkeypatch.setattr(portable, "CLOSE_SECONDS", 0.0)


def gaps(reader: Reader) -> list[tuple[int, int]]:
    position = reader.capture.position(reader.stored)
    assert isinstance(position, PortablePosition)
    return [(gap.first, gap.last) for gap in position.gaps]


def run(url: str, statement: str) -> list[tuple[Any, ...]]:
    connection = connect_mariadb(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            found = list(cursor.fetchall())
        connection.commit()
    finally:
        connection.close()
    return found


def test_a_missing_number_is_kept_in_mind_for_as_long_as_a_row_may_come(
    capture: PortableCapture, sessions: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been drawn by a statement that has not inserted its row yet."""
    monkeypatch.setattr(portable, "CLOSE_SECONDS", 0.0)
    doomed, other = sessions
    reader = Reader(capture, 10)
    gap = doomed.emit()
    doomed.rollback()
    other.emit()
    other.commit()
    reader.drain()
    reader.read()
    assert gaps(reader) == [(gap, gap)]


@pytest.mark.usefixtures("_closing_at_once")
def test_what_was_rolled_back_is_given_up_and_what_is_open_never_is(
    capture: PortableCapture, sessions: list[Writer]
) -> None:
    slow, other = sessions
    reader = Reader(capture, 10)
    kept = slow.emit()
    other.emit()
    other.rollback()
    last = other.emit()
    other.commit()
    reader.drain()
    assert gaps(reader) == [(kept, last - 1)]
    slow.run("SAVEPOINT one")
    slow.emit()
    slow.run("ROLLBACK TO one")
    for _ in range(3):
        assert reader.read() == []
    assert gaps(reader) == [(kept, last - 1)]
    slow.commit()
    assert reader.drain() == [kept]
    reader.read()
    assert gaps(reader) == []


@pytest.mark.usefixtures("_closing_at_once")
def test_an_open_transaction_in_the_middle_of_a_gap_keeps_the_gap(
    capture: PortableCapture, sessions: list[Writer]
) -> None:
    slow, other = sessions
    reader = Reader(capture, 10)
    for _ in range(3):
        other.emit()
        other.rollback()
    kept = [slow.emit() for _ in range(2)]
    for _ in range(3):
        other.emit()
        other.rollback()
    other.emit()
    other.commit()
    reader.drain()
    reader.read()
    slow.commit()
    assert reader.drain() == kept


def test_with_too_many_gaps_only_late_rows_are_read_and_the_route_says_why(
    capture: PortableCapture, sessions: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portable, "MAX_GAPS", 3)
    slow, other = sessions
    reader = Reader(capture, 10)
    late, quick = [], []
    for _ in range(4):
        late.append(slow.emit())
        quick.append(other.emit())
    other.commit()
    assert reader.drain() == quick
    fresh = other.emit()
    other.commit()
    with pytest.raises(DatabaseUnavailableError, match="4 numbers of events are missing below"):
        reader.page()
    slow.commit()
    assert reader.read() == late
    assert reader.drain() == [fresh]


def test_a_full_set_of_gaps_without_anything_new_is_just_the_end(
    capture: PortableCapture, sessions: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portable, "MAX_GAPS", 1)
    slow, other = sessions
    slow.emit()
    other.emit()
    other.commit()
    reader = Reader(capture, 10)
    reader.drain()
    assert reader.page().is_last


def test_now_has_no_gap_for_what_was_rolled_back_long_ago(
    capture: PortableCapture, sessions: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number of the newest may be drawn with its row to come; an old one not, unless open."""
    monkeypatch.setattr(portable, "MAX_GAPS", 2)  # one of them is among the newest
    slow, other = sessions
    for _ in range(3):
        other.emit()
        other.rollback()
        other.emit()
        other.commit()
    kept = slow.emit()
    for _ in range(3):
        other.emit()
        other.commit()
        newest = other.emit()
        other.rollback()
    other.emit()
    other.commit()
    reader = Reader(capture, 10, capture.now())
    assert gaps(reader) == [(kept, kept), (newest, newest)]
    assert reader.drain() == []
    slow.commit()
    assert reader.drain() == [kept]


def test_late_and_fresh_rows_are_of_one_view(
    capture: PortableCapture, sessions: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writers of a key commit, one after the other, between the two statements of a page."""
    first_writer, second_writer = sessions
    reader = Reader(capture, 10)
    first = first_writer.emit("k")
    second_writer.emit("other")
    second_writer.commit()
    reader.drain()
    fresh = second_writer.emit("other")
    second_writer.commit()
    own = capture._late
    second: list[int] = []

    def late(*arguments: Any) -> Any:
        found = own(*arguments)
        first_writer.commit()
        second.append(second_writer.emit("k"))
        second_writer.commit()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(capture, "_late", late)
        assert reader.read() == [fresh]
    assert reader.drain() == [first, *second]


def test_a_page_is_bounded_by_bytes_and_a_large_event_comes_alone(
    capture: PortableCapture, mariadb_engine: sa.Engine
) -> None:
    sizes = [1, PAGE_BYTES // 3, PAGE_BYTES // 3, PAGE_BYTES // 2, PAGE_BYTES + 1, 1, 1]
    for size in sizes:
        with mariadb_engine.begin() as connection:
            row = {"type": "test.happened", "data": b"x" * size}
            connection.execute(sa.insert(outbox_event), row)
    reader = Reader(capture, 100)
    first = reader.page()
    found: list[list[int]] = []
    while True:
        page = reader.page()
        reader.settle(page)
        found.append([len(envelope.data) for envelope in page.envelopes])
        if page.is_last:
            break
    assert [size for each in found for size in each] == sizes
    assert all(sum(each) <= PAGE_BYTES or len(each) == 1 for each in found)
    assert [len(each) for each in found][:3] == [3, 1, 1]
    assert numbers(first) == reader.delivered[:3]


def test_late_rows_are_bounded_by_bytes_as_well(
    capture: PortableCapture, sessions: list[Writer]
) -> None:
    slow, other = sessions
    statement = "INSERT INTO outbox_event (type, data) VALUES ('test.happened', REPEAT('x', %s))"
    for _ in range(3):
        slow.run(statement, PAGE_BYTES // 2)
    other.emit()
    other.commit()
    reader = Reader(capture, 100)
    assert len(reader.drain()) == 1
    slow.commit()
    other.emit()
    other.commit()
    assert [len(reader.read()) for _ in range(2)] == [2, 2]


def test_a_row_is_read_as_it_was_written(capture: PortableCapture, mariadb_url: str) -> None:
    text = "Grüße, 世界 🎉 'quoted' \\ %s"
    connection = connect_mariadb(mariadb_url)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO outbox_event (type, version, partition_key, subject, topic, time, data,"
            " headers) VALUES (%s, 3, %s, %s, %s, '2026-02-03 04:05:06.789012', %s, %s)",
            ("test.happened", text, text, text, b"\x00\xff", '{"actor": "user:1", "n": 5}'),
        )
    connection.commit()
    connection.close()
    (envelope,) = capture.next_page(capture.beginning(), 10).envelopes
    assert (envelope.partition_key, envelope.subject, envelope.topic) == (text, text, text)
    assert (envelope.data, envelope.version, envelope.actor) == (b"\x00\xff", 3, "user:1")
    assert envelope.headers == {"n": "5"}
    assert envelope.time.isoformat() == "2026-02-03T04:05:06.789012+00:00"
    assert envelope.content_type == "application/json"
    assert len(envelope.id) == 36


def test_a_page_touches_the_ranges_of_its_own_rows(
    capture: PortableCapture, mariadb_url: str
) -> None:
    """Counted by the server: rows read through its handlers, whatever the plan is called."""
    run(
        mariadb_url,
        "INSERT INTO outbox_event (type, data) SELECT 'test.happened', REPEAT('x', 200)"
        " FROM seq_1_to_200000",
    )
    middle, *_ = (seq for (seq,) in run(mariadb_url, "SELECT MAX(seq) / 2 FROM outbox_event"))
    position = capture.now()
    seen_at = 2**32  # too young to be given up
    late = (
        Gap(middle, middle, seen_at),
        Gap(middle + 10, middle + 13, seen_at),
        Gap(middle + 50_000, middle + 50_000, seen_at),
    )
    for start, expected in (
        (PortablePosition(middle, (), position.server), 100),
        (PortablePosition(position.floor, late, position.server), 6),
        (PortablePosition(position.floor, (), position.server), 0),
    ):
        capture.next_page(start, 100)  # its connection is open, and its gaps are looked at
        with counting(capture) as read:
            page = capture.next_page(start, 100)
        assert len(page.envelopes) == expected
        assert read() <= 2 * expected + 20


@contextmanager
def counting(capture: PortableCapture) -> Iterator[Any]:
    """Count the rows that the server reads for the capture's own session."""

    def total() -> int:
        connection = capture._connection
        assert connection is not None
        found = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
        return sum(
            int(value) for name, value in found if re.search("key|next|prev|first|rnd", name)
        )

    before = total()
    yield lambda: total() - before


def test_a_counter_that_was_set_back_is_told_while_the_relay_runs_and_when_it_starts(
    capture: PortableCapture, sessions: list[Writer], mariadb_url: str
) -> None:
    writer, _ = sessions
    for _ in range(3):
        writer.emit()
    writer.commit()
    reader = Reader(capture, 10)
    reader.drain()
    position = capture.position(reader.stored)
    capture.next_page(position, 10)
    run(mariadb_url, "TRUNCATE TABLE outbox_event")
    with pytest.raises(ForeignPositionError, match="--rebase"):
        capture.next_page(position, 10)
    with pytest.raises(ForeignPositionError, match="number 1, but events up to 3"):
        capture.position(reader.stored)


def test_an_emptied_table_with_its_counter_is_nothing_to_worry_about(
    capture: PortableCapture, sessions: list[Writer], mariadb_url: str
) -> None:
    writer, _ = sessions
    writer.emit()
    writer.commit()
    reader = Reader(capture, 10)
    reader.drain()
    run(mariadb_url, "DELETE FROM outbox_event")
    assert reader.read() == []
    following = writer.emit()
    writer.commit()
    assert reader.drain() == [following]


@contextmanager
def migrated(server: MariaDbServer) -> Iterator[str]:
    """Make a database on a server of the test's own."""
    run(server.url("mysql"), "CREATE DATABASE shop")
    url = server.url("shop")
    outbox.metadata.create_all(sa.create_engine(url, poolclass=sa.NullPool))
    yield url


def test_a_server_that_was_restarted_is_another_incarnation(own_mariadb: MariaDbServer) -> None:
    server = own_mariadb
    with migrated(server) as url:
        engine = sa.create_engine(url)
        capture = open_capture(engine)
        with writers(url, 1) as (writer,):
            writer.emit()
            writer.commit()
        reader = Reader(capture, 10)
        page = reader.page()
        position = page.position()
        reader.settle(page)
        assert capture.trusts(reader.stored)
        server.kill()
        server.start()
        with pytest.raises(DatabaseUnavailableError):
            capture.next_page(position, 10)
        with pytest.raises(CaptureRestartedError, match="take the stored one again"):
            capture.next_page(position, 10)
        assert not capture.trusts(reader.stored)
        with writers(url, 1) as (writer,):
            following = writer.emit()
            writer.commit()
        assert reader.drain() == [following]
        assert capture.trusts(reader.stored)
        capture.close()
        engine.dispose()


def test_numbers_that_are_not_drawn_one_by_one_are_refused() -> None:
    with mariadb(settings={"auto-increment-increment": "2"}) as server, migrated(server) as url:
        capture = open_capture(sa.create_engine(url, poolclass=sa.NullPool))
        with pytest.raises(ConfigurationError, match="auto_increment_increment is not 1"):
            capture.beginning()


def test_missing_tables_are_told_with_the_command_that_makes_them(mariadb_empty_url: str) -> None:
    capture = open_capture(sa.create_engine(mariadb_empty_url, poolclass=sa.NullPool))
    with pytest.raises(ConfigurationError, match="outbox migrate"):
        capture.beginning()


def test_a_lost_connection_is_told_once_and_the_next_call_opens_another(
    capture: PortableCapture, mariadb_url: str
) -> None:
    position = capture.beginning()
    own = "ID <> CONNECTION_ID() AND DB = DATABASE()"
    (found,) = run(mariadb_url, f"SELECT ID FROM information_schema.PROCESSLIST WHERE {own}")
    run(mariadb_url, f"KILL {found[0]}")
    with pytest.raises(DatabaseUnavailableError, match="does not answer"):
        capture.next_page(position, 10)
    assert capture.next_page(position, 10).is_last


def test_a_closed_capture_leaves_no_connection(capture: PortableCapture, mariadb_url: str) -> None:
    position = capture.beginning()
    capture.close()
    capture.close()
    count = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = DATABASE()"
    assert run(mariadb_url, count) == [(1,)]
    assert capture.next_page(position, 10).is_last


def test_between_pages_no_transaction_is_open(capture: PortableCapture, mariadb_url: str) -> None:
    with writers(mariadb_url, 2) as (slow, other):
        slow.emit()
        other.emit()
        other.commit()
        Reader(capture, 10).drain()
        slow.rollback()
    assert run(mariadb_url, "SELECT trx_mysql_thread_id FROM information_schema.INNODB_TRX") == []
