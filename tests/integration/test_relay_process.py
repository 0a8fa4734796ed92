"""The relay as real processes that are killed, frozen and stopped while they work."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from outbox.table import outbox_checkpoint, outbox_event
from tests import append_transport
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = [f"k{number}" for number in range(7)]


@dataclass
class World:
    """A database, a file that stands for the broker, and relays as processes."""

    engine: sa.Engine
    folder: Path
    stack: ExitStack
    emitted: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Ids of committed events, by key, in order."""
    started: int = 0

    @property
    def path(self) -> Path:
        return self.folder / "published.txt"

    def emit(self, count: int) -> None:
        with self.engine.begin() as connection:
            for number in range(count):
                key = KEYS[number % len(KEYS)]
                row = {"type": "shop.order.placed", "partition_key": key, "data": b"{}"}
                statement = sa.insert(outbox_event).values(row).returning(outbox_event.c.id)
                self.emitted[key].append(str(connection.scalar(statement)))

    def start(self, until: str = "forever", **route: Any) -> subprocess.Popen[bytes]:
        options = {
            "transport": "append",
            "path": str(self.path),
            "page_size": 20,
            "lease_seconds": 1,
            "pause_seconds": 0.005,
        }
        url = self.engine.url.render_as_string(hide_password=False)
        routes = json.dumps({"file": options | route})
        log = self.folder / f"relay-{self.started}.log"
        self.started += 1
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.relay_process", url, routes, until], stderr=stream
            )
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        eventually(lambda: log.stat().st_size > 0 or process.poll() is not None)
        return process

    def writer(self) -> int | None:
        """The process that published last."""
        lines = self.published()
        return lines[-1].writer if lines else None

    def log(self, number: int) -> list[dict[str, Any]]:
        lines = (self.folder / f"relay-{number}.log").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def published(self) -> list[append_transport.Line]:
        return append_transport.published(self.path)

    def row(self) -> sa.Row[Any] | None:
        with self.engine.begin() as connection:
            return connection.execute(sa.select(outbox_checkpoint)).one_or_none()

    def floor(self) -> int:
        row = self.row()
        return 0 if row is None or row.position is None else row.position["floor"]

    def holder(self) -> str | None:
        row = self.row()
        return None if row is None else row.holder

    def expect_all_in_order(self) -> None:
        """Each committed event arrived; what first arrived of a key did so in its order."""
        first: dict[str, list[str]] = defaultdict(list)
        seen = set()
        for _, key, id_ in self.published():
            if id_ not in seen:
                seen.add(id_)
                first[key].append(id_)
        assert first == self.emitted


@pytest.fixture(params=["postgres", "sqlite", "mariadb"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    engine: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    with ExitStack() as stack:
        yield World(engine, tmp_path, stack)


def publishes(world: World, relay: subprocess.Popen[bytes]) -> bool:
    return world.writer() == relay.pid


def test_a_relay_that_is_killed_at_any_point_loses_and_reorders_nothing(world: World) -> None:
    dice = random.Random(world.engine.dialect.name)
    floors = [0]
    for number in range(6):
        world.emit(300)
        # Most of the time something is in flight, so that a position stored too early is seen.
        relay = world.start(pause_seconds=0.05)
        eventually(partial(publishes, world, relay))
        if number % 2:  # however busy the machine is, some die after they stored a position
            eventually(lambda: world.floor() > floors[-1])
        time.sleep(dice.uniform(0, 0.25))
        relay.kill()
        relay.wait()
        floors.append(world.floor())
    assert world.start("drained").wait(60) == 0
    floors.append(world.floor())
    assert floors == sorted(floors)
    assert len(set(floors)) > 3
    world.expect_all_in_order()


def test_of_several_relays_one_is_active_whoever_is_killed_or_stopped(world: World) -> None:
    dice = random.Random(world.engine.dialect.name)
    writing = threading.Event()

    def write() -> None:
        while not writing.wait(0.02):
            world.emit(10)

    writer = threading.Thread(target=write)
    relays = {process.pid: process for process in (world.start() for _ in range(3))}
    writer.start()
    try:
        for _ in range(5):
            eventually(lambda: world.writer() in relays)
            active = relays.pop(world.writer() or 0)
            active.send_signal(dice.choice([signal.SIGKILL, signal.SIGTERM]))
            active.wait(30)
            started = world.start()
            relays[started.pid] = started
    finally:
        writing.set()
        writer.join()
    for relay in relays.values():
        relay.terminate()
    assert [relay.wait(30) for relay in relays.values()] == [0] * len(relays)
    assert world.start("drained").wait(60) == 0
    turns = [writer_id for writer_id, _ in groupby(pid for pid, _, _ in world.published())]
    assert len(turns) == len(set(turns)) >= 6
    world.expect_all_in_order()


def test_a_frozen_holder_is_replaced_and_its_advance_is_refused(world: World) -> None:
    frozen = world.start()
    world.emit(50)
    eventually(world.published)
    eventually(lambda: world.floor() > 0)
    frozen.send_signal(signal.SIGSTOP)
    world.emit(50)
    successor = world.start()
    eventually(lambda: publishes(world, successor))
    holder = world.holder()
    token = world.row()
    frozen.send_signal(signal.SIGCONT)
    eventually(lambda: any(line.get("kind") == "LeaseLostError" for line in world.log(0)))
    world.emit(50)
    eventually(lambda: sum(map(len, world.emitted.values())) <= len(world.published()))
    row = world.row()
    assert row is not None
    assert token is not None
    assert (row.holder, row.token) == (holder, token.token)
    for relay in (frozen, successor):
        relay.terminate()
        assert relay.wait(30) == 0
    assert world.start("drained").wait(60) == 0
    world.expect_all_in_order()


def test_a_terminated_relay_gives_its_lease_back_at_once(world: World) -> None:
    first = world.start(lease_seconds=600)
    world.emit(100)
    eventually(world.published)
    second = world.start(lease_seconds=600)
    eventually(lambda: any(line["event"] == "another relay has the lease" for line in world.log(1)))
    first.terminate()
    assert first.wait(30) == 0
    world.emit(100)
    eventually(lambda: publishes(world, second))
    second.terminate()
    assert second.wait(30) == 0
    assert world.holder() is None
    floor = world.floor()
    assert world.start("drained").wait(60) == 0
    assert world.floor() >= floor
    world.expect_all_in_order()
    ids = [id_ for _, _, id_ in world.published()]
    assert len(ids) == len(set(ids)), (
        "what was in flight was stored before the lease was given back"
    )


def test_a_second_signal_ends_the_process_at_once(world: World) -> None:
    world.emit(5)
    relay = world.start(pause_seconds=60, lease_seconds=600)
    eventually(lambda: world.holder() is not None)
    time.sleep(0.3)
    relay.terminate()
    eventually(lambda: any(line["event"] == "stopping" for line in world.log(0)))
    assert relay.poll() is None
    relay.terminate()
    assert relay.wait(10) == 130


def test_a_poisoned_event_parks_its_key_over_a_kill(world: World) -> None:
    with world.engine.begin() as connection:
        row = {"type": "shop.poison", "partition_key": "k0", "data": b"{}"}
        connection.execute(sa.insert(outbox_event).values(row))
    world.emit(70)
    assert world.start("drained").wait(60) == 0
    behind = world.emitted.pop("k0")
    world.expect_all_in_order()
    world.emitted["k0"] = behind
    with world.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE outbox_dead_letter SET resolved_at = last_failed_at,"
                " status = 'discarded' WHERE status = 'dead'"
            )
        )
    relay = world.start()
    eventually(lambda: any(key == "k0" for _, key, _ in world.published()))
    relay.kill()
    relay.wait()
    assert world.start("drained").wait(60) == 0
    world.expect_all_in_order()
