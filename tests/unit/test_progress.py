"""Recorded progress: what it says survives, and which of two is newer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.errors import ConfigurationError
from relay.progress import Aside, Mark, Progress, read_mark, read_progress

MARKS = st.builds(Mark, st.text(), st.integers(0, 2**62), st.integers(0, 2**62))
ASIDES = st.builds(
    Aside, st.integers(1, 2**62), st.sampled_from(["dead", "parked"]), st.text(max_size=20)
)
PROGRESSES = st.builds(
    Progress,
    MARKS,
    st.dictionaries(st.text(), st.integers(-(2**53), 2**53) | st.text(), max_size=4),
    st.lists(ASIDES, max_size=4).map(tuple),
    st.lists(st.integers(1, 2**62), max_size=4).map(tuple),
)


@given(PROGRESSES)
def test_progress_is_read_as_it_was_written(progress: Progress) -> None:
    assert read_progress(progress.to_bytes()) == progress


@given(MARKS)
def test_a_mark_is_read_as_it_was_written(mark: Mark) -> None:
    assert read_mark(mark.to_json()) == mark


@pytest.mark.parametrize(
    ("newer", "older"),
    [(Mark("a", 1, 2), Mark("a", 1, 1)), (Mark("a", 2, 0), Mark("a", 1, 9))],
)
def test_marks_of_one_lineage_are_ordered_by_term_and_step(newer: Mark, older: Mark) -> None:
    assert newer.is_newer_than(older)
    assert not older.is_newer_than(newer)
    assert not newer.is_newer_than(newer)


def test_marks_of_two_lineages_have_no_order() -> None:
    assert not Mark("a", 9, 9).is_newer_than(Mark("b", 1, 1))


@pytest.mark.parametrize("stored", [None, [], ["a", 1], ["a", "1", 2], {"term": 1}])
def test_a_position_that_was_set_by_hand_has_no_mark(stored: object) -> None:
    assert read_mark(stored) is None


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"not json",
        b"[]",
        b'{"position":{}}',
        b'{"mark":["a",1],"position":{}}',
        b'{"mark":["a",1,1]}',
        b'{"mark":["a",1,1],"position":{},"aside":"nonsense"}',
    ],
)
def test_what_is_no_progress_is_refused(stored: bytes) -> None:
    with pytest.raises(ConfigurationError, match="start the newest one"):
        read_progress(stored)


def test_a_page_full_of_dead_events_fits_into_a_record() -> None:
    reason = "the event, {} bytes of data and its headers, is larger than the topic 'shop.order'"
    aside = tuple(Aside(10**9 + seq, "dead", reason.format(seq)) for seq in range(20_000))
    progress = Progress(Mark("a", 1, 1), {}, aside)
    assert len(progress.to_bytes()) < 500_000
    assert read_progress(progress.to_bytes()) == progress
