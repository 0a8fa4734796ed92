"""Pages of about so many bytes, guessed from the last one."""

from __future__ import annotations

from relay.capture.sizing import FIRST_ROWS, PAGE_BYTES, Sizing


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
