"""What was done to a chain is named by the first record that shows it, and by the way."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from outbox.audit.chain import (
    START,
    Anchor,
    ChainBrokenError,
    Finding,
    Head,
    extend,
    starting_at,
    verified,
)
from outbox.audit.checkpoint import read_checkpoint
from outbox.audit.record import is_intact
from outbox.cli.audit import Walk
from outbox.errors import ConfigurationError
from outbox.rows import Rows
from tests.auditing import WAYS, Listed, events, records, rewrite

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 40


def finding(chain: Listed, start: Head = START, *anchors: Anchor) -> Finding:
    with pytest.raises(ChainBrokenError) as caught:
        list(verified(chain, start, anchors))
    return caught.value.finding


def anchor(chain: Listed, position: int) -> Anchor:
    head = chain.head_at(position)
    assert head is not None
    return Anchor(head, f"seal of {position}")


def test_a_chain_that_nobody_touched_is_intact() -> None:
    chain = Listed(records(COUNT))
    pages = list(verified(chain, START, [anchor(chain, COUNT), anchor(chain, 3)]))
    assert [record for page in pages for record in page] == chain.records
    assert list(verified(Listed([]))) == []


def test_a_chain_grows_from_its_head() -> None:
    rows = Rows.of(events(10)).rows
    first = extend(START, rows[:4])
    rest = extend(Head(4, first[-1].hash), rows[4:])
    assert first + rest == extend(START, rows)
    assert all(map(is_intact, rest))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(25))
def test_what_was_done_is_named_with_its_record(way: str, seed: int) -> None:
    rng = random.Random(f"{way} {seed}")
    at = rng.choice([0, 1, PAGE_END, PAGE_END + 1, COUNT - 3, rng.randrange(COUNT - 2)])
    done = WAYS[way](records(COUNT), at, rng)
    found = finding(Listed(done.records))
    assert (found.kind, found.position, found.event_id) == (done.kind, done.position, done.event_id)
    assert f"position{'s' if found.last_position not in {None, found.position} else ''} " in str(
        found
    )


PAGE_END = 6


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_was_verified_is_noted_and_a_note_that_fails_hides_no_finding(
    tmp_path: Path, *, is_lost: bool
) -> None:
    chain = records(COUNT)
    chain[20] = chain[20]._replace(actor="x")
    path = tmp_path / "none" / "walk.json" if is_lost else tmp_path / "walk.json"
    with pytest.raises(ChainBrokenError, match="position 21"):
        Walk(Listed(chain), START, path, None).run([], None)
    if not is_lost:
        assert read_checkpoint(path).head == Head(14, chain[13].hash)
    with pytest.raises(ConfigurationError, match="cannot write the checkpoint"):
        Walk(Listed(records(COUNT)), START, tmp_path / "none" / "walk.json", None).run([], None)


def test_a_copy_far_away_is_found_at_once() -> None:
    chain = records(COUNT)
    copy = chain[11]._replace(position=9_000_000_000_000_000_000)
    found = finding(Listed([*chain, copy]))
    assert (found.kind, found.position) == ("inserted", copy.position)
    assert "a copy of what stands at position 12" in found.reason


@pytest.mark.parametrize("left", [0, 1, PAGE_END, PAGE_END + 1, 30])
def test_what_is_missing_at_the_end_is_lost_by_an_anchor_alone(left: int) -> None:
    whole = Listed(records(COUNT))
    cut = Listed(whole.records[:left])
    assert sum(map(len, verified(cut))) == left
    found = finding(cut, START, anchor(whole, 35), anchor(whole, COUNT))
    assert (found.kind, found.position, found.last_position) == ("truncated", left + 1, COUNT)
    assert "seal of 40" in found.reason


@pytest.mark.parametrize(("at", "known"), [(5, 0), (24, 20)])
def test_one_that_is_missing_at_the_end_may_be_another_one(at: int, known: int) -> None:
    """Whoever removes a record and computes the later ones anew leaves the end one short."""
    whole = Listed(records(COUNT))
    left = [*whole.records[:at], *whole.records[at + 1 :]]
    numbered = [record._replace(position=position) for position, record in enumerate(left, 1)]
    shorter = Listed(rewrite(numbered, at))
    assert sum(map(len, verified(shorter))) == COUNT - 1
    anchors = [anchor(whole, known), anchor(whole, COUNT)] if known else [anchor(whole, COUNT)]
    found = finding(shorter, START, *anchors)
    assert (found.kind, found.position) == ("truncated", COUNT)
    assert f"the records from position {known + 1} on agree with each other" in found.reason
    cut = finding(Listed(whole.records[:30]), START, anchor(whole, 30), anchor(whole, COUNT))
    assert "agree with each other" not in cut.reason


@pytest.mark.parametrize("at", [0, 5, 20, 34])
def test_a_chain_that_was_computed_anew_is_lost_by_an_anchor_alone(at: int) -> None:
    whole = Listed(records(COUNT))
    anew = Listed(rewrite(whole.records, at))
    assert sum(map(len, verified(anew))) == COUNT
    anchors = [anchor(whole, position) for position in (10, 20, 35)]
    found = finding(anew, START, *anchors)
    first, last = next(span for span in [(1, 10), (11, 20), (21, 35)] if at + 1 <= span[1])
    assert (found.kind, found.position, found.last_position) == ("rewritten", first, last)
    assert f"seal of {last}" in found.reason


def test_a_walk_may_go_on_from_what_was_verified() -> None:
    chain = Listed(records(COUNT))
    start = anchor(chain, 17).head
    assert starting_at(chain, start, [anchor(chain, 5), anchor(chain, 30)]) == start
    assert next(page[0].position for page in verified(chain, start)) == 18


def test_it_begins_at_the_start_where_an_anchor_before_it_has_changed() -> None:
    whole = Listed(records(COUNT))
    anew = Listed(rewrite(whole.records, 7))
    start = anchor(whole, 17).head
    assert starting_at(anew, start, []) == START
    assert starting_at(anew, anchor(anew, 17).head, [anchor(whole, 10)]) == START
    assert starting_at(anew, anchor(anew, 17).head, [anchor(whole, 5)]).position == 17
    assert starting_at(Listed(whole.records[:10]), start, []) == START


def test_an_anchor_at_the_very_start_of_a_walk_counts() -> None:
    whole = Listed(records(COUNT))
    anew = Listed(rewrite(whole.records, 7))
    found = finding(anew, anchor(anew, 17).head, anchor(whole, 17))
    assert (found.kind, found.last_position) == ("rewritten", 17)


def test_a_forged_head_that_everything_follows_breaks_where_it_begins() -> None:
    chain = Listed(records(COUNT))
    found = finding(chain, Head(17, bytes(32)))
    assert (found.kind, found.position) == ("changed", 18)
