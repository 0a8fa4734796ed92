"""Several relay processes run the same routes: who takes over when, and that no harm comes of it.

All of it on PostgreSQL itself and through PgBouncer. Times are taken from the database's clock.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from outbox import clock
from outbox.errors import DatabaseUnavailableError
from outbox.table import outbox_checkpoint, outbox_event
from relay import lease
from relay.database import IDLE_SECONDS, make_engine, transaction
from relay.lease import Grant
from tests import append_transport
from tests.absence import skipped_unless_ci
from tests.waiting import eventually
from tools.servers.clock import find_faketime, wrong_clock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

ROUTES = ("east", "west")
KEYS = [f"k{number}" for number in range(5)]
LEASE_SECONDS = 2.0
TAKEOVER_SECONDS = 1.5
"""What a takeover may cost beside the lease: asking four times a second, on a busy machine."""


@dataclass(frozen=True)
class Sight:
    """One look at a route's row of the checkpoint."""

    seen_at: datetime
    holder: int | None
    """The process that has the lease."""
    expires_at: datetime | None
    token: int
    version: int
    floor: int


class Watch:
    """Looks at the checkpoint all the time."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sights: dict[str, list[Sight]] = {route: [] for route in ROUTES}

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def since(self, route: str, moment: datetime) -> list[Sight]:
        return [sight for sight in self.sights[route] if sight.seen_at >= moment]

    def lease_end(self, route: str, holder: int) -> datetime:
        """Return until when a process had last had the lease."""
        return max(s.expires_at for s in self.sights[route] if s.holder == holder and s.expires_at)

    def _run(self) -> None:
        query = sa.select(outbox_checkpoint, clock.now().label("seen_at")).where(
            outbox_checkpoint.c.route.in_(ROUTES)
        )
        with self._engine.connect() as connection:
            while not self._over.wait(0.005):
                for row in connection.execute(query):
                    self.sights[row.route].append(_sight(row))
                connection.rollback()


def _sight(row: sa.Row[Any]) -> Sight:
    return Sight(
        seen_at=row.seen_at,
        holder=None if row.holder is None else int(row.holder.split(":")[1]),
        expires_at=row.expires_at,
        token=row.token,
        version=row.version,
        floor=0 if row.position is None else row.position["floor"],
    )


@dataclass
class Fleet:
    """A database, a file for each route that stands for its broker, and relay processes."""

    engine: sa.Engine
    """For what the test itself does; it never leads through a pooler."""
    relay_url: str
    folder: Path
    stack: ExitStack
    watch: Watch
    relays: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    """Those that run, by process id."""
    emitted: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Ids of committed events, by key, in order."""
    log_count: int = 0

    def start(
        self,
        until: str = "forever",
        environment: Mapping[str, str] | None = None,
        **route: Any,
    ) -> subprocess.Popen[bytes]:
        """Start a relay of both routes; return when it has logged its first line."""
        options = {
            "transport": "append",
            "page_size": 20,
            "lease_seconds": LEASE_SECONDS,
            "pause_seconds": 0.005,
        }
        routes = {name: options | {"path": str(self.path(name))} | route for name in ROUTES}
        log = self.folder / f"relay-{self.log_count}.log"
        self.log_count += 1
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.relay_process"),
                    *(self.relay_url, json.dumps(routes), until),
                ],
                stderr=stream,
                env=os.environ | (environment or {}),
            )
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        self.relays[process.pid] = process
        eventually(lambda: log.stat().st_size > 0 or process.poll() is not None)
        return process

    def path(self, route: str) -> Path:
        return self.folder / f"{route}.txt"

    def emit(self, count: int) -> None:
        with self.engine.begin() as connection:
            for number in range(count):
                key = KEYS[number % len(KEYS)]
                row = {"type": "shop.order.placed", "partition_key": key, "data": b"{}"}
                statement = sa.insert(outbox_event).values(row).returning(outbox_event.c.id)
                self.emitted[key].append(str(connection.scalar(statement)))

    @contextmanager
    def load(self) -> Iterator[None]:
        """Emit all the time while a block runs."""
        over = threading.Event()

        def write() -> None:
            while not over.wait(0.02):
                self.emit(10)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            yield
        finally:
            over.set()
            writer.join()

    def now(self) -> datetime:
        with self.engine.connect() as connection:
            return connection.execute(sa.select(clock.now())).scalar_one()

    def holder(self, route: str) -> subprocess.Popen[bytes] | None:
        sights = self.watch.sights[route]
        return self.relays.get(sights[-1].holder or 0) if sights else None

    def await_holders(self) -> dict[str, subprocess.Popen[bytes]]:
        """Wait until both routes are run by relays that publish; return these."""
        eventually(lambda: all(self.holder(route) for route in ROUTES))
        eventually(lambda: all(self.is_active(route) for route in ROUTES))
        return {route: found for route in ROUTES if (found := self.holder(route)) is not None}

    def is_active(self, route: str) -> bool:
        """Tell whether who published last to a route has its lease."""
        lines, holder = self.published(route), self.holder(route)
        return bool(lines) and holder is not None and lines[-1].writer == holder.pid

    def published(self, route: str) -> list[append_transport.Line]:
        return append_transport.published(self.path(route))

    def end(self, process: subprocess.Popen[bytes], by: signal.Signals) -> None:
        process.send_signal(by)
        code = process.wait(30)
        del self.relays[process.pid]
        assert code == (0 if by is signal.SIGTERM else -by)

    def end_all(self) -> None:
        for relay in self.relays.values():
            relay.terminate()
        assert [relay.wait(30) for relay in self.relays.values()] == [0] * len(self.relays)
        self.relays.clear()

    def drain(self) -> None:
        assert self.start("drained").wait(60) == 0

    def expect_all(self, *, once: bool = False) -> None:
        """Each committed event arrived in the order of its key, wherever it came twice."""
        for route in ROUTES:
            ids = Counter(id_ for _, _, id_ in self.published(route))
            if once:
                assert set(ids.values()) == {1}
            first: dict[str, list[str]] = defaultdict(list)
            seen = set()
            for _, key, id_ in self.published(route):
                if id_ not in seen:
                    seen.add(id_)
                    first[key].append(id_)
            assert first == self.emitted

    def expect_no_step_back(self) -> None:
        """Nobody moved a position, its version or its fencing token back, at any time."""
        for sights in self.watch.sights.values():
            assert len(sights) > 50
            for before, after in pairwise(sights):
                assert after.floor >= before.floor
                assert after.version >= before.version
                assert after.token >= before.token


@pytest.fixture(params=["direct", "pooled"])
def fleet(
    request: pytest.FixtureRequest, postgres_engine: sa.Engine, tmp_path: Path
) -> Iterator[Fleet]:
    url = postgres_engine.url.render_as_string(hide_password=False)
    relay_url = url
    if request.param == "pooled":
        relay_url = request.getfixturevalue("pooler").through(url)
    watch = Watch(postgres_engine)
    with ExitStack() as stack:
        made = Fleet(postgres_engine, relay_url, tmp_path, stack, watch)
        watch.start()
        stack.callback(watch.end)
        yield made


def turns(fleet: Fleet, route: str) -> list[int]:
    """Return who published to a route, one after the other."""
    return [writer for writer, _ in groupby(writer for writer, _, _ in fleet.published(route))]


@pytest.mark.parametrize("count", [2, 3])
def test_a_killed_holder_is_replaced_when_its_lease_is_over_whatever_the_time_of_day_is(
    fleet: Fleet, count: int
) -> None:
    """Of two or three relays, one of them a day ahead and one a day behind, one runs a route."""
    with skipped_unless_ci():
        find_faketime()
    clocks = [wrong_clock("+1d"), wrong_clock("-1d"), {}][:count]
    for environment in clocks:
        fleet.start(environment=environment)
    with fleet.load():
        for _ in range(count - 1):
            holders = fleet.await_holders()
            killed = holders[random.choice(ROUTES)]
            fleet.end(killed, signal.SIGKILL)
            moment = fleet.now()
            lost = [route for route, holder in holders.items() if holder is killed]
            others = fleet.await_holders()
            for route in lost:
                left = [s for s in fleet.watch.since(route, moment) if s.holder != killed.pid]
                end = fleet.watch.lease_end(route, killed.pid)
                assert left[0].holder == others[route].pid
                assert left[0].seen_at >= end, "taken while the lease lasted"
                assert (left[0].seen_at - end).total_seconds() < TAKEOVER_SECONDS
                assert (end - moment).total_seconds() <= LEASE_SECONDS
            for route in set(ROUTES) - set(lost):
                assert {s.holder for s in fleet.watch.since(route, moment)} == {holders[route].pid}
    fleet.end_all()
    fleet.drain()
    for route in ROUTES:
        found = turns(fleet, route)
        assert len(found) == len(set(found)), "two relays ran a route at the same time"
    fleet.expect_all()
    fleet.expect_no_step_back()


def test_a_stopped_holder_is_replaced_at_once_however_long_the_lease(fleet: Fleet) -> None:
    for _ in range(2):
        fleet.start(lease_seconds=600)
    with fleet.load():
        holders = fleet.await_holders()
        moment = fleet.now()
        stopped = holders["east"]
        fleet.end(stopped, signal.SIGTERM)
        others = fleet.await_holders()
        held = [route for route, holder in holders.items() if holder is stopped]
        for route in held:
            taken = [s for s in fleet.watch.since(route, moment) if s.holder == others[route].pid]
            assert (taken[0].seen_at - moment).total_seconds() < TAKEOVER_SECONDS
    fleet.end_all()
    fleet.drain()
    fleet.expect_all(once=True)
    fleet.expect_no_step_back()


def test_a_holder_that_was_frozen_longer_than_its_lease_does_no_harm_and_stands_by(
    fleet: Fleet,
) -> None:
    frozen = fleet.start()
    with fleet.load():
        assert set(fleet.await_holders().values()) == {frozen}
        fleet.start()
        frozen.send_signal(signal.SIGSTOP)
        moment = fleet.now()
        eventually(lambda: all(fleet.holder(route) is not frozen for route in ROUTES))
        successors = fleet.await_holders()
        woken_at = fleet.now()
        counts = {route: len(fleet.published(route)) for route in ROUTES}
        frozen.send_signal(signal.SIGCONT)
        # Long enough for the frozen one to publish, store or take something, if it did so.
        eventually(lambda: (fleet.now() - woken_at).total_seconds() > LEASE_SECONDS)
        for route in ROUTES:
            holders = {sight.holder for sight in fleet.watch.since(route, woken_at)}
            assert holders == {successors[route].pid}
            assert all(
                sight.seen_at > moment
                for sight in fleet.watch.sights[route]
                if sight.holder == successors[route].pid
            )
            # What the system or the transport already had of it may arrive: a page, all of it old.
            woken = fleet.published(route)[counts[route] :]
            late = [id_ for writer, _, id_ in woken if writer == frozen.pid]
            assert len(late) <= 20
            known = {id_ for w, _, id_ in fleet.published(route) if w != frozen.pid}
            assert known.issuperset(late)
        for relay in set(successors.values()):
            fleet.end(relay, signal.SIGTERM)
        assert set(fleet.await_holders().values()) == {frozen}
    fleet.end_all()
    fleet.drain()
    fleet.expect_all()
    fleet.expect_no_step_back()


def test_a_rolling_restart_under_load_loses_and_repeats_nothing(fleet: Fleet) -> None:
    for _ in range(3):
        fleet.start(lease_seconds=600)
    with fleet.load():
        for relay in list(fleet.relays.values()):
            fleet.await_holders()
            fleet.end(relay, signal.SIGTERM)
            fleet.start(lease_seconds=600)
        fleet.await_holders()
    fleet.end_all()
    fleet.drain()
    fleet.expect_all(once=True)
    fleet.expect_no_step_back()


def test_a_holder_frozen_in_the_middle_of_a_write_does_not_keep_its_route(fleet: Fleet) -> None:
    engine = make_engine(sa.make_url(fleet.relay_url))
    with transaction(engine) as connection:
        grant = lease.acquire(connection, "east", "frozen:1:x", 0.0)
    assert isinstance(grant, Grant)

    def freeze() -> None:
        """Write, and do nothing more until another one has the route."""
        with transaction(engine) as connection:
            lease.report(connection, "east", grant.token, "it keeps the lock of the row")
            started = time.monotonic()
            with transaction(engine) as another:
                taken = lease.acquire(another, "east", "other:2:x", 60.0)
            assert isinstance(taken, Grant)
            assert time.monotonic() - started < IDLE_SECONDS + TAKEOVER_SECONDS

    is_direct = engine.url.port == fleet.engine.url.port
    # PgBouncer passes the reason on as a second answer to the next command.
    words = r"silent for 2 s" if is_direct else r"does not answer"
    with pytest.raises(DatabaseUnavailableError, match=words):
        freeze()
    with fleet.engine.connect() as connection:
        row = connection.execute(sa.select(outbox_checkpoint)).one()
    assert (row.holder, row.error) == ("other:2:x", None)
    engine.dispose()
