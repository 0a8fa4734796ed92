"""Timelines: what the database knows of one key's events, and no more than that."""

from __future__ import annotations

import inspect
import shutil
import sys
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from outbox import Consumer, Context, dead_letter
from outbox.settings import RetentionSettings, Settings
from outbox.settlement import Counts
from outbox.table import (
    GUARD,
    outbox_audit,
    outbox_checkpoint,
    outbox_dead_letter,
    outbox_event,
    outbox_inbox,
)
from relay.database import make_engine
from relay.timeline import Story, Timeline, timeline
from tests.fix_mariadb import mariadb_migrated
from tests.fix_postgres import postgres_migrated
from tests.integration.consuming import TYPE, Counted, consume
from tests.pool import assert_all_given_back
from tests.storytelling import (
    SOURCE,
    add_record,
    advance,
    at,
    caused,
    emit,
    envelope,
    forget,
    give_up,
    process,
    record,
    settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


KAFKA = {"transport": "kafka", "bootstrap_servers": "nowhere:1"}
AUDIT = {"transport": "audit"}


@pytest.fixture(scope="module", params=["sqlite", "postgres", "mariadb"])
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sa.Engine]:
    """A migrated database for all tests of one kind, because to make one takes a second."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            path = tmp_path_factory.mktemp("timeline") / "outbox.db"
            shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
            url = sa.make_url(f"sqlite:///{path}")
        else:
            server = request.getfixturevalue(f"{request.param}_server")
            template = request.getfixturevalue(f"{request.param}_template")
            migrated = {"postgres": postgres_migrated, "mariadb": mariadb_migrated}[request.param]
            url = stack.enter_context(migrated(server, template))
        engine = make_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture
def engine(database: sa.Engine) -> Iterator[sa.Engine]:
    yield database
    assert_all_given_back(database)
    with database.begin() as connection:
        for table in (
            outbox_event,
            outbox_audit,
            outbox_inbox,
            outbox_dead_letter,
            outbox_checkpoint,
        ):
            connection.execute(sa.delete(table))
        if database.dialect.name == "mariadb":
            # A gap at the beginning of the numbers would be one that may still be filled.
            connection.exec_driver_sql("ALTER TABLE outbox_event AUTO_INCREMENT = 1")


@pytest.fixture
def given(engine: sa.Engine) -> Settings:
    return settings(engine, kafka=KAFKA)


def names(found: Timeline) -> list[tuple[int, str]]:
    return [(story.depth, story.event.envelope.type) for story in found.stories]


def numbers(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(outbox_event.c.seq)))


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


def test_what_was_set_aside_is_not_told_as_processed(engine: sa.Engine, given: Settings) -> None:
    """The inbox has it all the same: it is not to be handled when it comes again."""
    columns: dict[str, Any] = {"type": TYPE, "data": b'{"key": "o-1", "n": 1}'}
    log = [envelope(engine, emit(engine, "", seconds, **columns)) for seconds in (0, 1)]
    consumer = Consumer("billing", database=engine)
    failing = True

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        if failing:
            raise TimeoutError

    def told() -> list[list[str]]:
        stories = timeline(engine, given, "o-1").stories
        return [[each.consumer for each in story.handlings] for story in stories]

    assert consume(consumer, log) == Counts(dead=1, parked=1)
    assert told() == [[], []]
    with engine.begin() as connection:
        dead_letter.request(connection, letter_ids(engine))
    failing = False
    assert consume(consumer, []) == Counts(handled=2)
    assert told() == [["billing"], ["billing"]]
    for story in timeline(engine, given, "o-1").stories:
        assert story.handlings[0].processed_at == story.letters[0].resolved_at
    with engine.begin() as connection:
        values = {"status": "dead", "resolved_at": None}
        connection.execute(sa.update(outbox_dead_letter).values(values))
        dead_letter.discard(connection, letter_ids(engine), "a test")
    assert told() == [[], []]
    with engine.begin() as connection:
        connection.execute(sa.delete(outbox_inbox))
    assert consume(consumer, log) == Counts(handled=2)
    assert told() == [["billing"], ["billing"]], "they came once more than the inbox knew"


def test_where_a_letter_may_be_gone_nobody_is_sure_that_an_event_was_processed(
    engine: sa.Engine, given: Settings
) -> None:
    retention = RetentionSettings(dead_letters=timedelta(days=30))
    forgetful = given.model_copy(update={"retention": retention})
    placed = emit(engine, "placed", 0)
    process(engine, "billing", placed, -1e9)
    now = datetime.now(UTC).timestamp() - at(0).timestamp()
    process(engine, "ledger", placed, now)
    for known, told in ((given, [True, True]), (forgetful, [False, True])):
        story = only(timeline(engine, known, "o-1"))
        assert [each.is_sure for each in story.handlings] == told


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


@pytest.mark.parametrize(
    "route",
    [AUDIT, AUDIT | {"database_url": "sqlite:///elsewhere.db"}],
    ids=["widened", "elsewhere"],
)
def test_events_that_this_trail_does_not_have_are_told(
    sqlite_engine: sa.Engine, route: dict[str, str]
) -> None:
    """The route's position says nothing of them: it had other types, or has another trail."""
    given = settings(sqlite_engine, audit=route)
    placed = emit(sqlite_engine, "placed", 0)
    caused(sqlite_engine, placed, "issued", 1, key="i-1")
    emit(sqlite_engine, "other", 2, key="o-2", seq=1_000_000)
    advance(sqlite_engine, "audit", 9)
    found = timeline(sqlite_engine, given, "o-1")
    assert names(found) == [(0, "shop.placed"), (1, "shop.issued")]
    assert only(timeline(sqlite_engine, given, "i-1")).cause is not None


def test_only_the_trail_of_its_own_database_proves_that_a_route_delivered(
    engine: sa.Engine,
) -> None:
    emit(engine, "placed", 0)
    record(engine, 1)
    emit(engine, "shipped", 2)
    advance(engine, "audit", 9)
    told = {
        name: [
            (passage.state, passage.by)
            for story in timeline(engine, settings(engine, audit=route), "o-1").stories
            for passage in story.passages
        ]
        for name, route in {
            "here": AUDIT,
            "elsewhere": AUDIT | {"database_url": "sqlite:///elsewhere.db"},
        }.items()
    }
    assert told == {
        "here": [("delivered", at(1)), ("passed", at(9))],
        "elsewhere": [("delivered", at(9)), ("delivered", at(9))],
    }
    # Of several routes nobody knows which one it was.
    given = settings(engine, audit=AUDIT, copy=AUDIT)
    placed = timeline(engine, given, "o-1").stories[0]
    assert [(passage.state, passage.by) for passage in placed.passages] == [
        ("delivered", at(9)),
        ("waiting", None),
    ]


def test_a_trail_of_several_services_gives_each_event_its_own_record(
    engine: sa.Engine, given: Settings
) -> None:
    """Numbers are those of a log, and ids those of a source: each may be there twice."""
    placed = emit(engine, "placed", 0, key="o-2")
    [number] = numbers(engine)
    record(engine, 5)
    other: dict[str, Any] = {"type": "billing.paid", "source": "/billing", "sequence": number}
    add_record(engine, 2, key="o-1", **other)
    add_record(engine, 3, key="o-1", event_id=placed, **other)
    add_record(engine, 4, key="o-1", event_id=placed, **other | {"source": "/shipping"})
    add_record(engine, 5, key="o-1", **other | {"sequence": 0})
    add_record(engine, 6, key="o-1", **other | {"sequence": 0})
    found = timeline(engine, given, "o-1")
    assert sorted(story.event.position or 0 for story in found.stories) == [2, 3, 4, 5, 6]
    assert not any(story.event.is_stored for story in found.stories)
    own = only(timeline(engine, given, "o-2"))
    assert (own.event.is_stored, own.event.position) == (True, 1)


def test_a_position_says_nothing_of_numbers_of_another_log(
    engine: sa.Engine, given: Settings
) -> None:
    emit(engine, "placed", 0)
    [number] = numbers(engine)
    add_record(engine, 1, type="billing.paid", source="/billing", sequence=number, seconds=1)
    advance(engine, "kafka", 9)
    placed, paid = timeline(engine, given, "o-1").stories
    assert [(each.state, each.by) for each in placed.passages] == [("delivered", at(9))]
    assert [(each.state, each.by) for each in paid.passages] == [("passed", None)]


def test_an_event_has_the_record_of_its_own_source(engine: sa.Engine, given: Settings) -> None:
    emit(engine, "placed", 0, source="/eu")
    emit(engine, "shipped", 1)
    record(engine, 5)
    process(engine, "billing", emit(engine, "billed", 2), 3)
    placed, shipped, billed = timeline(engine, given, "o-1").stories
    told = [(each.event.envelope.source, each.event.position) for each in (placed, shipped, billed)]
    assert told == [("/eu", 1), (SOURCE, 2), (SOURCE, None)]
    assert [each.consumer for each in billed.handlings] == ["billing"]


def test_an_event_is_found_with_its_record_beyond_the_limit(
    engine: sa.Engine, given: Settings
) -> None:
    emit(engine, "placed", 0)
    emit(engine, "shipped", 60)
    record(engine, 61)
    for position in (3, 4, 5):
        add_record(engine, position, type="billing.paid", source="/billing", seconds=30)
    found = timeline(engine, given, "o-1", limit=2)
    assert names(found) == [(0, "billing.paid"), (0, "shop.shipped")]
    assert (found.stories[1].event.is_stored, found.stories[1].event.position) == (True, 2)


def test_events_of_several_logs_are_told_by_time(engine: sa.Engine, given: Settings) -> None:
    emit(engine, "placed", 10)
    emit(engine, "shipped", 5)  # by a clock that is late
    emit(engine, "closed", 40)
    record(engine, 50)
    billing: dict[str, Any] = {"source": "/billing", "type": "billing.paid"}
    add_record(engine, 4, **billing, sequence=900, seconds=20)
    add_record(engine, 5, **billing, sequence=901, seconds=30)
    assert names(timeline(engine, given, "o-1")) == [
        (0, "shop.placed"),
        (0, "shop.shipped"),
        (0, "billing.paid"),
        (0, "billing.paid"),
        (0, "shop.closed"),
    ]


def test_what_an_event_of_another_log_caused_is_told(engine: sa.Engine, given: Settings) -> None:
    """Its number says nothing of those of its effects, and neither does its place in the trail."""
    paid = str(uuid.uuid4())
    caused(engine, paid, "shipped", 1)
    record(engine, 2)
    caused(engine, paid, "thanked", 3)
    billing: dict[str, Any] = {"type": "billing.paid", "source": "/billing", "sequence": 1_000_000}
    add_record(engine, 2, key="i-1", event_id=paid, **billing)
    assert names(timeline(engine, given, "i-1")) == [
        (0, "billing.paid"),
        (1, "shop.shipped"),
        (1, "shop.thanked"),
    ]


HEADERS = {"actor": "user:42", "correlationid": "c-1"}


def forge(engine: sa.Engine, values: dict[str, Any]) -> None:
    """Alter events without a subject; PostgreSQL's table is guarded, but not from its owner."""
    is_guarded = engine.dialect.name == "postgresql"
    forged = sa.update(outbox_event).where(outbox_event.c.subject.is_(None))
    with engine.begin() as connection:
        if is_guarded:
            connection.exec_driver_sql("ALTER TABLE outbox_event DROP CONSTRAINT outbox_event_own")
        connection.execute(forged.values(**values))
        if is_guarded:
            connection.exec_driver_sql(GUARD)


@pytest.mark.parametrize(
    ("values", "differences"),
    [
        ({}, []),
        ({"data": b'{"total": 1}'}, ["data"]),
        ({"content_type": "text/plain"}, ["data"]),
        ({"headers": HEADERS | {"actor": "user:1"}}, ["actor"]),
        ({"headers": {"causationid": "c"}}, ["actor", "correlationid", "causationid"]),
        ({"time": at(0.123457), "type": "shop.paid"}, ["type", "time"]),
        ({"version": 2, "subject": ""}, ["version", "subject"]),
    ],
)
def test_what_the_log_says_otherwise_than_the_trail_is_named(
    engine: sa.Engine, given: Settings, values: dict[str, Any], differences: list[str]
) -> None:
    """Whoever has every right in the database has altered it; nothing of the trail changed."""
    emit(engine, "placed", 0.123456, headers=HEADERS)
    emit(engine, "noted", 1, source="/eu", subject="s", data="tschüß".encode(), version=3)
    record(engine, 1)
    if values:
        forge(engine, values)
    first, second = timeline(engine, given, "o-1").stories
    assert (first.event.differences, second.event.differences) == (differences, [])


def test_data_that_the_trail_s_route_converts_are_not_compared(sqlite_engine: sa.Engine) -> None:
    emit(sqlite_engine, "placed", 0)
    record(sqlite_engine, 1)
    forge(sqlite_engine, {"data": b"{}", "version": 2})
    schemas = {"registry": "http://localhost", "format": "avro", "subject": "record"}
    given = settings(sqlite_engine, audit=AUDIT | {"schemas": schemas})
    assert only(timeline(sqlite_engine, given, "o-1")).event.differences == ["version"]


UNREADABLE = {
    "sqlite": ["'x'", "x'00'", "1"],
    "postgresql": ["'infinity'", "'-infinity'", "'0044-03-15 12:00:00 BC'"],
    "mariadb": ["'0000-00-00 00:00:00'"],
}


@pytest.mark.parametrize("column", ["time", "recorded_at"])
def test_a_time_that_was_tampered_with_hides_nothing(engine: sa.Engine, column: str) -> None:
    given = settings(engine, audit=AUDIT)
    emit(engine, "placed", 0)
    emit(engine, "shipped", 1)
    record(engine, 2)
    advance(engine, "audit", 3)
    forget(engine)
    for value in UNREADABLE[engine.dialect.name]:
        with engine.begin() as connection:
            if engine.dialect.name == "mariadb":
                connection.exec_driver_sql("SET sql_mode = ''")
            connection.exec_driver_sql(
                f"UPDATE outbox_audit SET {column} = {value} WHERE position = 1"
            )
        found = timeline(engine, given, "o-1")
        assert names(found) == [(0, "shop.placed"), (0, "shop.shipped")]
        placed, shipped = found.stories
        times = {"time": placed.event.time, "recorded_at": placed.event.recorded_at}
        assert times == {"time": at(0), "recorded_at": at(2)} | {column: None}
        assert (shipped.event.time, shipped.event.recorded_at) == (at(1), at(2))
        assert placed.passages[0].state == "delivered"


def test_any_cell_may_have_been_tampered_with(sqlite_engine: sa.Engine) -> None:
    """SQLite takes anything anywhere."""
    given = settings(sqlite_engine)
    emit(sqlite_engine, "placed", 0)
    record(sqlite_engine, 2)
    forget(sqlite_engine)
    with sqlite_engine.begin() as connection:
        for column in ("event_id", "source", "type", "subject", "actor", "version", "sequence"):
            connection.exec_driver_sql(f"UPDATE outbox_audit SET {column} = CAST('x' AS BLOB)")
    event = only(timeline(sqlite_engine, given, "o-1")).event
    assert (event.envelope.type, event.envelope.actor, event.sequence) == ("x", "x", 0)


def test_a_record_that_nothing_can_read_differs(sqlite_engine: sa.Engine) -> None:
    emit(sqlite_engine, "placed", 0)
    record(sqlite_engine, 2)
    with sqlite_engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE outbox_audit SET time = 'x', version = x'ff', data_digest = 'x', actor = 1"
        )
    event = only(timeline(sqlite_engine, settings(sqlite_engine), "o-1")).event
    assert event.differences == ["version", "actor", "time", "data"]


@pytest.mark.parametrize("is_stored", [True, False])
def test_text_of_sqlite_that_is_no_utf_8_is_told_as_it_stands_there(
    sqlite_engine: sa.Engine, *, is_stored: bool
) -> None:
    given = settings(sqlite_engine, kafka=KAFKA)
    placed = emit(sqlite_engine, "placed", 0)
    record(sqlite_engine, 2)
    give_up(sqlite_engine, "consumer", "shipping", placed, reason="x")
    if not is_stored:
        forget(sqlite_engine)
    no_text = "CAST(x'6bff' AS TEXT)"
    with sqlite_engine.begin() as connection:
        for statement in (
            f"outbox_event SET subject = {no_text}",
            f"outbox_audit SET subject = {no_text}, actor = {no_text}, time = x'00ff'",
            f"outbox_dead_letter SET reason = {no_text}",
        ):
            connection.exec_driver_sql(f"UPDATE {statement}")
    story = only(timeline(sqlite_engine, given, "o-1"))
    assert story.event.envelope.subject == r"k\udcff"
    assert story.event.time == (at(0) if is_stored else None)
    assert [each.reason for each in story.letters] == [r"k\udcff"]


def test_a_chain_of_effects_may_be_long(sqlite_engine: sa.Engine) -> None:
    """As long as was asked for, though Python's own stack is shorter."""
    length, room = 170, 150
    ids = [str(uuid.uuid4()) for _ in range(length)]
    rows = [
        {
            "id": own,
            "type": "shop.x",
            "partition_key": f"k-{index}",
            "time": at(0),
            "data": b"{}",
            "headers": {"causationid": ids[index - 1]} if index else {},
        }
        for index, own in enumerate(ids)
    ]
    with sqlite_engine.begin() as connection:
        connection.execute(sa.insert(outbox_event), rows)
    given = settings(sqlite_engine)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + room)
    try:
        found = timeline(sqlite_engine, given, "k-0", limit=length, depth=length)
    finally:
        sys.setrecursionlimit(before)
    assert [story.depth for story in found.stories] == list(range(length))


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
