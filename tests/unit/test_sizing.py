"""Pages of about so many bytes, guessed from the last one."""

from __future__ import annotations

from relay.capture.sizing import FIRST_ROWS, PAGE_BYTES, Average, Sizing


def limits(size: int, wanted: int, reads: int) -> list[int]:
    """Read a long backlog of events of one size; return how many rows were asked for."""
    sizing = Sizing()
    found = []
    for _ in range(reads):
        limit = sizing.limit(wanted)
        found.append(limit)
        sizing.read(limit, limit * size)
    return found


def test_pages_of_small_events_soon_have_their_full_size() -> None:
    assert limits(200, 5_000, 6) == [100, 400, 1_600, 5_000, 5_000, 5_000]


def test_pages_of_large_events_have_fewer_rows() -> None:
    assert limits(1_000_000, 5_000, 4) == [FIRST_ROWS, 8, 8, 8]
    assert max(limit * 100_000 for limit in limits(100_000, 50_000, 9)[1:]) <= PAGE_BYTES


def test_an_event_larger_than_a_page_comes_alone_and_is_forgotten_again() -> None:
    sizing = Sizing()
    sizing.read(1, 10 * PAGE_BYTES)
    assert sizing.limit(5_000) == 1
    sizing.read(1, 10)
    assert sizing.limit(5_000) == 4


def test_an_empty_page_tells_nothing() -> None:
    sizing = Sizing()
    sizing.read(0, 0)
    assert sizing.limit(5_000) == 4 * FIRST_ROWS


def test_where_the_database_bounds_a_page_the_first_one_is_as_long_as_asked_for() -> None:
    assert Average().limit(5_000) == 5_000


def test_so_many_events_of_the_last_size_are_asked_for_as_fit_with_some_room() -> None:
    average = Average()
    average.read(8_000, 8_000 * 2_000)
    assert 0.8 * PAGE_BYTES < average.limit(50_000) * 2_000 < PAGE_BYTES
    average.read(3, 3 * 10 * PAGE_BYTES)
    assert average.limit(5_000) == 1
    average.read(0, 0)
    assert average.limit(5_000) == 1
    average.read(1, 100)
    assert average.limit(5_000) == 5_000
