"""When a reader reads again."""

from __future__ import annotations

import threading
import time

from relay.wakeup import BUSY_READS, BUSY_SECONDS, IDLE_SECONDS, SLOW_SECONDS, Pace, Wakeup


def test_pauses_double_while_nothing_is_found_and_start_again_when_something_is() -> None:
    pace = Pace(shortest=0.002, longest=0.1)
    pauses = [pace.after(found=False) for _ in range(BUSY_READS + 8)]
    assert pauses[:BUSY_READS] == [0.002] * BUSY_READS
    assert pauses[BUSY_READS:] == [0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.1, 0.1]
    assert pace.after(found=True) == 0.002
    assert [pace.after(found=False) for _ in range(BUSY_READS)] == pauses[1 : BUSY_READS + 1]


def test_an_idle_reader_reads_ten_times_a_second_and_later_three_times() -> None:
    pace = Pace()
    pauses = [pace.after(found=False) for _ in range(1000)]
    assert 90 / sum(pauses[:90]) < 12
    assert 900 / sum(pauses[100:]) < 3.4
    assert pace.after(found=True) == BUSY_SECONDS
    assert max(pace.after(found=False) for _ in range(50)) == IDLE_SECONDS


def test_a_ring_ends_the_wait() -> None:
    wakeup = Wakeup(Pace(shortest=60, longest=60))
    thread = threading.Thread(target=lambda: wakeup.wait(found=False))
    thread.start()
    wakeup.ring()
    thread.join(10)
    assert not thread.is_alive()


def test_a_ring_before_the_wait_is_not_lost() -> None:
    wakeup = Wakeup(Pace(shortest=60, longest=60))
    wakeup.ring()
    wakeup.wait(found=False)


def test_the_pause_is_kept_without_a_ring_and_one_ring_ends_one_pause() -> None:
    """The time itself is what is tested; more of it may pass on a busy machine, but not less."""
    wakeup = Wakeup(Pace(shortest=0.05, longest=0.05))
    wakeup.ring()
    wakeup.wait(found=True)
    started = time.monotonic()
    for found in (True, False):
        wakeup.wait(found=found)
    assert time.monotonic() - started >= 2 * 0.05


def test_a_pause_after_events_is_as_long_as_a_publish_within_bounds() -> None:
    pace = Pace()
    for _ in range(50):
        pace.published(0.004)
    assert 0.0039 < pace.after(found=True) < 0.0041
    for _ in range(50):
        pace.published(3.0)
    assert pace.after(found=True) == SLOW_SECONDS
    for _ in range(50):
        pace.published(0.0)
    assert pace.after(found=True) == BUSY_SECONDS
