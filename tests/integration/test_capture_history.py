"""Random histories of several sessions: read exactly once, in order for each locked key."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from relay.capture import Capture, open_capture, portable, snapshot
from tests.capturing import Reader, Writer, numbers, writers

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

FULL = os.environ.get("HYPOTHESIS_PROFILE") == "full"
KEYS = ("a", "b", "c")
SESSIONS = st.integers(0, 3)


@pytest.fixture(params=["postgres", "mariadb"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    found: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


@pytest.fixture
def url(engine: sa.Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


@pytest.fixture
def capture(engine: sa.Engine) -> Iterator[Capture]:
    opened = open_capture(engine)
    yield opened
    opened.close()


class Level:
    """What a transaction did since a savepoint: its events, and the keys it locked there."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.keys: set[str] = set()


class Histories(RuleBasedStateMachine):
    """Four writers and one reader; the model keeps what each open level did."""

    def __init__(self, sessions: list[Writer], capture: Capture) -> None:
        super().__init__()
        self.sessions = sessions
        self.capture = capture
        self.levels: list[list[Level]] = [[Level()] for _ in sessions]
        self.committed: set[int] = set()
        self.expected: dict[str, list[int]] = defaultdict(list)
        self.key_of: dict[int, str] = {}
        self.checked = 0

    @initialize()
    def start(self) -> None:
        self.reader = Reader(self.capture, 5, self.capture.now())

    def _holder(self, key: str) -> int | None:
        for number, levels in enumerate(self.levels):
            if any(key in level.keys for level in levels):
                return number
        return None

    @rule(session=SESSIONS)
    def take_an_id(self, session: int) -> None:
        self.sessions[session].take_id()

    @rule(session=SESSIONS, key=st.sampled_from(KEYS), count=st.integers(1, 6))
    def insert(self, session: int, key: str, count: int) -> None:
        """Emit under the key's lock; a key that another session holds is left alone."""
        holder = self._holder(key)
        if holder not in (None, session):
            return
        level = self.levels[session][-1]
        if holder is None:
            # Nobody else steps meanwhile, so that it is held need not be told to the database.
            level.keys.add(key)
        level.events += [(key, self.sessions[session].emit(key)) for _ in range(count)]

    @rule(session=SESSIONS)
    def savepoint(self, session: int) -> None:
        self.sessions[session].run(f"SAVEPOINT s{len(self.levels[session])}")
        self.levels[session].append(Level())

    @rule(session=SESSIONS)
    def rollback_to(self, session: int) -> None:
        levels = self.levels[session]
        if len(levels) > 1:
            self.sessions[session].run(f"ROLLBACK TO s{len(levels) - 1}")
            levels[-1] = Level()

    @rule(session=SESSIONS)
    def release(self, session: int) -> None:
        levels = self.levels[session]
        if len(levels) > 1:
            self.sessions[session].run(f"RELEASE SAVEPOINT s{len(levels) - 1}")
            inner = levels.pop()
            levels[-1].events += inner.events
            levels[-1].keys |= inner.keys

    @rule(session=SESSIONS)
    def commit(self, session: int) -> None:
        self.sessions[session].commit()
        for level in self.levels[session]:
            for key, seq in level.events:
                self.committed.add(seq)
                self.key_of[seq] = key
                self.expected[key].append(seq)
        self.levels[session] = [Level()]

    @rule(session=SESSIONS, key=st.sampled_from(KEYS), count=st.integers(1, 6))
    def insert_and_commit(self, session: int, key: str, count: int) -> None:
        self.insert(session, key, count)
        self.commit(session)

    @rule(session=SESSIONS)
    def rollback(self, session: int) -> None:
        self.sessions[session].rollback()
        self.levels[session] = [Level()]

    @rule(limit=st.sampled_from([1, 2, 3, 7, 1000]), settled=st.floats(0, 1))
    def read_and_crash(self, limit: int, settled: float) -> None:
        """Settle a part of a page; the rest is forgotten, as in a crash."""
        page = self.reader.page(limit)
        self.reader.settle(page, round(settled * len(numbers(page))))

    @rule(limit=st.sampled_from([1, 2, 3, 7, 1000]))
    def read(self, limit: int) -> None:
        self.reader.read(limit)

    @rule()
    def read_all(self) -> None:
        """What is committed is read, whoever is still open: nothing stalls."""
        self.reader.drain()
        assert set(self.reader.delivered) == self.committed

    @rule()
    def count(self) -> None:
        backlog = self.capture.backlog(self.capture.position(self.reader.stored))
        assert backlog.count == len(self.committed) - len(self.reader.delivered)

    @invariant()
    def only_committed_rows_once_and_in_order(self) -> None:
        delivered = self.reader.delivered if hasattr(self, "reader") else []
        assert len(delivered) == len(set(delivered))
        assert self.committed.issuperset(delivered[self.checked :])
        self.checked = len(delivered)
        by_key: dict[str, list[int]] = defaultdict(list)
        for seq in delivered:
            by_key[self.key_of[seq]].append(seq)
        for key, sequence in by_key.items():
            assert sequence == self.expected[key][: len(sequence)]

    def teardown(self) -> None:
        try:
            self.read_all()
            self.only_committed_rows_once_and_in_order()
        finally:
            for session in self.sessions:
                session.rollback()


@pytest.mark.timeout(3600 if FULL else 300)
def test_every_history_is_read_exactly_once_and_in_order(
    url: str, capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages can hold more rows than late ones, so both limits are met; gaps are closed at once."""
    monkeypatch.setattr(snapshot, "LATE_LIMIT", 1)
    monkeypatch.setattr(portable, "CLOSE_SECONDS", 0.0)
    monkeypatch.setattr(portable, "CHUNK", 2)
    # Nobody here is between drawing a number and inserting its row.
    monkeypatch.setattr(portable, "_gap_seconds", lambda _: -60)
    profile = settings(
        # A step on MariaDB takes three times as long.
        max_examples=10_000 if FULL else 200 if url.startswith("postgresql") else 60,
        stateful_step_count=60 if FULL else 40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    with writers(url, 4) as sessions:

        class Bound(Histories):
            def __init__(self) -> None:
                super().__init__(sessions, capture)

        run_state_machine_as_test(Bound, settings=profile)


class Load:
    """Writers that lock a key, count it up, emit the count, and sometimes change their mind."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.committed: list[tuple[str, str, int]] = []
        self.errors: list[BaseException] = []

    def write(self, session: Writer, seed: int) -> None:
        try:
            chosen = random.Random(seed)
            while not self.stopping.is_set():
                self._transaction(session, chosen)
        except BaseException as exc:  # noqa: BLE001  # handed to the test
            self.errors.append(exc)

    def _transaction(self, session: Writer, chosen: random.Random) -> None:
        events: list[tuple[str, str, int]] = []
        for key in sorted(chosen.sample(range(40), chosen.randint(1, 3))):
            if chosen.random() < 0.2:
                session.run("SAVEPOINT inner_one")
                self._emit(session, str(key))
                session.run("ROLLBACK TO inner_one")
            events += [self._emit(session, str(key)) for _ in range(chosen.randint(1, 3))]
        if chosen.random() < 0.2:
            session.rollback()
        else:
            session.commit()
            self.committed += events

    @staticmethod
    def _emit(session: Writer, key: str) -> tuple[str, str, int]:
        session.run("UPDATE aggregate SET version = version + 1 WHERE name = %s", key)
        version = session.value("SELECT version FROM aggregate WHERE name = %s", key)
        return key, str(version), session.emit(key, str(version))


@pytest.mark.parametrize(
    "seconds", [8, pytest.param(60, marks=pytest.mark.slow)], ids=lambda s: f"{s}s"
)
@pytest.mark.timeout(240)
def test_twenty_four_writers_lose_nothing_repeat_nothing_and_keep_the_order_of_keys(
    url: str, capture: Capture, seconds: int
) -> None:
    load = Load()
    with writers(url, 25) as (endless, *sessions):
        endless.run("CREATE TABLE aggregate (name varchar(9) PRIMARY KEY, version int NOT NULL)")
        for number in range(40):
            endless.run("INSERT INTO aggregate VALUES (%s, 0)", str(number))
        endless.commit()
        endless.emit("endless")
        threads = [
            threading.Thread(target=load.write, args=(session, seed))
            for seed, session in enumerate(sessions)
        ]
        for thread in threads:
            thread.start()
        seen, late = _read_while(capture, load, threads, seconds)
    assert not load.errors
    assert len(seen) == len(set(seen)), "repeated"
    assert sorted(seen) == sorted(load.committed), "lost or made up"
    versions: dict[str, list[int]] = defaultdict(list)
    for key, version, _ in seen:
        versions[key].append(int(version))
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values())
    assert late > 100, "the history was too tame"


def _read_while(
    capture: Capture, load: Load, threads: list[threading.Thread], seconds: int
) -> tuple[list[tuple[str, str, int]], int]:
    """Read pages of any size until the writers have stopped; tell how many rows came late."""
    chosen = random.Random(0)
    position: Any = capture.beginning()
    seen: list[tuple[str, str, int]] = []
    late = highest = 0
    deadline = time.monotonic() + seconds
    while True:
        stopped = not any(thread.is_alive() for thread in threads)
        if time.monotonic() > deadline:
            load.stopping.set()
        page = capture.next_page(position, chosen.choice([1, 2, 7, 100, 1000]))
        position = page.position()
        for found in page.envelopes:
            seq = found.sequence or 0
            late += seq < highest
            highest = max(highest, seq)
            seen.append((found.partition_key or "", found.subject or "", seq))
        if stopped and page.is_last:
            return seen, late
