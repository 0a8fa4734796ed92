"""Consumers on real databases: effects, failures, dead letters; each on every kind of database."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
import sqlalchemy as sa

import outbox
from outbox import dead_letter
from outbox.consumer import Consumer
from outbox.errors import ConfigurationError, DatabaseUnavailableError, PermanentError, UsageError
from outbox.settings import ConsumerSettings
from outbox.settlement import Counts
from outbox.transport import Message
from tests.integration.consuming import (
    QUICK,
    Base,
    Counted,
    Effect,
    ListSubscriber,
    async_engine,
    consume,
    counted,
    effects,
    inbox_count,
    letters,
    message,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from outbox.context import Context
    from outbox.transport import Delivery


@pytest.fixture(params=["postgres", "sqlite", "mariadb"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    made: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    Base.metadata.create_all(made)
    return made


@pytest.fixture
def consumer(engine: sa.Engine) -> Consumer:
    made = Consumer("tests", database=engine)
    made.on(Counted)(write)
    return made


def test_each_event_has_one_effect_in_order(engine: sa.Engine, consumer: Consumer) -> None:
    log = [counted(f"k{n % 7}", n) for n in range(1_200)]
    assert consume(consumer, log) == Counts(handled=1_200)
    assert effects(engine) == [(f"k{n % 7}", n) for n in range(1_200)]
    assert inbox_count(engine) == 1_200


def test_what_is_delivered_again_has_no_second_effect(
    engine: sa.Engine, consumer: Consumer
) -> None:
    log = [counted("k", n) for n in range(20)]
    twice = [*log[:10], *log[:10], *log[10:]]
    assert consume(consumer, twice) == Counts(handled=20, duplicate=10)
    assert consume(consumer, twice) == Counts(duplicate=30)
    assert effects(engine) == [("k", n) for n in range(20)]


def test_what_was_known_to_begin_with_costs_the_others_no_attempt(
    engine: sa.Engine, consumer: Consumer
) -> None:
    attempts = []

    @consumer.on(Counted)
    def note(event: Counted, context: Context) -> None:
        attempts.append((event.n, context.attempt))

    log = [counted("k", n) for n in range(10)]
    assert consume(consumer, log[4:6]) == Counts(handled=2)
    assert consume(consumer, log) == Counts(handled=8, duplicate=2)
    assert attempts == [(n, 1) for n in (4, 5, 0, 1, 2, 3, 6, 7, 8, 9)]


def test_a_known_event_and_a_poison_in_one_batch_are_told_apart(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=engine)

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        if event.n == 7:
            raise PermanentError("poison")
        write(event, context)

    log = [counted(f"k{n % 2}", n) for n in range(12)]
    assert consume(consumer, log[:3]) == Counts(handled=3)
    assert consume(consumer, log) == Counts(handled=6, duplicate=3, dead=1, parked=2)
    assert effects(engine) == [
        (f"k{n % 2}", n) for n in range(12) if n < 7 or n % 2 == 0
    ]  # fmt: skip
    assert consume(consumer, [*log, counted("k1", 12), counted("k0", 13)]) == Counts(
        handled=1, duplicate=12, parked=1
    )


def test_equal_ids_of_two_sources_are_two_events(engine: sa.Engine, consumer: Consumer) -> None:
    one = counted("k", 1)
    assert consume(consumer, [one, replace(one, source="/other")]) == Counts(handled=2)


def test_two_consumers_handle_an_event_once_each(engine: sa.Engine, consumer: Consumer) -> None:
    other = Consumer("other", database=engine)
    other.on(Counted)(write)
    log = [counted("k", 1)]
    assert consume(consumer, log) == consume(other, log) == Counts(handled=1)


def test_ids_may_hold_what_array_literals_and_json_quote(
    engine: sa.Engine, consumer: Consumer
) -> None:
    ids = ['"', "\\", "{a,b}", "NULL", " ", "é'\n", '\\"']
    log = [counted("k", n, id=each) for n, each in enumerate(ids)]
    assert consume(consumer, [*log, *log]) == Counts(handled=len(ids), duplicate=len(ids))


def test_types_without_a_handler_are_skipped_and_leave_no_inbox_row(
    engine: sa.Engine, consumer: Consumer
) -> None:
    log = [counted("k", 1), counted("k", 2, type="tests.unknown")]
    assert consume(consumer, log) == Counts(handled=1, skipped=1)
    assert inbox_count(engine) == 1


def test_handlers_of_one_type_run_in_the_order_of_their_registration(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=engine)
    called = []
    consumer.on(Counted)(lambda event, _: called.append(("first", event)))

    @consumer.on("tests.consuming.counted")
    async def second(event: Any, context: Context) -> None:
        called.append(("second", event))

    consumer.on(Counted)(lambda event, _: called.append(("third", event)))
    consume(consumer, [counted("k", 1)])
    assert called == [
        ("first", Counted(key="k", n=1)),
        ("second", {"key": "k", "n": 1}),
        ("third", Counted(key="k", n=1)),
    ]


def test_a_failing_second_handler_takes_the_effect_of_the_first_with_it(
    engine: sa.Engine, consumer: Consumer
) -> None:
    @consumer.on(Counted)
    def refuse(event: Counted, context: Context) -> None:
        raise PermanentError("no")

    assert consume(consumer, [counted("k", 1)]) == Counts(dead=1)
    assert effects(engine) == []


def test_one_poison_among_500_costs_the_others_nothing(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=engine)

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        if event.n == 250:
            raise ZeroDivisionError("poison")
        write(event, context)

    log = [counted(f"k{n}", n) for n in range(500)]
    assert consume(consumer, log) == Counts(handled=499, dead=1)
    assert effects(engine) == [(f"k{n}", n) for n in range(500) if n != 250]
    (letter,) = letters(engine)
    assert (letter.envelope, letter.reason) == (
        replace(log[250], topic="tests"),
        "ZeroDivisionError: poison",
    )
    assert (letter.owner, letter.attempt_count, letter.place) == ("tests", 3, "tests[0]@250")


def test_a_fault_found_by_the_flush_alone_is_traced_to_its_event(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=engine)

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        context.session.add(Effect(key=event.key, n=None if event.n == 33 else event.n))

    log = [counted(f"k{n}", n) for n in range(100)]
    assert consume(consumer, log) == Counts(handled=99, dead=1)
    assert effects(engine) == [(f"k{n}", n) for n in range(100) if n != 33]
    assert [letter.place for letter in letters(engine)] == ["tests[0]@33"]


def test_a_fault_that_a_later_query_brings_up_is_not_blamed_on_that_query(
    engine: sa.Engine,
) -> None:
    consumer = Consumer("tests", database=engine)

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        if event.n == 5:
            context.session.scalars(sa.select(Effect)).all()  # flushes what number 3 added
        context.session.add(Effect(key=event.key, n=None if event.n == 3 else event.n))

    log = [counted(f"k{n}", n) for n in range(10)]
    assert consume(consumer, log) == Counts(handled=9, dead=1)
    assert [letter.place for letter in letters(engine)] == ["tests[0]@3"]


def test_later_events_of_a_dead_one_are_parked_and_other_keys_go_on(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=engine)

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        if event.key == "bad" and event.n == 1:
            raise PermanentError("never")
        write(event, context)

    log = [counted(key, n) for n in range(4) for key in ("bad", "good")]
    settings = QUICK.model_copy(update={"batch_size": 3})
    assert consume(consumer, log, settings) == Counts(handled=5, dead=1, parked=2)
    assert effects(engine) == [
        ("bad", 0), ("good", 0), ("good", 1), ("good", 2), ("good", 3),
    ]  # fmt: skip
    assert [(each.status, each.attempt_count) for each in letters(engine)] == [
        ("dead", 1), ("parked", 0), ("parked", 0),
    ]  # fmt: skip
    assert consume(consumer, log, settings) == Counts(duplicate=8)


def test_events_without_a_key_are_never_parked(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=engine)

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        if event.n == 1:
            raise PermanentError("never")

    log = [counted("k", n, partition_key=None) for n in range(4)]
    assert consume(consumer, log) == Counts(handled=3, dead=1)


def test_what_fails_for_a_while_is_handled_at_a_later_attempt(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=engine)
    attempts = []

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        attempts.append(context.attempt)
        if context.attempt < 3:
            raise TimeoutError
        write(event, context)

    assert consume(consumer, [counted("k", 1)]) == Counts(handled=1)
    assert attempts == [1, 2, 3]
    assert effects(engine) == [("k", 1)]


def test_data_that_does_not_fit_is_dead_at_once_without_a_call(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=engine)
    called: list[Counted] = []
    consumer.on(Counted)(lambda event, _: called.append(event))
    log = [
        counted("a", 1, data=b'{"key": "a"}'),
        counted("b", 2, version=2),
        counted("c", 3, data=b"no json"),
        counted("d", 4),
    ]
    assert consume(consumer, log) == Counts(handled=1, dead=3)
    assert [event.n for event in called] == [4]
    reasons = [letter.reason for letter in letters(engine)]
    assert reasons[0].endswith(
        "its data does not fit tests.consuming.counted v1: n: Field required"
    )
    assert "tests.consuming.counted v2: this consumer handles v1 alone" in reasons[1]
    assert "Invalid JSON" in reasons[2]


@outbox.event("tests.consuming.picky", key="key")
@dataclass
class Picky:
    key: str
    n: int

    def __post_init__(self) -> None:
        if self.n == 1:
            raise TimeoutError("the validator asked somebody")


@pytest.mark.parametrize("is_async", [False, True])
def test_a_validator_that_raises_anything_is_a_failure_of_its_event_alone(
    engine: sa.Engine,
    is_async: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    consumer = Consumer("tests", database=async_engine(engine) if is_async else engine)
    consumer.on(Picky)(write)
    log = [counted(f"k{n}", n, type="tests.consuming.picky") for n in range(4)]
    assert consume(consumer, log) == Counts(handled=3, dead=1)
    (letter,) = letters(engine)
    assert (letter.attempt_count, letter.place) == (3, "tests[0]@1")
    assert letter.reason == "TimeoutError: the validator asked somebody"
    with engine.begin() as connection:
        dead_letter.request(connection, [letter.id])
    assert consume(consumer, []) == Counts()
    assert [each.attempt_count for each in letters(engine)] == [4]


def test_what_is_no_event_becomes_a_dead_letter_with_its_bytes(
    engine: sa.Engine, consumer: Consumer
) -> None:
    junk = Message("tests", b"\xff", [("ce_id", b"\xfe"), ("other", b"x")], b"\x00junk")
    zero = message(counted("k", 1, id="a\0b"))
    assert consume(consumer, [junk, counted("k", 2), zero]) == Counts(handled=1, dead=2)
    first, second = letters(engine)
    assert (first.envelope, first.content.data, first.place) == (None, b"\x00junk", "tests[0]@0")
    assert first.reason.startswith("DecodeError: ")
    assert "NUL" in second.reason


def test_what_is_no_event_and_was_discarded_stays_so_when_it_comes_again(
    engine: sa.Engine, consumer: Consumer
) -> None:
    junk = Message("tests", None, [], b"junk")
    assert consume(consumer, [junk]) == Counts(dead=1)
    assert consume(consumer, [junk]) == Counts(duplicate=1)
    (letter,) = letters(engine)
    assert (letter.status, letter.attempt_count) == ("dead", 1)
    with engine.begin() as connection:
        dead_letter.discard(connection, [letter.id], "of no use")
    assert consume(consumer, [junk, junk]) == Counts(dead=1, duplicate=1)
    assert [each.place for each in letters(engine)] == ["tests[0]@1"]


def test_what_is_no_event_is_another_one_in_a_topic_that_was_made_again(
    engine: sa.Engine, consumer: Consumer
) -> None:
    for data, key in ((b"junk", None), (b"other junk", None), (b"junk", b"k")):
        assert consume(consumer, [Message("tests", key, [], data)]) == Counts(dead=1)
    assert [each.place for each in letters(engine)] == ["tests[0]@0"] * 3
    assert [each.content.data for each in letters(engine)] == [b"junk", b"other junk", b"junk"]


def test_a_header_without_a_value_does_no_harm(engine: sa.Engine, consumer: Consumer) -> None:
    junk = Message("tests", None, [("ce_id", None), ("other", None)], b"junk")
    with_null = message(counted("k", 1))
    with_null = with_null._replace(headers=[*with_null.headers, ("other", None)])
    assert consume(consumer, [junk, with_null]) == Counts(handled=1, dead=1)
    (letter,) = letters(engine)
    assert isinstance(letter.content, Message)
    assert dict(letter.content.headers) == {"ce_id": b"", "other": b""}


# Random, because an index compresses what repeats itself.
LONG: Final = random.Random(1).randbytes(6_000).hex().encode()


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        (b"k", {"ce_id": LONG}),
        (b"k", {"ce_source": LONG}),
        (b"k", {"a\0b": b"x"}),
        (LONG, {}),
        (b"k", {"ce_time": b"0001-01-01T00:00:00Z"}),
    ],
    ids=["id", "source", "header", "key", "time"],
)
def test_what_no_index_or_column_takes_holds_nothing_up(
    engine: sa.Engine, consumer: Consumer, key: bytes, headers: dict[str, bytes]
) -> None:
    event = message(counted("k", 1, id="1"))
    poison = Message("tests", key, list({**dict(event.headers), **headers}.items()), b"no JSON")
    junk = Message("tests", key, [("a\0b", b"\0")], b"junk")
    assert consume(consumer, [poison, junk, counted("other", 2)]) == Counts(handled=1, dead=2)
    assert [letter.status for letter in letters(engine)] == ["dead", "dead"]


def test_the_longest_id_source_and_key_are_handled_and_set_aside(
    engine: sa.Engine, consumer: Consumer
) -> None:
    texts = [random.Random(n).randbytes(500).hex() for n in range(3)]
    event = counted(texts[0], 1, id=texts[1], source=texts[2])
    assert consume(consumer, [event]) == Counts(handled=1)
    unfit = replace(event, id=texts[0], data=b"no JSON")
    assert consume(consumer, [unfit, counted(texts[0], 2)]) == Counts(dead=1, parked=1)


def test_a_reason_that_is_no_text_is_written_readably(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=engine)

    @consumer.on(Counted)
    def fail(_event: Counted, _context: Context) -> None:
        raise ValueError("bad \udcff")

    assert consume(consumer, [counted("k", 1)]) == Counts(dead=1)
    assert letters(engine)[0].reason == "ValueError: bad \\udcff"


@pytest.mark.parametrize("verb", ["commit", "rollback", "close"])
def test_a_handler_cannot_end_the_transaction(engine: sa.Engine, verb: str) -> None:
    consumer = Consumer("tests", database=engine)

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        write(event, context)
        if event.n == 1:
            getattr(context.session, verb)()

    assert consume(consumer, [counted("a", 0), counted("b", 1)]) == Counts(handled=1, dead=1)
    assert effects(engine) == [("a", 0)]
    assert f"must not {verb}" in letters(engine)[0].reason


def test_a_savepoint_of_a_handler_rolls_back_alone(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=engine)

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        write(event, context)
        try:
            with context.session.begin_nested():
                context.session.add(Effect(key="inner", n=None))
        except sa.exc.IntegrityError:
            context.session.add(Effect(key="instead", n=0))

    assert consume(consumer, [counted("k", 1)]) == Counts(handled=1)
    assert sorted(effects(engine)) == [("instead", 0), ("k", 1)]


def test_a_coroutine_that_nobody_awaits_is_a_failure(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=engine)

    async def inner() -> None:
        raise AssertionError

    consumer.on(Counted)(lambda _event, _context: inner())
    assert consume(consumer, [counted("k", 1)]) == Counts(dead=1)
    assert UsageError.__name__ in letters(engine)[0].reason


def _sync(consumer: Consumer) -> None:
    consumer.on(Counted)(write)


def _async(consumer: Consumer) -> None:
    @consumer.on(Counted)
    async def handle(event: Counted, context: Context) -> None:
        write(event, context)


def _both(consumer: Consumer) -> None:
    @consumer.on(Counted)
    async def first(event: Counted, context: Context) -> None:
        assert event.n >= 0

    consumer.on(Counted)(write)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("register", [_sync, _async, _both])
def test_every_kind_of_handler_runs_on_every_kind_of_engine(
    engine: sa.Engine,
    register: Callable[[Consumer], None],
    is_async: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    consumer = Consumer("tests", database=async_engine(engine) if is_async else engine)
    register(consumer)
    log = [counted(f"k{n % 5}", n) for n in range(300)]
    twice = [*log, *log[:100]]
    assert consume(consumer, twice) == Counts(handled=300, duplicate=100)
    for key, found in itertools.groupby(
        sorted(effects(engine), key=lambda e: e[0]), lambda e: e[0]
    ):
        assert [n for _, n in found] == [n for n in range(300) if f"k{n % 5}" == key]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_ends_cancelled_has_failed_and_the_worker_goes_on(
    engine: sa.Engine,
    is_async: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    consumer = Consumer("tests", database=async_engine(engine) if is_async else engine)

    @consumer.on(Counted)
    async def handle(event: Counted, context: Context) -> None:
        if event.n == 1:
            task = asyncio.ensure_future(asyncio.Event().wait())
            task.cancel()
            await task
        write(event, context)

    assert consume(consumer, [counted("a", 1), counted("b", 2)]) == Counts(handled=1, dead=1)
    assert "cancelled" in letters(engine)[0].reason


def test_asyncpg_serves_as_well(postgres_engine: sa.Engine) -> None:
    Base.metadata.create_all(postgres_engine)
    consumer = Consumer("tests", database=async_engine(postgres_engine, "asyncpg"))
    _both(consumer)
    log = [counted(f"k{n % 5}", n) for n in range(100)]
    assert consume(consumer, [*log, *log]) == Counts(handled=100, duplicate=100)


def test_tables_that_vanish_stop_a_worker_with_lanes_by_one_error(
    postgres_engine: sa.Engine,
) -> None:
    consumer = Consumer("tests", database=async_engine(postgres_engine))

    @consumer.on(Counted)
    async def handle(event: Counted, context: Context) -> None:
        """Do nothing."""

    class Vanishing(ListSubscriber):
        def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
            with postgres_engine.begin() as connection:
                connection.execute(sa.text("DROP TABLE IF EXISTS outbox_inbox"))
            return super().receive(limit, timeout)

    with pytest.raises(ConfigurationError, match="run `outbox migrate`"):
        consume(consumer, Vanishing([counted(f"k{n}", n) for n in range(50)]))


def test_handlers_may_query_what_they_wrote_on_an_async_session(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=async_engine(engine))
    seen = []

    @consumer.on(Counted)
    async def handle(event: Counted, context: Context) -> None:
        write(event, context)
        seen.append(await context.session.scalar(sa.select(sa.func.count()).select_from(Effect)))

    settings = QUICK.model_copy(update={"lane_count": 1})
    consume(consumer, [counted("k", n) for n in range(3)], settings)
    assert seen == [1, 2, 3]


def test_lanes_run_at_the_same_time_and_each_key_in_order(postgres_engine: sa.Engine) -> None:
    Base.metadata.create_all(postgres_engine)
    consumer = Consumer("tests", database=async_engine(postgres_engine))
    running: set[str] = set()
    most = 0

    @consumer.on(Counted)
    async def handle(event: Counted, context: Context) -> None:
        nonlocal most
        assert event.key not in running
        running.add(event.key)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.discard(event.key)
        if event.n == 77:
            raise PermanentError("poison")
        write(event, context)

    log = [counted(f"k{n % 20}", n) for n in range(200)]
    assert consume(consumer, log) == Counts(handled=193, dead=1, parked=6)
    assert most > 1
    done = effects(postgres_engine)
    for key in {key for key, _ in done}:
        assert [n for k, n in done if k == key] == sorted(n for k, n in done if k == key)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_replayed_letter_and_those_parked_behind_it_are_handled_in_order(
    engine: sa.Engine,
    is_async: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    consumer = Consumer("tests", database=async_engine(engine) if is_async else engine)
    is_mended = False

    @consumer.on(Counted)
    def handle(event: Counted, context: Context) -> None:
        if event.n == 1 and not is_mended:
            raise PermanentError("never")
        write(event, context)

    log = [counted("k", n) for n in range(4)]
    assert consume(consumer, log) == Counts(handled=1, dead=1, parked=2)
    with engine.begin() as connection:
        dead_letter.request(connection, dead_letter.Filter())
    assert consume(consumer, []) == Counts()  # still broken: dead again
    assert [each.status for each in letters(engine)] == ["dead", "parked", "parked"]
    is_mended = True
    with engine.begin() as connection:
        dead_letter.request(connection, dead_letter.Filter())
    assert consume(consumer, [counted("k", 4)]) == Counts(handled=4, parked=1)
    assert letters(engine) == []
    assert effects(engine) == [("k", n) for n in range(5)]


def test_a_replayed_message_that_is_still_no_event_is_dead_again(
    engine: sa.Engine, consumer: Consumer
) -> None:
    consume(consumer, [Message("tests", None, [], b"junk")])
    with engine.begin() as connection:
        dead_letter.request(connection, dead_letter.Filter())
    assert consume(consumer, [counted("k", 1)]) == Counts(handled=1)
    (letter,) = letters(engine)
    assert (letter.status, letter.attempt_count) == ("dead", 2)


def test_a_replayed_message_that_can_be_read_by_now_is_handled_once(
    engine: sa.Engine, consumer: Consumer
) -> None:
    event = counted("k", 1)
    failures = [dead_letter.Failure(message(event), "unread", place=f"p{n}") for n in range(2)]
    with engine.begin() as connection:
        dead_letter.record(connection, "consumer", "tests", failures)
        dead_letter.request(connection, dead_letter.Filter())
    assert consume(consumer, []) == Counts(handled=1, duplicate=1)
    assert consume(consumer, [event]) == Counts(duplicate=1)
    assert (effects(engine), letters(engine)) == ([("k", 1)], [])


def test_a_letter_whose_handler_is_gone_is_dead_again(engine: sa.Engine) -> None:
    consumer = Consumer("tests", database=engine)
    consumer.on("tests.other")(lambda _event, _context: None)
    with engine.begin() as connection:
        failure = dead_letter.Failure(counted("k", 1), "lost")
        dead_letter.record(connection, "consumer", "tests", [failure])
        dead_letter.request(connection, dead_letter.Filter())
    assert consume(consumer, []) == Counts()
    assert "has no handler for tests.consuming.counted" in letters(engine)[0].reason


@pytest.mark.parametrize("database", ["postgres", "mariadb"])
def test_missing_tables_stop_the_worker_with_a_sentence(
    request: pytest.FixtureRequest, database: str
) -> None:
    engine = sa.create_engine(request.getfixturevalue(f"{database}_empty_url"))
    consumer = Consumer("tests", database=engine)
    consumer.on(Counted)(write)
    with pytest.raises(ConfigurationError, match="run `outbox migrate`"):
        consume(consumer, [])
    engine.dispose()


def test_missing_tables_are_told_on_sqlite_too() -> None:
    consumer = Consumer("tests", database="sqlite://")
    consumer.on(Counted)(write)
    with pytest.raises(ConfigurationError, match="run `outbox migrate`"):
        consume(consumer, [])


def test_a_database_that_is_not_there_at_the_start_is_told_without_its_password() -> None:
    consumer = Consumer("tests", database="postgresql+psycopg://u:secret@127.0.0.1:1/none")
    consumer.on(Counted)(write)
    with pytest.raises(DatabaseUnavailableError, match="'tests' does not answer") as caught:
        consume(consumer, [])
    assert "secret" not in str(caught.value)


def test_a_database_without_an_inbox_is_refused() -> None:
    other = SimpleNamespace(dialect=SimpleNamespace(name="mssql"))
    consumer = Consumer("tests", database=other)  # type: ignore[arg-type]  # needs no driver so
    consumer.on(Counted)(write)
    with pytest.raises(ConfigurationError, match="mssql"):
        consume(consumer, [])


def test_a_consumer_without_handlers_cannot_work(engine: sa.Engine) -> None:
    with pytest.raises(ConfigurationError, match="no handler"):
        consume(Consumer("tests", database=engine), [], ConsumerSettings())
