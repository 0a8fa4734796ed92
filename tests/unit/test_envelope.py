"""Ids: UUIDv7s that increase."""

from __future__ import annotations

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, fields

import pytest

from outbox.envelope import Draft, Envelope, new_id
from outbox.testing import envelope as make_envelope


def test_an_id_is_a_uuid_of_version_7_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    found = uuid.UUID(new_id())
    after = time.time_ns() // 1_000_000
    assert found.version == 7
    assert found.variant == uuid.RFC_4122
    # Counting on within a millisecond never needs more than what the clock has passed.
    assert before <= found.int >> 80 <= after


def test_ids_of_one_thread_increase() -> None:
    ids = [new_id() for _ in range(20_000)]
    assert ids == sorted(set(ids))


def test_ids_increase_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id()
    now = time.time_ns()
    monkeypatch.setattr("outbox.envelope.clock.time_ns", lambda: now - 3_600 * 10**9)
    assert first < new_id() < new_id()


def test_threads_never_make_the_same_id() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: [new_id() for _ in range(2_000)], range(8)))
    assert all(ids == sorted(ids) for ids in made)
    assert len({each for ids in made for each in ids}) == 16_000


def test_a_forked_process_makes_ids_of_its_own() -> None:
    read_end, write_end = os.pipe()
    last = new_id()
    pid = os.fork()
    if pid == 0:
        os.write(write_end, new_id().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write_end)
    with os.fdopen(read_end) as stream:
        child = stream.read()
    assert child not in {last, new_id()}


def test_a_draft_becomes_the_envelope_with_its_values() -> None:
    envelope = make_envelope("t", sequence=7, headers={"a": "b"}, subject="s")
    draft = Draft()
    for field in fields(Envelope):
        setattr(draft, field.name, getattr(envelope, field.name))
    made = draft.finish()
    assert made == envelope
    assert isinstance(made, Envelope)
    with pytest.raises(FrozenInstanceError):
        made.subject = "t"  # type: ignore[misc]  # that is the point
