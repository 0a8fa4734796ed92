"""Timelines: what the database knows of one key's events, and no more than that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox import dead_letter
from outbox.table import outbox_dead_letter
from relay import timeline_events
from relay.timeline import Story, Timeline, timeline
from tests.storytelling import (
    advance,
    at,
    caused,
    emit,
    forget,
    give_up,
    process,
    record,
    settings,
)

if TYPE_CHECKING:
    from outbox.settings import Settings

KAFKA = {"transport": "kafka", "bootstrap_servers": "nowhere:1"}
AUDIT = {"transport": "audit"}


@pytest.fixture(params=["sqlite", "postgres", "mariadb_relay"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    found: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


@pytest.fixture
def given(engine: sa.Engine) -> Settings:
    return settings(engine, kafka=KAFKA)


def names(found: Timeline) -> list[tuple[int, str]]:
    return [(story.depth, story.event.envelope.type) for story in found.stories]


def letter_ids(engine: sa.Engine) -> list[int]:
    column = outbox_dead_letter.c.id
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(column).order_by(column)))


def only(found: Timeline) -> Story:
    [story] = found.stories
    return story


def test_events_of_the_key_are_told_in_order_and_no_others(
    engine: sa.Engine, given: Settings
) -> None:
    emit(engine, "placed", 0)
    emit(engine, "placed", 1, key="o-2")
    emit(engine, "shipped", 2, headers={"actor": "user:42"})
    found = timeline(engine, given, "o-1")
    assert names(found) == [(0, "shop.placed"), (0, "shop.shipped")]
    assert found.stories[1].event.envelope.actor == "user:42"
    assert not found.is_cut
    assert timeline(engine, given, "o-3").stories == []


def test_the_newest_are_told_where_there_are_too_many(engine: sa.Engine, given: Settings) -> None:
    for name in "abc":
        emit(engine, name, 0)
    found = timeline(engine, given, "o-1", limit=2)
    assert names(found) == [(0, "shop.b"), (0, "shop.c")]
    assert found.is_cut
    assert not timeline(engine, given, "o-1", limit=3).is_cut


def test_effects_follow_their_cause_to_a_limit(engine: sa.Engine, given: Settings) -> None:
    placed = emit(engine, "placed", 0)
    issued = caused(engine, placed, "issued", 1, key="i-1")
    emit(engine, "shipped", 2)
    booked = caused(engine, issued, "booked", 3, key="b-1")
    caused(engine, booked, "closed", 4, key="c-1")
    caused(engine, placed, "noted", 5)  # of the key itself
    found = timeline(engine, given, "o-1", depth=2)
    assert names(found) == [
        (0, "shop.placed"),
        (1, "shop.issued"),
        (2, "shop.booked"),
        (0, "shop.shipped"),
        (0, "shop.noted"),
    ]
    assert names(timeline(engine, given, "o-1", depth=0)) == [
        (0, "shop.placed"),
        (0, "shop.shipped"),
        (0, "shop.noted"),
    ]
    cut = timeline(engine, given, "o-1", limit=3, depth=1)
    assert not cut.is_cut
    caused(engine, placed, "more", 6, key="i-2")
    caused(engine, placed, "much", 7, key="i-3")
    caused(engine, placed, "most", 8, key="i-4")
    assert timeline(engine, given, "o-1", limit=3, depth=1).is_cut


def test_a_cause_of_another_key_is_named(engine: sa.Engine, given: Settings) -> None:
    placed = emit(engine, "placed", 0)
    caused(engine, placed, "issued", 1, key="i-1")
    caused(engine, "not-here", "issued", 2, key="i-2")
    story = only(timeline(engine, given, "i-1"))
    assert story.cause is not None
    assert story.cause.envelope.type == "shop.placed"
    stranger = only(timeline(engine, given, "i-2"))
    assert (stranger.cause, stranger.cause_id) == (None, "not-here")


def test_a_route_has_delivered_what_its_position_covers(engine: sa.Engine) -> None:
    given = settings(
        engine,
        kafka=KAFKA,
        other=KAFKA | {"types": ["other.*"]},
        new=KAFKA,
        now=KAFKA | {"start": "now"},
    )
    emit(engine, "placed", 0)
    emit(engine, "shipped", 5)
    advance(engine, "kafka", 9, count=1)
    advance(engine, "now", 8)
    first, second = timeline(engine, given, "o-1").stories
    told = {passage.route: (passage.state, passage.by) for passage in first.passages}
    assert told == {
        "kafka": ("delivered", at(9)),
        "new": ("waiting", None),
        "now": ("passed", at(8)),  # it may have begun behind it
    }
    assert [passage.state for passage in second.passages] == ["waiting", "waiting", "passed"]
    assert first.passages[0].destination == "kafka, topic shop"


def test_what_was_processed_had_been_delivered_before(engine: sa.Engine, given: Settings) -> None:
    placed = emit(engine, "placed", 0)
    advance(engine, "kafka", 900)
    process(engine, "billing", placed, 3)
    process(engine, "audit", placed, 2)
    story = only(timeline(engine, given, "o-1"))
    assert [(each.consumer, each.processed_at) for each in story.handlings] == [
        ("audit", at(2)),
        ("billing", at(3)),
    ]
    assert [(passage.state, passage.by) for passage in story.passages] == [("delivered", at(2))]


def test_letters_are_told_with_their_attempts_and_their_end(
    engine: sa.Engine, given: Settings
) -> None:
    placed = emit(engine, "placed", 0)
    give_up(engine, "consumer", "billing", placed, reason="no such customer", attempt_count=5)
    give_up(engine, "relay", "kafka", placed, reason="too large")
    give_up(engine, "consumer", "ledger", placed, reason="closed", attempt_count=0, status="parked")
    ids = letter_ids(engine)
    with engine.begin() as connection:
        dead_letter.discard(connection, [ids[1]], "a test")
    advance(engine, "kafka", 9)
    story = only(timeline(engine, given, "o-1"))
    told = {
        (each.stage, each.owner, each.status, each.attempt_count, each.note)
        for each in story.letters
    }
    assert told == {
        ("consumer", "billing", "dead", 5, None),
        ("consumer", "ledger", "parked", 0, None),
        ("relay", "kafka", "discarded", 1, "a test"),
    }
    assert [passage.state for passage in story.passages] == ["set aside"]
    with engine.begin() as connection:
        dead_letter.request(connection, ids)
        dead_letter.resolve(connection, ids)
    [passage] = only(timeline(engine, given, "o-1")).passages
    assert passage.state == "delivered"
    assert passage.by is not None


def test_events_that_retention_deleted_are_told_from_the_trail(
    engine: sa.Engine, given: Settings
) -> None:
    placed = emit(engine, "placed", 0)
    caused(engine, placed, "issued", 1, key="i-1")
    process(engine, "billing", placed, 2)
    record(engine, 3)
    forget(engine)
    emit(engine, "shipped", 4)
    found = timeline(engine, given, "o-1")
    assert names(found) == [(0, "shop.placed"), (1, "shop.issued"), (0, "shop.shipped")]
    assert names(timeline(engine, given, "o-1", limit=1, depth=0)) == [(0, "shop.shipped")]
    story = found.stories[0]
    assert not story.event.is_stored
    assert (story.event.position, story.event.recorded_at) == (1, at(3))
    assert [each.consumer for each in story.handlings] == ["billing"]
    assert only(timeline(engine, given, "i-1")).cause is not None


def test_the_newest_of_the_trail_and_of_the_log_are_told(
    engine: sa.Engine, given: Settings
) -> None:
    for name in "abc":
        emit(engine, name, 0)
    record(engine, 1)
    forget(engine)
    emit(engine, "d", 2)
    assert names(timeline(engine, given, "o-1", limit=1)) == [(0, "shop.d")]
    assert names(timeline(engine, given, "o-1", limit=2)) == [(0, "shop.c"), (0, "shop.d")]


def test_the_log_is_read_from_behind_the_trail_on(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what the trail names is looked up, so nothing is missing."""
    monkeypatch.setattr(timeline_events, "LATE", 0)
    given = settings(engine, kafka=KAFKA, audit=AUDIT)
    placed = emit(engine, "placed", 0)
    record(engine, 1)
    advance(engine, "audit", 9)
    caused(engine, placed, "issued", 2, key="i-1")
    emit(engine, "shipped", 3)
    with engine.connect() as connection:
        assert timeline_events.Log(connection, given)._low > 0
        partly = settings(engine, audit=AUDIT | {"types": ["x.*"]})
        assert timeline_events.Log(connection, partly)._low == 0
    found = timeline(engine, given, "o-1")
    assert names(found) == [(0, "shop.placed"), (1, "shop.issued"), (0, "shop.shipped")]
    assert found.stories[0].event.is_stored
    passages = {passage.route: passage for passage in found.stories[0].passages}
    assert (passages["audit"].state, passages["audit"].by) == ("delivered", at(1))


def test_a_position_of_another_server_tells_nothing(postgres_engine: sa.Engine) -> None:
    given = settings(postgres_engine, kafka=KAFKA)
    emit(postgres_engine, "placed", 0)
    advance(postgres_engine, "kafka", 1)
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE outbox_checkpoint SET position ="
            """ jsonb_set(position, '{server,system}', '"1"')"""
        )
    [passage] = only(timeline(postgres_engine, given, "o-1")).passages
    assert passage.state == "unknown"
    assert "another database server" in (passage.reason or "")


def test_late_events_are_waiting_though_their_number_is_low(
    postgres_engine: sa.Engine,
) -> None:
    given = settings(postgres_engine, kafka=KAFKA)
    with postgres_engine.connect() as late:
        late.exec_driver_sql(
            "INSERT INTO outbox_event (type, partition_key, data) VALUES ('shop.late', 'o-1', '{}')"
        )
        emit(postgres_engine, "placed", 0)
        advance(postgres_engine, "kafka", 1)
        late.commit()
    states = {
        story.event.envelope.type: story.passages[0].state
        for story in timeline(postgres_engine, given, "o-1").stories
    }
    assert states == {"shop.late": "waiting", "shop.placed": "delivered"}
