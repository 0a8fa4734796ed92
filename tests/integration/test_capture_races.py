"""Scripted races of two and three sessions: each committed row is read once, whatever they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relay.capture import Capture, open_capture, snapshot
from relay.capture.position import SnapshotPosition, rewind
from tests.capturing import INSERT, Reader, Writer, connect, numbers, writers

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa


@pytest.fixture(params=["postgres", "mariadb"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    found: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


on_postgres = pytest.mark.parametrize("engine", ["postgres"], indirect=True)
"""For what only PostgreSQL has."""
on_mariadb = pytest.mark.parametrize("engine", ["mariadb"], indirect=True)


@pytest.fixture
def capture(engine: sa.Engine) -> Iterator[Capture]:
    opened = open_capture(engine)
    yield opened
    opened.close()


@pytest.fixture(params=[1, 2, 7, 1000])
def reader(request: pytest.FixtureRequest, capture: Capture) -> Reader:
    """Reads pages of each size."""
    return Reader(capture, request.param)


@pytest.fixture
def sessions(engine: sa.Engine) -> Iterator[list[Writer]]:
    with writers(engine.url.render_as_string(hide_password=False), 3) as made:
        yield made


def test_a_row_that_commits_late_is_read_although_a_larger_number_was(
    reader: Reader, sessions: list[Writer]
) -> None:
    slow, quick, _ = sessions
    first = slow.emit()
    second = quick.emit()
    quick.commit()
    assert reader.drain() == [second]
    slow.commit()
    assert reader.drain() == [first]
    assert reader.drain() == []


@on_postgres
def test_a_reader_that_goes_by_the_number_alone_loses_rows_of_this_very_race(
    postgres_url: str, sessions: list[Writer]
) -> None:
    """The histories here have teeth."""
    slow, quick, _ = sessions
    reading = connect(postgres_url, autocommit=True)
    naive = "SELECT seq FROM outbox_event WHERE seq > %s ORDER BY seq"
    first = slow.emit()
    second = quick.emit()
    quick.commit()
    read = [seq for (seq,) in reading.execute(naive, (0,))]
    slow.commit()
    read += [seq for (seq,) in reading.execute(naive, (max(read),))]
    reading.close()
    assert read == [second]
    assert first not in read


def test_a_transaction_that_never_ends_holds_up_nobody(
    reader: Reader, sessions: list[Writer]
) -> None:
    endless, other, _ = sessions
    kept = [endless.emit() for _ in range(3)]
    for _ in range(5):
        seq = other.emit()
        other.commit()
        assert reader.drain() == [seq]
    kept.append(endless.emit())
    endless.commit()
    assert reader.drain() == kept


@on_postgres
def test_a_transaction_at_or_above_xmax_may_have_drawn_numbers_below_the_floor(
    reader: Reader, sessions: list[Writer]
) -> None:
    """xmax follows the last transaction that completed, so a running one may not be listed.

    Whatever else runs on the server may complete in between: then the race is run again.
    """
    early, late, _ = sessions
    for _ in range(50):
        early.take_id()
        running = late.take_id()
        first = late.emit()
        second = early.emit()
        early.commit()
        assert reader.drain() == [second]
        xmax = int(reader.stored["snapshot"].split(":")[1])
        late.commit()
        assert reader.drain() == [first]
        if running >= xmax:
            return
    pytest.fail("the server was too busy for this race")


def test_when_a_transaction_got_its_id_makes_no_difference(
    reader: Reader, sessions: list[Writer]
) -> None:
    early, late, other = sessions
    early.take_id()
    passing = other.emit()
    other.commit()
    assert reader.drain() == [passing]
    a, b = late.emit(), early.emit()
    late.commit()
    assert reader.drain() == [a]
    c = other.emit()
    other.commit()
    early.commit()
    assert reader.drain() == [b, c]


def test_a_rolled_back_transaction_leaves_a_gap_and_nothing_else(
    reader: Reader, sessions: list[Writer]
) -> None:
    doomed, other, _ = sessions
    doomed.emit()
    seq = other.emit()
    other.commit()
    assert reader.drain() == [seq]
    doomed.rollback()
    after = doomed.emit()
    doomed.commit()
    assert reader.drain() == [after]


def test_a_rolled_back_savepoint_takes_its_rows_with_it_and_a_released_one_does_not(
    reader: Reader, sessions: list[Writer]
) -> None:
    nested, other, _ = sessions
    outer = nested.emit()
    nested.run("SAVEPOINT one")
    nested.emit()
    nested.run("ROLLBACK TO one")
    nested.run("SAVEPOINT two")
    inner = nested.emit()
    nested.run("SAVEPOINT three")
    innermost = nested.emit()
    nested.run("RELEASE SAVEPOINT two")
    seq = other.emit()
    other.commit()
    assert reader.drain() == [seq]
    nested.commit()
    assert reader.drain() == [outer, inner, innermost]


@on_postgres
def test_an_exception_block_of_a_procedure_is_a_savepoint(
    reader: Reader, sessions: list[Writer]
) -> None:
    writer, *_ = sessions
    body = INSERT.replace("%s", "'k'")
    writer.run(
        f"DO $$ BEGIN {body}; BEGIN {body}; RAISE division_by_zero; EXCEPTION WHEN"
        f" division_by_zero THEN {body}; END; END $$"
    )
    writer.commit()
    assert len(reader.drain()) == 2


@on_postgres
def test_a_prepared_transaction_is_read_once_it_is_committed(
    reader: Reader, sessions: list[Writer], postgres_url: str
) -> None:
    prepared, other, _ = sessions
    xid = prepared.take_id()
    first = prepared.emit()
    prepared.run(f"PREPARE TRANSACTION 'capture-{xid}'")
    seq = other.emit()
    other.commit()
    assert reader.drain() == [seq]
    second = connect(postgres_url, autocommit=True)
    second.execute(f"COMMIT PREPARED 'capture-{xid}'".encode())
    second.close()
    assert reader.drain() == [first]


@on_postgres
def test_rows_of_copy_are_read_in_the_order_of_their_numbers(
    reader: Reader, sessions: list[Writer]
) -> None:
    copying, other, _ = sessions
    with copying.connection.cursor() as cursor:
        with cursor.copy("COPY outbox_event (type, data) FROM STDIN") as copy:
            for _ in range(20):
                copy.write_row(("test.copied", b""))
        seq = other.emit()
        other.commit()
        assert reader.drain() == [seq]
    copying.commit()
    assert reader.drain() == list(range(seq - 20, seq))


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_the_isolation_of_a_writer_makes_no_difference(
    reader: Reader, sessions: list[Writer], level: str
) -> None:
    isolated, other, _ = sessions
    isolated.run(f"SET TRANSACTION ISOLATION LEVEL {level}")
    first = isolated.emit()
    seq = other.emit()
    other.commit()
    assert reader.drain() == [seq]
    isolated.commit()
    assert reader.drain() == [first]


def test_late_rows_come_before_fresh_ones_and_several_writers_interleave_by_number(
    reader: Reader, sessions: list[Writer]
) -> None:
    one, two, other = sessions
    late = [writer.emit() for _ in range(10) for writer in (one, two)]
    seq = other.emit()
    other.commit()
    assert reader.drain() == [seq]
    one.commit()
    two.commit()
    fresh = [other.emit() for _ in range(3)]
    other.commit()
    assert reader.drain() == late + fresh


@on_postgres
def test_what_commits_during_a_late_pass_waits_for_its_end(
    capture: Capture, sessions: list[Writer]
) -> None:
    reader = Reader(capture, 7)
    one, two, other = sessions
    late = [one.emit() for _ in range(20)]
    later = [two.emit() for _ in range(10)]
    seq = other.emit()
    other.commit()
    assert reader.drain() == [seq]
    one.commit()
    assert reader.read() == late[:7]
    two.commit()
    fresh = other.emit()
    other.commit()
    assert reader.read() == late[7:14]
    page = reader.page()
    assert numbers(page) == late[14:]
    assert not page.is_last  # it reads no fresh rows, so it cannot tell
    reader.settle(page)
    assert reader.drain() == [*later, fresh]


@on_postgres
def test_an_empty_page_of_a_pass_is_not_the_last(capture: Capture, sessions: list[Writer]) -> None:
    reader = Reader(capture, 3)
    slow, other, _ = sessions
    late = [slow.emit() for _ in range(3)]
    seq = other.emit()
    other.commit()
    assert reader.drain() == [seq]
    slow.commit()
    fresh = other.emit()
    other.commit()
    assert reader.read() == late
    page = reader.page()
    assert (numbers(page), page.is_last) == ([], False)
    reader.settle(page)
    assert reader.drain() == [fresh]


@on_postgres
def test_a_page_of_many_late_rows_holds_no_fresh_one(
    capture: Capture, sessions: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late part of a page is limited on its own, below the page."""
    monkeypatch.setattr(snapshot, "LATE_LIMIT", 4)
    reader = Reader(capture, 100)
    slow, other, _ = sessions
    late = [slow.emit() for _ in range(6)]
    seq = other.emit()
    other.commit()
    assert reader.drain() == [seq]
    slow.commit()
    fresh = other.emit()
    other.commit()
    assert reader.read() == late[:4]
    assert reader.drain() == [*late[4:], fresh]


@pytest.mark.parametrize("limit", [3, 8, 100])
def test_reading_on_from_any_prefix_of_a_page_gives_exactly_the_rest(
    capture: Capture, sessions: list[Writer], limit: int
) -> None:
    one, two, other = sessions
    late = [writer.emit() for _ in range(3) for writer in (one, two)]
    reader = Reader(capture, limit)
    other.emit()
    other.commit()
    reader.drain()
    one.commit()
    fresh = [other.emit() for _ in range(4)]
    other.commit()
    expected = late[::2] + fresh
    stored = reader.stored
    for count in range(min(limit, len(expected)) + 1):
        reader.stored, reader.delivered = stored, []
        reader.settle(reader.page(), count)
        for again in range(len(reader.page().envelopes) + 1):
            resumed = Reader(capture, limit)
            resumed.stored, resumed.delivered = reader.stored, reader.delivered[:]
            resumed.settle(resumed.page(), again)
            resumed.drain()
            assert resumed.delivered == expected
    two.commit()
    reader.stored = stored
    assert sorted(reader.drain()) == sorted(late + fresh)


def test_now_leaves_out_what_was_committed_and_not_what_is_still_open(
    capture: Capture, sessions: list[Writer]
) -> None:
    slow, other, _ = sessions
    first = slow.emit()
    other.emit()
    other.commit()
    reader = Reader(capture, 10, capture.now())
    assert reader.drain() == []
    slow.commit()
    fresh = other.emit()
    other.commit()
    assert reader.drain() == [first, fresh]


def test_the_backlog_counts_late_rows_fresh_rows_and_the_rest_of_a_pass(
    capture: Capture, sessions: list[Writer]
) -> None:
    one, two, other = sessions
    reader = Reader(capture, 3)
    late = [one.emit() for _ in range(7)]
    two.emit()
    two.emit()
    other.emit()
    other.commit()
    reader.drain()

    def count() -> int:
        return capture.backlog(capture.position(reader.stored)).count

    assert count() == 0
    assert capture.backlog(capture.position(reader.stored)).oldest_at is None
    one.commit()
    assert count() == 7
    assert reader.read() == late[:3]
    assert count() == 4
    two.commit()
    other.emit()
    other.commit()
    assert count() == 7
    assert capture.backlog(capture.position(reader.stored)).oldest_at is not None
    reader.drain()
    assert count() == 0


@on_postgres
def test_rewinding_reads_again_what_is_above_a_number_and_keeps_what_is_pending_below(
    capture: Capture, sessions: list[Writer]
) -> None:
    slow, other, endless = sessions
    start = [other.emit(), slow.emit(), other.emit(), slow.emit(), other.emit(), endless.emit()]
    other.commit()
    reader = Reader(capture, 1)
    reader.drain()
    slow.commit()
    states = [reader.stored]
    while not reader.page().is_last:
        reader.read()
        states.append(reader.stored)
    assert any(state["late"] for state in states)
    visible = start[:-1]
    for stored in states:
        reader.stored = stored
        pending = set(reader.drain())
        for seq in range(start[-1] + 1):
            position = rewind(capture.position(stored), seq)
            assert isinstance(position, SnapshotPosition)
            again = Reader(capture, 2, position)
            assert set(again.drain()) == pending | {n for n in visible if n > seq}
            assert len(again.delivered) == len(set(again.delivered))


@on_mariadb
def test_a_prepared_transaction_of_mariadb_is_read_once_it_is_committed(
    reader: Reader, sessions: list[Writer]
) -> None:
    prepared, other, _ = sessions
    prepared.run("XA START 'capture'")
    first = prepared.emit()
    prepared.run("XA END 'capture'")
    prepared.run("XA PREPARE 'capture'")
    seq = other.emit()
    other.commit()
    assert reader.drain() == [seq]
    prepared.run("XA COMMIT 'capture'")
    assert reader.drain() == [first]


@on_mariadb
def test_what_is_late_is_read_by_number_however_much_of_it_comes_meanwhile(
    capture: Capture, sessions: list[Writer]
) -> None:
    reader = Reader(capture, 7)
    one, two, other = sessions
    late = [one.emit() for _ in range(20)]
    later = [two.emit() for _ in range(10)]
    seq = other.emit()
    other.commit()
    assert reader.drain() == [seq]
    one.commit()
    assert reader.read() == late[:7]
    two.commit()
    fresh = other.emit()
    other.commit()
    assert reader.read() == late[7:14]
    assert reader.drain() == [*late[14:], *later, fresh]


@on_mariadb
def test_rewinding_reads_again_what_is_above_a_number_and_what_is_missing_below(
    capture: Capture, sessions: list[Writer]
) -> None:
    slow, other, endless = sessions
    start = [other.emit(), slow.emit(), other.emit(), slow.emit(), other.emit(), endless.emit()]
    other.commit()
    reader = Reader(capture, 1)
    reader.drain()
    states = [reader.stored]
    slow.commit()
    while not reader.page().is_last:
        reader.read()
        states.append(reader.stored)
    visible = start[:-1]
    for stored in states:
        reader.stored = stored
        pending = set(reader.drain())
        for seq in range(start[-1] + 1):
            again = Reader(capture, 2, rewind(capture.position(stored), seq))
            assert set(again.drain()) == pending | {n for n in visible if n > seq}
            assert len(again.delivered) == len(set(again.delivered))
