"""Entries of the log on S3: what is written is read, also what earlier versions wrote."""

from __future__ import annotations

import json

from outbox.codec import REPLAY
from outbox.testing import envelope
from outbox.transports.s3 import Options
from outbox.transports.s3.entry import Entry, Listed, read_entry
from outbox.transports.s3.layout import Architect, listing_of
from outbox.transports.s3.log import Page


def test_an_entry_without_replayed_events_says_nothing_of_them() -> None:
    entry = Entry(nonce="n", topics=["t"], objects=[("a", 1)], events=[Listed(0, 0, 0, 7)])
    stored = entry.to_bytes()
    assert "replayed" not in json.loads(stored)
    assert read_entry(stored) == entry


def test_marks_stand_at_the_events_that_are_listed_and_not_in_their_objects() -> None:
    batch = [
        envelope("t", "a", id="1", sequence=1),
        envelope("t", "b", id="2", sequence=2, headers={REPLAY: "x", "tenant": "t"}),
        envelope("t", "c", id="3", sequence=3, headers={REPLAY: "x"}),
        envelope("t", "d", id="4", sequence=4, headers={REPLAY: "y"}),
    ]
    layout = Architect(Options(bucket="events")).lay_out(batch)
    assert not any(REPLAY.encode() in line for draft in layout.objects for line in draft.lines)
    assert json.loads(json.loads(layout.objects[1].lines[0])["outboxheaders"]) == {"tenant": "t"}
    entry = read_entry(listing_of(batch, layout, frozenset({1})).to_bytes())
    assert entry.replayed == {"x": [1], "y": [2]}
    assert [Page(entry, 1).replayed_at(index) for index in range(3)] == [None, "x", "y"]
