"""Events that are sent again beside their route: which, in what order, how marked, how fast."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from outbox.codec import REPLAY
from outbox.errors import RecordRefusedError
from outbox.selection import Selection
from outbox.settings import RouteSettings
from outbox.table import outbox_event
from outbox.transports.memory import MemoryBroker
from relay.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable

    from outbox.transport import Message
    from relay.replay import Progress

TOPIC = "shop.order"
SOURCE = "/shop"


@dataclass
class World:
    engine: sa.Engine
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    route: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = uuid.uuid4().hex
        self.broker = MemoryBroker.named(name)
        self.route = {"transport": "memory", "broker": name, "retry_max_seconds": 0.05}
        rows = [
            {
                "type": f"shop.order.{'placed' if n % 2 else 'paid'}",
                "partition_key": f"k{n % 3}",
                "data": b"%d" % n,
                "headers": {"tenant": "a"},
            }
            for n in range(12)
        ]
        with self.engine.begin() as connection:
            connection.execute(sa.insert(outbox_event), rows)

    def sequences(self) -> list[int]:
        with self.engine.begin() as connection:
            return list(connection.scalars(sa.select(outbox_event.c.seq).order_by("seq")))

    def replay(self, rate: float | None = None, **selection: Any) -> Replay:
        settings = RouteSettings.model_validate(self.route)
        return Replay(self.engine, "m", settings, Selection(**selection), rate, SOURCE)

    def run(self, rate: float | None = None, **selection: Any) -> Progress:
        made = self.replay(rate, **selection)
        assert made.run(threading.Event(), lambda _: None)
        return made.progress

    def arrived(self) -> list[Message]:
        return self.broker.messages(TOPIC)

    def numbers(self) -> list[int]:
        return [int(message.data) for message in self.arrived()]


@pytest.fixture(params=["postgres", "sqlite", "mariadb"])
def world(request: pytest.FixtureRequest) -> World:
    engine: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return World(engine)


@pytest.fixture
def on_sqlite(sqlite_engine: sa.Engine) -> World:
    return World(sqlite_engine)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, list(range(12))),
        ({"type_glob": "*.paid"}, [0, 2, 4, 6, 8, 10]),
        ({"key": "k1"}, [1, 4, 7, 10]),
        ({"key": "k1", "type_glob": "shop.order.placed"}, [1, 7]),
        ({"type_glob": "shop.order._aid"}, []),
    ],
    ids=str,
)
def test_chosen_events_are_sent_again_in_order(
    world: World, selection: dict[str, Any], expected: list[int]
) -> None:
    made = world.replay(**selection)
    assert made.count() == len(expected)
    assert made.run(threading.Event(), lambda _: None)
    assert sorted(world.numbers()) == expected
    by_key: dict[bytes | None, list[int]] = {}
    for message in world.arrived():
        by_key.setdefault(message.key, []).append(int(message.data))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert (made.progress.sent, made.progress.looked_at) == (len(expected), len(expected))


def test_only_sequences_between_two_are_sent(on_sqlite: World) -> None:
    sequences = on_sqlite.sequences()
    progress = on_sqlite.run(after=sequences[2], until=sequences[5])
    assert on_sqlite.numbers() == [3, 4, 5]
    assert progress.sequence == sequences[5]


def test_what_is_sent_again_is_the_same_but_for_one_header(on_sqlite: World) -> None:
    on_sqlite.run(key="k0")
    headers = [dict(message.headers) for message in on_sqlite.arrived()]
    with on_sqlite.engine.begin() as connection:
        rows = connection.execute(
            sa.select(outbox_event.c.id).where(outbox_event.c.partition_key == "k0")
        )
        ids = {str(row.id).encode() for row in rows}
    assert {each["ce_id"] for each in headers} == ids
    assert {each["tenant"] for each in headers} == {b"a"}
    # Their producer set none, so it is the one of the settings.
    assert {each["ce_source"] for each in headers} == {SOURCE.encode()}
    (mark,) = {each[REPLAY] for each in headers}
    assert mark is not None
    assert mark.startswith(b"20")


def test_what_the_route_leaves_out_is_left_out(on_sqlite: World) -> None:
    on_sqlite.route |= {"types": ["*.paid"], "where": {"partitionkey": ["k0"]}}
    progress = on_sqlite.run()
    assert on_sqlite.numbers() == [0, 6]
    assert (progress.sent, progress.looked_at) == (2, 12)


def test_an_outage_is_waited_for_and_told(on_sqlite: World) -> None:
    made = on_sqlite.replay()
    told: list[str | None] = []
    down = threading.Event()

    def tell(progress: Progress) -> None:
        told.append(None if progress.error is None else str(progress.error))
        if len(told) == 3:
            down.set()

    thread = threading.Thread(target=lambda: made.run(threading.Event(), tell))
    with on_sqlite.broker.outage():
        thread.start()
        assert down.wait(30)
    thread.join(30)
    assert told[:3] == ["the in-memory broker is down"] * 3
    assert told[-1] is None
    assert sorted(on_sqlite.numbers()) == list(range(12))


def test_what_can_never_be_sent_is_told_and_the_rest_of_its_key_is_sent(on_sqlite: World) -> None:
    with on_sqlite.broker.refuse(lambda event: event.data == b"4", RecordRefusedError("too large")):
        progress = on_sqlite.run()
    assert [(event.data, str(error)) for event, error in progress.refused] == [(b"4", "too large")]
    assert sorted(on_sqlite.numbers()) == [n for n in range(12) if n != 4]


@pytest.mark.parametrize("counted", ["sent", "looked_at"])
def test_a_replay_that_was_stopped_goes_on_behind_its_sequence(
    on_sqlite: World, counted: str
) -> None:
    stop = threading.Event()

    def tell(progress: Progress) -> None:
        if getattr(progress, counted) == 4:
            stop.set()

    made = on_sqlite.replay(rate=8)
    assert not made.run(stop, tell)
    assert on_sqlite.numbers() == [0, 1, 2, 3]
    on_sqlite.run(after=made.progress.sequence)
    assert sorted(on_sqlite.numbers()) == list(range(12))


def test_no_more_are_sent_than_the_rate_allows(on_sqlite: World) -> None:
    started = time.monotonic()
    on_sqlite.run(rate=40)
    assert time.monotonic() - started >= 12 / 40


def test_a_selection_has_every_condition(on_sqlite: World) -> None:
    with on_sqlite.engine.begin() as connection:
        moment = connection.scalar(sa.select(sa.func.max(outbox_event.c.time)))

    def count(**selection: Any) -> Any:
        with on_sqlite.engine.begin() as connection:
            return connection.scalar(Selection(**selection).count())

    first = on_sqlite.sequences()[0]
    checks: list[Callable[[], Any]] = [
        lambda: count(since=moment, key="k9"),
        lambda: count(until=first - 1),
        lambda: count(after=first + 11),
    ]
    assert [check() for check in checks] == [0, 0, 0]
    assert count(since=moment, after=first - 1, until=first + 11, type_glob="*", key="k0")
