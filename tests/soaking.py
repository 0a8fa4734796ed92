"""Soak tests of a Kafka route: writers without a pause, and relays that are killed and frozen.

    writers ──▶ outbox_event ──▶ a route and a topic for each victim ──▶ a consumer, at the end
                                 relays of a victim: one after the other, killed or frozen at a step
                             └─▶ the steady route: one relay that outlives every broker

Relays are forked from a process that has imported everything and made no client, so that a new
life costs as long as the lease of the one before, not a start of Python.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
import uuid
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import BaseModel

import outbox
from outbox.table import outbox_checkpoint, outbox_event
from tests import killed_relay
from tests.arriving import read_all
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path

LEASE_SECONDS = 2.0
PARTITIONS = 3
LIFE_SECONDS = 90.0
"""Longer than a relay takes to its step, a restart of the broker included."""
METADATA = sa.MetaData()
COUNTER = sa.Table(
    "soak_counter",
    METADATA,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)
WRITER_COUNT = 3
SHARED_KEYS = [f"shared-{number}" for number in range(12)]
HELD_KEYS = [f"held-{number}" for number in range(3)]
"""Keys of the writer that holds its transactions open: nobody has to wait for their locks."""


@outbox.event("soak.counter.raised", key="key")
class Raised(BaseModel):
    key: str
    value: int
    is_kept: bool


class Load:
    """Writers that raise counters under row locks, and emit each new value with it.

    So the events of a key commit in the order of their numbers, while numbers of different keys
    commit in any order: some transactions stay open for long, and some are rolled back.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._over = threading.Event()
        self.rolled_back_count = 0
        METADATA.create_all(engine)
        with engine.begin() as connection:
            rows = [{"key": key, "value": 0} for key in SHARED_KEYS + HELD_KEYS]
            connection.execute(sa.insert(COUNTER), rows)

    @contextmanager
    def running(self) -> Iterator[None]:
        targets = [*[self._write] * WRITER_COUNT, self._hold]
        threads = [threading.Thread(target=target) for target in targets]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _write(self) -> None:
        dice = random.Random()
        while not self._over.wait(0.02):
            # One order of locks for everyone, so that writers do not deadlock.
            keys = sorted(dice.sample(SHARED_KEYS, dice.randint(1, 4)))
            self._transact(keys * dice.randint(1, 2), is_kept=dice.random() > 0.1)

    def _hold(self) -> None:
        dice = random.Random()
        while not self._over.is_set():
            seconds = dice.uniform(0.05, 1.0)
            self._transact(HELD_KEYS, is_kept=dice.random() > 0.2, held_seconds=seconds)

    def _transact(self, keys: Sequence[str], *, is_kept: bool, held_seconds: float = 0) -> None:
        with self._engine.connect() as connection:
            for key in keys:
                raised = (
                    sa.update(COUNTER)
                    .where(COUNTER.c.key == key)
                    .values(value=COUNTER.c.value + 1)
                    .returning(COUNTER.c.value)
                )
                value = connection.scalars(raised).one()
                outbox.emit(connection, Raised(key=key, value=value, is_kept=is_kept))
            if held_seconds:
                self._over.wait(held_seconds)
            if is_kept:
                connection.commit()
            else:
                connection.rollback()
                self.rolled_back_count += 1

    def committed(self) -> dict[str, list[str]]:
        """Ids of all that was committed, by key, in order."""
        query = sa.select(outbox_event.c.partition_key, outbox_event.c.id, outbox_event.c.data)
        found: dict[str, list[str]] = defaultdict(list)
        with self._engine.connect() as connection:
            counters = {row.key: row.value for row in connection.execute(sa.select(COUNTER))}
            for key, id_, data in connection.execute(query.order_by(outbox_event.c.seq)):
                found[key].append(str(id_))
                event = Raised.model_validate_json(data)
                assert (event.value, event.is_kept) == (len(found[key]), True)
        assert {key: len(ids) for key, ids in found.items()} == counters
        return dict(found)


@dataclass
class Life:
    """One relay process."""

    process: ForkServerProcess
    log: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def await_end(self) -> int | None:
        """Return the exit code, which is a signal's number below zero."""
        self.process.join(LIFE_SECONDS)
        assert self.process.exitcode is not None, f"it lives on: {self.text()[-3000:]}"
        return self.process.exitcode

    def end(self, by: signal.Signals) -> int | None:
        os.kill(self.pid, by)
        return self.await_end()

    def await_frozen(self) -> None:
        eventually(lambda: killed_relay.FROZEN in self.text(), LIFE_SECONDS, self.text)

    def await_turned_back(self) -> None:
        """Wait until it knows, after it was frozen, that another one has its place."""

        def knows() -> bool:
            _, _, after = self.text().partition(killed_relay.FROZEN)
            return "another relay has the lease" in after

        eventually(knows, LIFE_SECONDS, self.text)


class Fleet:
    """Relays of some routes, each with a topic of its own."""

    def __init__(
        self, engine: sa.Engine, bootstrap_servers: str, delivery: str, folder: Path
    ) -> None:
        self.engine = engine
        self.bootstrap_servers = bootstrap_servers
        self.delivery = delivery
        self._folder = folder
        self._topics: dict[str, str] = {}
        self._lives: list[Life] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.killed_relay", "psycopg", "pytest"])

    @property
    def routes(self) -> Sequence[str]:
        return list(self._topics)

    def add(self, route: str) -> None:
        self._topics[route] = f"soak-{route}-{uuid.uuid4().hex[:12]}"
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        for made in admin.create_topics([NewTopic(self._topics[route], PARTITIONS)]).values():
            made.result()

    def start(
        self,
        route: str,
        step: str | None = None,
        count: int = 1,
        *,
        end: str = "die",
        until: str = "forever",
    ) -> Life:
        """Start a relay that ends at a step, or freezes there."""
        settings = {
            "transport": "kafka",
            "bootstrap_servers": self.bootstrap_servers,
            "topic": self._topics[route],
            "delivery": self.delivery,
            "lease_seconds": LEASE_SECONDS,
            "retry_max_seconds": 1,
            "page_size": 100,
        }
        url = self.engine.url.render_as_string(hide_password=False)
        log = self._folder / f"{route}-{uuid.uuid4().hex}.log"
        arguments = (url, json.dumps({route: settings}), str(log), until, step, count, end)
        process = self._context.Process(target=killed_relay.live, args=arguments, daemon=True)
        process.start()
        life = Life(process, log)
        self._lives.append(life)
        return life

    def close(self) -> None:
        for life in self._lives:
            if life.process.is_alive():
                life.process.kill()
                life.process.join()

    def await_publishing(self, route: str, *lives: Life) -> Life:
        """Wait until one of some relays has the lease, and has moved the position twice."""
        by_pid = {life.pid: life for life in lives}

        def why() -> list[str]:
            return [life.text()[-2000:] for life in lives]

        def holder() -> Life | None:
            row = self.row(route)
            return by_pid.get(int(row.holder.split(":")[1])) if row and row.holder else None

        life = eventually(holder, LIFE_SECONDS, why)
        assert life is not None
        self.await_progress(route, why)
        return life

    def await_progress(self, route: str, why: Any = None) -> None:
        version = self._version(route)
        eventually(lambda: self._version(route) > version + 2, LIFE_SECONDS, why)

    def _version(self, route: str) -> int:
        row = self.row(route)
        return int(row.version) if row else 0

    def row(self, route: str) -> sa.Row[Any] | None:
        query = sa.select(outbox_checkpoint).where(outbox_checkpoint.c.route == route)
        with self.engine.connect() as connection:
            return connection.execute(query).one_or_none()

    def arrived(self, route: str, isolation: str = "read_committed") -> dict[str, list[str]]:
        """Ids that a new consumer reads from the beginning to the end, by key, in order."""
        return read_all(self.bootstrap_servers, self._topics[route], isolation)


@dataclass(frozen=True)
class Tally:
    """What a consumer read, against what was committed."""

    arrived: int
    lost: int
    repeated: int
    unknown: int
    """Those that were not committed."""
    disordered: int
    """Keys whose first arrivals are not in the order of the commits."""


def tally(committed: Mapping[str, Sequence[str]], arrived: Mapping[str, Sequence[str]]) -> Tally:
    known = {id_ for ids in committed.values() for id_ in ids}
    counts = Counter(id_ for ids in arrived.values() for id_ in ids)
    firsts = {key: list(dict.fromkeys(ids)) for key, ids in arrived.items()}
    return Tally(
        arrived=counts.total(),
        lost=len(known - counts.keys()),
        repeated=counts.total() - len(counts),
        unknown=len(counts.keys() - known),
        disordered=sum(
            [id_ for id_ in firsts.get(key, []) if id_ in known] != [i for i in ids if i in counts]
            for key, ids in committed.items()
        ),
    )


@dataclass
class Deeds:
    """What was done to the relays, as it was done."""

    kills: Counter[str] = field(default_factory=Counter)
    """By step."""
    zombies: Counter[str] = field(default_factory=Counter)
    """Relays that woke after another one had taken their route, by the step they froze at."""
    broker_kills: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def killed(self, step: str) -> None:
        with self.lock:
            self.kills[step] += 1

    def woke(self, step: str) -> None:
        with self.lock:
            self.zombies[step] += 1


def kill_at(fleet: Fleet, route: str, step: str, deeds: Deeds) -> None:
    """Let a relay of a route live until it comes to a step."""
    count = 1 if step in killed_relay.ONCE else random.randint(1, 4)
    life = fleet.start(route, step, count)
    assert life.await_end() == -signal.SIGKILL, life.text()[-3000:]
    deeds.killed(step)


def freeze_at(fleet: Fleet, route: str, step: str, relay_count: int, deeds: Deeds) -> None:
    """Freeze one relay after the other, all but the last; wake them when that one has the route.

    They stand by then. The last one is killed, one of them goes on, and all are killed.
    """
    frozen = []
    for _ in range(relay_count - 1):
        life = fleet.start(route, step, end="freeze")
        life.await_frozen()
        frozen.append(life)
    last = fleet.start(route)
    fleet.await_publishing(route, last)
    for life in frozen:
        os.kill(life.pid, signal.SIGCONT)
    for life in frozen:
        life.await_turned_back()
        deeds.woke(step)
    fleet.await_progress(route, last.text)
    last.end(signal.SIGKILL)
    deeds.killed("anywhere")
    fleet.await_publishing(route, *frozen)
    for life in frozen:
        life.end(signal.SIGKILL)
    deeds.killed("anywhere")


def settle(fleet: Fleet, routes: Sequence[str]) -> None:
    """Let relays publish what is left, after the writers have ended."""
    lives = [fleet.start(route, until="drained") for route in routes]
    for life in lives:
        assert life.await_end() == 0, life.text()[-3000:]
