"""The relay in threads, on both databases and the in-memory broker."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from outbox import dead_letter
from outbox.codec import from_headers
from outbox.dead_letter import Filter
from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    DestinationRefusedError,
    RecordRefusedError,
)
from outbox.settings import Settings
from outbox.table import outbox_checkpoint, outbox_event
from outbox.transports.memory import MemoryBroker
from outbox.transports.memory.publishing import MemoryPublisher
from relay import lease
from relay.capture import open_capture
from relay.capture.position import rewind
from relay.daemon import Relay, Summary, Until
from relay.status import RouteStatus, route_status
from relay.term import LETTERS_SECONDS
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from outbox.envelope import Envelope
    from outbox.transport import Outcome

TYPE = "shop.order.placed"
TOPIC = "shop.order"


@dataclass
class World:
    """A database with one route to a broker of its own."""

    engine: sa.Engine
    settings: Settings
    broker: MemoryBroker

    def emit(self, *names: str, key: str | None = "k", type_: str = TYPE) -> None:
        """Commit events whose data is their name."""
        rows = [{"type": type_, "partition_key": key, "data": name.encode()} for name in names]
        with self.engine.begin() as connection:
            connection.execute(sa.insert(outbox_event), rows)

    def relay(self, **options: Any) -> Relay:
        return Relay(self.settings, engine=self.engine, **options)

    def drain(self, **options: Any) -> Summary:
        return self.relay(**options).run(until=Until.DRAINED)

    def arrived(self, topic: str = TOPIC) -> list[str]:
        return [message.data.decode() for message in self.broker.messages(topic)]

    def status(self) -> RouteStatus:
        (status,) = route_status(self.engine, self.settings)
        return status

    def letters(self) -> list[tuple[str, str]]:
        """Name and status of the unresolved letters."""
        with self.engine.begin() as connection:
            found = dead_letter.find(connection, Filter(owner="m"), 100)
        return [(letter.content.data.decode(), letter.status) for letter in found]

    def replay(self, which: Callable[[sa.Connection], object]) -> None:
        with self.engine.begin() as connection:
            which(connection)

    def checkpoint(self) -> sa.Row[Any]:
        with self.engine.begin() as connection:
            return connection.execute(sa.select(outbox_checkpoint)).one()


@pytest.fixture(params=["postgres", "sqlite", "mariadb"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    found: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


def make_world(engine: sa.Engine, **route: Any) -> World:
    name = uuid.uuid4().hex
    options = {"transport": "memory", "broker": name, "retry_max_seconds": 0.2} | route
    url = engine.url.render_as_string(hide_password=False)
    settings = Settings.model_validate({"database_url": url, "routes": {"m": options}})
    return World(engine, settings, MemoryBroker.named(name))


@pytest.fixture
def world(engine: sa.Engine) -> World:
    return make_world(engine)


def count_publishes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the number of events of each attempt to publish."""
    publish = MemoryPublisher.publish
    attempts: list[int] = []

    def counted(self: MemoryPublisher, batch: Sequence[Envelope]) -> Sequence[Outcome]:
        attempts.append(len(batch))
        return publish(self, batch)

    monkeypatch.setattr(MemoryPublisher, "publish", counted)
    return attempts


def of_name(*names: str) -> Callable[[Envelope], bool]:
    return lambda envelope: envelope.data.decode() in names


TOO_LARGE = RecordRefusedError("too large")


@contextmanager
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Collect the events that the relay logs."""
    caplog.clear()
    found: list[str] = []
    with caplog.at_level("INFO", logger="relay"):
        yield found
    found += [record.getMessage() for record in caplog.records]


def test_what_is_there_is_drained_in_order_and_once(world: World) -> None:
    names = [str(number) for number in range(100)]
    world.emit(*names)
    summary = world.drain()
    assert world.arrived() == names
    assert (summary.routes["m"].published, summary.exit_code) == (100, 0)
    assert world.drain().routes["m"].published == 0
    assert world.arrived() == names


@pytest.mark.parametrize("page_size", [1, 7])
def test_pages_of_any_size_are_drained(engine: sa.Engine, page_size: int) -> None:
    world = make_world(engine, page_size=page_size)
    names = [str(number) for number in range(30)]
    world.emit(*names)
    world.drain()
    assert world.arrived() == names


def test_once_is_one_page(engine: sa.Engine) -> None:
    world = make_world(engine, page_size=3)
    world.emit("a", "b", "c", "d")
    assert world.relay().run(until=Until.ONCE).routes["m"].published == 3
    assert world.arrived() == ["a", "b", "c"]


def test_a_running_relay_delivers_what_is_committed_meanwhile(world: World) -> None:
    with world.relay().running():
        world.emit("a")
        eventually(lambda: world.arrived() == ["a"])
        world.emit("b")
        eventually(lambda: world.arrived() == ["a", "b"])
    assert world.checkpoint().holder is None


def test_events_whose_attributes_the_route_leaves_out_are_passed_over(engine: sa.Engine) -> None:
    world = make_world(engine, where={"tenant": ["acme"], "subject": "order/*"})
    for name, tenant in {"a": "acme", "b": "globex", "c": "acme"}.items():
        row = {
            "type": TYPE,
            "data": name.encode(),
            "subject": f"order/{name}",
            "headers": {"tenant": tenant},
        }
        with engine.begin() as connection:
            connection.execute(sa.insert(outbox_event).values(row))
    world.emit("d")
    world.drain()
    assert world.arrived() == ["a", "c"]
    assert world.status().backlog_count == 0


HOURS = {"a": 8, "b": 9, "c": 11, "d": 10}


@pytest.mark.parametrize(
    ("start", "arrived"),
    [
        ("2026-05-01T09:00", ["b", "c", "d"]),
        ("2026-05-01T11:00:01+02:00", ["c", "d"]),
        ("2026-05-01T10:00:00Z", ["c", "d"]),
        ("2026-05-01", ["a", "b", "c", "d"]),
        ("2026-05-02", []),
        (3, ["c", "d"]),
        ("4", ["d"]),
        (1, ["a", "b", "c", "d"]),
        (1000, []),
    ],
)
def test_a_new_route_starts_at_a_time_or_at_an_event(
    engine: sa.Engine, start: object, arrived: list[str]
) -> None:
    world = make_world(engine, start=start)
    for name, hour in HOURS.items():
        moment = datetime(2026, 5, 1, hour, tzinfo=UTC)
        with engine.begin() as connection:
            row = {"type": TYPE, "data": name.encode(), "time": moment}
            connection.execute(sa.insert(outbox_event).values(row))
    assert world.status().backlog_count == len(arrived)
    world.drain()
    assert world.arrived() == arrived
    world.emit("later")
    world.drain()
    assert world.arrived() == [*arrived, "later"]


def test_what_is_open_when_a_route_starts_at_an_event_is_not_missed(
    postgres_engine: sa.Engine,
) -> None:
    world = make_world(postgres_engine, start=3)
    with postgres_engine.connect() as writer:
        row = {"type": TYPE, "data": b"open"}
        writer.execute(sa.insert(outbox_event).values(row))
        world.emit("b", "c")
        world.drain()
        writer.commit()
    world.drain()
    assert world.arrived() == ["c", "open"]


def pause(world: World, reason: str = "moving") -> None:
    with world.engine.begin() as connection:
        assert lease.pause(connection, "m", "ann@ops", reason)


def resume(world: World) -> None:
    with world.engine.begin() as connection:
        assert lease.resume(connection, "m")


def test_a_running_relay_rests_while_its_route_is_paused(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="relay"), world.relay().running():
        world.emit("a")
        eventually(lambda: world.arrived() == ["a"])
        # Stored, so that nothing of it comes again.
        eventually(lambda: world.status().backlog_count == 0)
        pause(world)
        status = world.status()
        assert (status.is_paused, status.holder, status.lease_expires_at) == (True, None, None)
        assert (status.error, status.error_at is not None) == ("moving", True)
        eventually(lambda: "route is paused" in caplog.messages)
        world.emit("b")
        assert world.relay().run(until=Until.DRAINED).exit_code == 1
        assert world.arrived() == ["a"]
        resume(world)
        eventually(lambda: world.arrived() == ["a", "b"])
    assert (world.status().is_paused, world.status().error) == (False, None)


def test_a_relay_that_starts_later_waits_for_the_resume(world: World) -> None:
    pause(world)
    world.emit("a")
    with world.relay().running():
        eventually(lambda: world.checkpoint().holder == "(paused) ann@ops")
        resume(world)
        eventually(lambda: world.arrived() == ["a"])


@pytest.mark.parametrize("until", [Until.DRAINED, Until.ONCE])
def test_a_relay_that_is_to_finish_does_not_wait_for_a_paused_route(
    world: World, until: Until
) -> None:
    pause(world)
    started_at = time.monotonic()
    summary = world.relay().run(until=until)
    assert time.monotonic() - started_at < 5
    assert summary.exit_code == 1
    assert summary.routes["m"].error == "route m is paused: `outbox routes resume m`"


def test_a_route_is_paused_and_resumed_once(world: World) -> None:
    with world.engine.begin() as connection:
        assert not lease.resume(connection, "m")
        assert lease.pause(connection, "m", "ann@ops", "first")
        assert not lease.pause(connection, "m", "bob@ops", "second")
    assert world.status().error == "first"
    resume(world)
    world.emit("a")
    assert world.drain().exit_code == 0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (f'{{"a": 1{"0" * 5_000}, "b": [1e999]}}', {"a": f"1{'0' * 5_000}"}),
        ('{"a": "x\\ud800y"}', {"a": "x?y"}),
        (f'{{"a": {"[" * 1_200}{"]" * 1_200}}}', None),
    ],
    ids=["a large number", "half a letter", "many levels"],
)
def test_headers_that_a_database_takes_hold_nobody_up(
    world: World, headers: str, expected: dict[str, str] | None
) -> None:
    insert = sa.text(
        "INSERT INTO outbox_event (type, data, headers) VALUES ('shop.order.placed', :data, "
        + ("CAST(:headers AS jsonb))" if world.engine.dialect.name == "postgresql" else ":headers)")
    )
    try:
        with world.engine.begin() as connection:
            connection.execute(insert, {"data": b"1", "headers": headers})
    except sa.exc.DBAPIError:
        return  # where it is refused, nothing has to be read
    world.emit("2")
    world.drain()
    first, second = world.broker.messages(TOPIC)
    assert (first.data, second.data) == (b"1", b"2")
    own = {name: (value or b"").decode() for name, value in first.headers}
    assert expected.items() <= own.items() if expected else own["unreadable"] == headers


def test_types_that_the_route_leaves_out_are_passed_over(engine: sa.Engine) -> None:
    world = make_world(engine, types=["shop.*"])
    world.emit("a")
    world.emit("b", type_="till.opened")
    world.emit("c")
    world.drain()
    assert world.arrived() == ["a", "c"]
    assert world.arrived("till") == []
    assert world.status().backlog_count == 0


def test_a_route_that_starts_now_leaves_out_what_was_there(engine: sa.Engine) -> None:
    world = make_world(engine, start="now")
    world.emit("old")
    world.drain()
    world.emit("new")
    world.drain()
    assert world.arrived() == ["new"]


def test_text_of_sqlite_that_is_no_utf_8_holds_up_no_route(sqlite_engine: sa.Engine) -> None:
    world = make_world(sqlite_engine, topic="t")
    columns = ("id", "source", "type", "subject", "partition_key", "content_type")
    world.emit("first")
    with sqlite_engine.begin() as connection:
        for column in (*columns, "topic"):
            row = {"type": "'t'", "data": f"'{column}'", column: "CAST(x'6bff' AS TEXT)"}
            connection.exec_driver_sql(
                f"INSERT INTO outbox_event ({', '.join(row)}) VALUES ({', '.join(row.values())})"
            )
        connection.exec_driver_sql(
            "INSERT INTO outbox_event (type, data, headers)"
            """ VALUES ('t', 'headers', CAST(x'7b226b223a22ff227d' AS TEXT))"""
        )
    world.emit("last")
    world.drain()
    assert world.letters() == [("topic", "dead")]
    messages = world.broker.messages("t")
    read = [from_headers(each.key, each.headers, each.data) for each in messages]
    arrived = {envelope.data.decode(): envelope for envelope in read}
    assert [*arrived] == ["first", *columns, "headers", "last"]
    assert {getattr(arrived[column], column) for column in columns} == {r"k\udcff"}
    assert arrived["headers"].headers == {"k": "?"}


def test_a_route_fills_in_the_source_of_the_settings(world: World) -> None:
    world.emit("a")
    world.drain()
    (message,) = world.broker.messages(TOPIC)
    assert ("ce_source", b"/outbox") in message.headers


def test_an_outage_makes_no_dead_letter_and_loses_nothing(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(number) for number in range(20)]
    attempts = count_publishes(monkeypatch)
    with logged(caplog) as events, world.relay().running():
        with world.broker.outage():
            world.emit(*names)
            eventually(lambda: world.status().error is not None)
            eventually(lambda: len(attempts) > 15)
            assert world.letters() == []
            assert world.status().backlog_count == 20
        eventually(lambda: world.arrived() == names)
        eventually(lambda: world.status().error is None)
    assert events.count("route stands still") == 1
    assert "route goes on" in events


def test_a_refusing_destination_is_told_loudly_and_kills_no_event(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    error = DestinationRefusedError("topic shop.order does not exist: create it")
    with world.relay().running():
        with world.broker.refuse(lambda _: True, error):
            world.emit("a")
            eventually(lambda: world.status().error is not None)
            assert "create it" in (world.status().error or "")
            assert world.status().error_at is not None
            assert world.letters() == []
            stalls = [r for r in caplog.records if r.getMessage() == "route stands still"]
            assert [record.levelname for record in stalls] == ["ERROR"]
        eventually(lambda: world.arrived() == ["a"])
        eventually(lambda: world.status().error is None)


@pytest.mark.parametrize(
    "error", [DestinationRefusedError("no right to write"), BrokerUnavailableError("no answer")]
)
def test_a_drain_that_cannot_finish_gives_up_and_says_why(
    world: World, error: DestinationRefusedError | BrokerUnavailableError
) -> None:
    world.emit("a")
    with world.broker.refuse(lambda _: True, error):
        summary = world.drain(drain_timeout=0.3)
    assert summary.exit_code == 1
    assert str(error) in (summary.routes["m"].error or "")
    assert world.checkpoint().holder is None
    assert world.drain().exit_code == 0
    assert world.arrived() == ["a"]


def test_one_key_that_must_wait_is_not_overtaken_and_nothing_else_comes_twice(
    world: World,
) -> None:
    world.emit("a1", "a2", key="a")
    world.emit("b1", key="b")
    with world.relay().running():
        with world.broker.refuse(of_name("a1"), BrokerUnavailableError("no leader")):
            eventually(lambda: world.arrived() == ["b1"])
            eventually(lambda: world.status().error is not None)
        eventually(lambda: len(world.arrived()) == 3)
    assert world.arrived() == ["b1", "a1", "a2"]


def test_a_dead_event_parks_its_key_and_the_others_flow(world: World) -> None:
    world.emit("a1", "a2", key="a")
    world.emit("b1", key="b")
    with world.broker.refuse(of_name("a1"), TOO_LARGE):
        summary = world.drain()
        world.emit("a3", key="a")
        world.emit("b2", key="b")
        later = world.drain()
    assert world.arrived() == ["b1", "b2"]
    assert world.letters() == [("a1", "dead"), ("a2", "parked"), ("a3", "parked")]
    counts = [(s.routes["m"].dead, s.routes["m"].parked) for s in (summary, later)]
    assert counts == [(1, 1), (0, 1)]
    assert (world.status().dead_count, world.status().parked_count) == (1, 2)
    assert world.status().backlog_count == 0


def test_a_backlog_of_poison_becomes_letters_by_the_page(postgres_engine: sa.Engine) -> None:
    world = make_world(postgres_engine, page_size=100)
    for number in range(20):
        world.emit(*[str(100 * number + place) for place in range(100)], key=None)
    with world.broker.refuse(lambda _: True, TOO_LARGE):
        assert world.drain().routes["m"].dead == 2_000
    assert letter_transactions(postgres_engine) <= 20


def test_a_flood_of_poison_is_few_transactions(postgres_engine: sa.Engine) -> None:
    world = make_world(postgres_engine)
    with world.broker.refuse(lambda _: True, TOO_LARGE), world.relay().running():
        started = time.monotonic()
        for number in range(200):
            world.emit(str(number), key=None)
        eventually(lambda: world.status().dead_count == 200)
        seconds = time.monotonic() - started
    assert letter_transactions(postgres_engine) <= seconds / LETTERS_SECONDS + 1


def letter_transactions(engine: sa.Engine) -> int:
    """Count the transactions that wrote letters."""
    with engine.begin() as connection:
        query = "SELECT count(DISTINCT CAST(xmin AS text)) FROM outbox_dead_letter"
        found: int = connection.scalar(sa.text(query)) or 0
    return found


def test_a_skipped_event_holds_up_nobody(engine: sa.Engine) -> None:
    world = make_world(engine, on_dead="skip")
    world.emit("a1", "a2", "a3")
    with world.broker.refuse(of_name("a2"), TOO_LARGE):
        world.drain()
    assert world.arrived() == ["a1", "a3"]
    assert world.letters() == [("a2", "dead")]


def test_a_stopped_route_holds_at_the_dead_event(engine: sa.Engine) -> None:
    world = make_world(engine, on_dead="stop", page_size=2)
    world.emit("a1", "a2", "a3", "a4")
    with world.broker.refuse(of_name("a2"), TOO_LARGE):
        summary = world.drain(drain_timeout=0.3)
        assert world.arrived() == ["a1"]
    assert summary.exit_code == 1
    assert "too large" in (summary.routes["m"].error or "")
    assert "too large" in (world.status().error or "")
    assert world.letters() == []
    assert world.status().backlog_count == 3
    world.drain()
    assert world.arrived() == ["a1", "a2", "a3", "a4"]
    assert world.status().error is None


def test_replayed_letters_go_in_order_and_before_further_events_of_their_key(
    world: World,
) -> None:
    with world.relay().running():
        with world.broker.refuse(of_name("a1"), TOO_LARGE):
            world.emit("a1", "a2", key="a")
            eventually(lambda: len(world.letters()) == 2)
        world.emit("a3", key="a")
        eventually(lambda: len(world.letters()) == 3)
        assert world.arrived() == []
        world.replay(lambda connection: dead_letter.request(connection, Filter()))
        eventually(lambda: world.letters() == [])
        world.emit("a4", key="a")
        eventually(lambda: len(world.arrived()) == 4)
    assert world.arrived() == ["a1", "a2", "a3", "a4"]


def test_a_replay_that_fails_again_keeps_the_others_parked(world: World) -> None:
    with world.broker.refuse(of_name("a1"), TOO_LARGE):
        world.emit("a1", "a2", key="a")
        world.drain()
        world.replay(lambda connection: dead_letter.request(connection, Filter()))
        assert world.drain().routes["m"].dead == 1
    assert world.arrived() == []
    assert world.letters() == [("a1", "dead"), ("a2", "parked")]


def test_parked_events_flow_once_the_dead_one_is_discarded(world: World) -> None:
    with world.broker.refuse(of_name("a1"), TOO_LARGE):
        world.emit("a1", "a2", "a3", key="a")
        world.drain()
        world.replay(
            lambda connection: dead_letter.discard(connection, Filter(statuses=["dead"]), "no")
        )
        assert world.drain().routes["m"].published == 2
    assert world.arrived() == ["a2", "a3"]
    assert world.letters() == []


def test_letters_wait_out_an_outage_without_failing(world: World) -> None:
    with world.broker.refuse(of_name("a"), TOO_LARGE):
        world.emit("a")
        world.drain()
    world.replay(lambda connection: dead_letter.request(connection, Filter()))
    with world.broker.outage():
        assert world.drain(drain_timeout=0.3).exit_code == 1
    assert world.letters() == [("a", "requested")]
    world.drain()
    assert world.arrived() == ["a"]


def test_a_position_that_is_moved_by_hand_is_picked_up(world: World) -> None:
    with world.relay().running():
        world.emit("a", "b")
        eventually(lambda: world.arrived() == ["a", "b"])
        eventually(lambda: world.status().backlog_count == 0)
        capture = open_capture(world.engine)
        row = world.checkpoint()
        moved = rewind(capture.position(row.position), 0).to_json()
        capture.close()
        with world.engine.begin() as connection:
            connection.execute(
                sa.update(outbox_checkpoint).values(position=moved, version=row.version + 100)
            )
        eventually(lambda: world.arrived() == ["a", "b", "a", "b"])
        world.emit("c")
        eventually(lambda: world.arrived()[4:] == ["c"])


def test_a_second_relay_waits_and_takes_over_at_once(world: World) -> None:
    with ExitStack() as second, ExitStack() as first:
        first.enter_context(world.relay().running())
        eventually(lambda: world.status().holder is not None)
        holder = world.checkpoint().holder
        second.enter_context(world.relay().running())
        world.emit("a")
        eventually(lambda: world.arrived() == ["a"])
        assert world.checkpoint().holder == holder
        first.close()
        eventually(lambda: world.checkpoint().token == 2, seconds=3.0)
        world.emit("b")
        eventually(lambda: world.arrived() == ["a", "b"])
    assert world.checkpoint().holder is None


def test_a_drain_beside_a_running_relay_says_who_has_the_lease(engine: sa.Engine) -> None:
    world = make_world(engine, lease_seconds=1)
    with world.relay().running():
        eventually(lambda: world.status().holder is not None)
        holder = world.checkpoint().holder
        summary = world.drain()
    assert summary.exit_code == 1
    assert holder in (summary.routes["m"].error or "")


def lead_astray(engine: sa.Engine, route: str) -> None:
    """Give a route a position of another kind of database, so that it cannot go on."""
    kind = "serial" if engine.dialect.name == "postgresql" else "snapshot"
    row = {"route": route, "position": {"kind": kind, "floor": 0}}
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox_checkpoint).values(row))


def test_a_wrong_route_ends_alone(engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    world = make_world(engine)
    routes = {"bad": {"transport": "memory"}, "m": world.settings.routes["m"].model_dump()}
    url = engine.url.render_as_string(hide_password=False)
    settings = Settings.model_validate({"database_url": url, "routes": routes})
    lead_astray(engine, "bad")
    world.emit("a")
    with Relay(settings, engine=engine).running():
        eventually(lambda: world.arrived() == ["a"])
    assert [r.levelname for r in caplog.records if r.getMessage() == "route ended"] == ["ERROR"]
    summary = Relay(settings, engine=engine).run(until=Until.DRAINED)
    assert summary.routes["m"].error is None
    assert "another kind of database" in (summary.routes["bad"].error or "")
    assert summary.exit_code == 1
    bad, good = route_status(engine, settings)
    assert "another kind of database" in (bad.error or "")
    assert good.error is None


def test_a_relay_with_no_route_left_ends(engine: sa.Engine) -> None:
    world = make_world(engine)
    lead_astray(engine, "m")
    assert world.relay().run().exit_code == 1


def test_a_wrong_transport_of_one_route_is_told_before_any_is_run(engine: sa.Engine) -> None:
    world = make_world(engine)
    routes = {
        "m": world.settings.routes["m"].model_dump(),
        "bad": {"transport": "memory", "topic": "{nonsense}"},
    }
    url = engine.url.render_as_string(hide_password=False)
    settings = Settings.model_validate({"database_url": url, "routes": routes})
    with pytest.raises(ConfigurationError, match=r"routes\.bad\.topic"):
        Relay(settings, engine=engine)


def test_a_relay_without_routes_is_refused(engine: sa.Engine) -> None:
    settings = Settings.model_validate({"database_url": "sqlite://"})
    with pytest.raises(ConfigurationError, match="no route"):
        Relay(settings, engine=engine)
    with pytest.raises(ConfigurationError, match="no route 'x'"):
        Relay(make_world(engine).settings, ["x"], engine=engine)


def test_missing_tables_are_told(postgres_empty_url: str) -> None:
    engine = sa.create_engine(postgres_empty_url)
    summary = make_world(engine).drain()
    assert "outbox migrate" in (summary.routes["m"].error or "")
    engine.dispose()


def test_an_unexpected_error_ends_the_term_loudly_and_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    healthy = MemoryPublisher.publish
    broken = iter([True, True])

    def publish(self: MemoryPublisher, batch: Any) -> Any:
        if next(broken, False):
            raise RuntimeError("the driver has a bug")
        return healthy(self, batch)

    monkeypatch.setattr(MemoryPublisher, "publish", publish)
    world.emit("a")
    assert world.drain().exit_code == 0
    assert world.arrived() == ["a"]
    broke = [r for r in caplog.records if r.getMessage() == "term broke off"]
    assert len(broke) == 2
    assert broke[0].exc_info is not None


def test_no_thread_and_no_connection_is_left(world: World) -> None:
    before = threading.active_count()
    with world.relay().running():
        names = {thread.name for thread in threading.enumerate()}
        eventually(lambda: "relay-m-keeper" in {t.name for t in threading.enumerate()})
        assert "relay" in names
    assert threading.active_count() == before


def test_status_tells_the_lag_of_a_route_that_never_ran(world: World) -> None:
    world.emit("a", "b")
    status = world.status()
    assert (status.backlog_count, status.floor, status.holder) == (2, None, None)
    assert status.lag_seconds is not None
    assert 0 <= status.lag_seconds < 60
    world.drain()
    assert (world.status().backlog_count, world.status().lag_seconds) == (0, 0.0)
    assert world.status().advanced_at is not None
    assert make_world(world.engine, start="now").status().backlog_count == 0


def test_status_tells_who_runs_a_route(world: World) -> None:
    with world.relay().running():
        eventually(lambda: world.status().holder is not None)
        assert world.status().lease_expires_at is not None
    assert world.status().holder is None


def test_an_idle_relay_asks_less_than_twenty_times_a_second(sqlite_engine: sa.Engine) -> None:
    world = make_world(sqlite_engine)
    moments: list[float] = []
    with world.relay().running():
        eventually(lambda: world.status().holder is not None)
        started = time.monotonic() + 0.5
        sa.event.listen(
            sqlite_engine, "before_cursor_execute", lambda *_: moments.append(time.monotonic())
        )
        # On SQLite every statement of the relay goes through this engine.
        eventually(lambda: len(moments) > 60)
    idle = [moment for moment in moments if moment > started]
    assert (len(idle) - 1) / (idle[-1] - idle[0]) < 20
