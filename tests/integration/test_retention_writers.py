"""Retention that never rests, beside those who write to the same tables.

Nobody gets an error, nobody waits in a circle, and nothing goes that has to stay.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from outbox import clock, dead_letter, inbox
from outbox.dead_letter import Failure, Filter
from outbox.errors import DatabaseUnavailableError
from outbox.settings import RetentionSettings
from outbox.table import outbox_checkpoint, outbox_dead_letter, outbox_inbox
from relay import retention
from relay.daemon import Relay, Until
from relay.retention_state import NAME
from tests.acceptance.cli import envelope
from tests.capturing import connect, writers
from tests.retaining import broker_of, settings, stored, swept
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from outbox.inbox import EventId
    from outbox.settings import Settings

AGE_SECONDS = 1.0
"""Of claims: what is younger has to stay."""


@pytest.fixture(autouse=True)
def _restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch follow the one before at once."""
    monkeypatch.setattr(retention.Pace, "REST", 0.0)


class Crowd:
    """Threads that repeat what they do until they are stopped, or until it fails."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, work: Callable[[], object]) -> None:
        def repeat() -> None:
            try:
                while not self._stopping.is_set():
                    work()
            except BaseException as exc:  # noqa: BLE001  # handed to the test
                self.errors.append(exc)

        self._threads.append(threading.Thread(target=repeat))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()

    def until(self, fact: Callable[[], object], why: Callable[[], object]) -> None:
        """Wait for a fact, or for the first error."""
        eventually(lambda: self.errors or fact(), why=why)


class Sweeper:
    """Passes over one table, each from its beginning, one after the other."""

    def __init__(self, engine: sa.Engine, given: Settings, table: str) -> None:
        self.deleted = 0
        self.gave_way = 0
        """How often it went back rather than wait for a writer."""
        self._engine = engine
        self._given = given
        self._table = table

    def sweep(self) -> None:
        try:
            self.deleted += swept(self._engine, self._given).deleted[self._table]
        except DatabaseUnavailableError as exc:
            assert "another holds a lock" in str(exc)  # noqa: PT017  # else it is an error
            self.gave_way += 1
            self._give_back_lease()

    def _give_back_lease(self) -> None:
        with self._engine.begin() as connection:
            own = outbox_checkpoint.c.route == NAME
            connection.execute(sa.update(outbox_checkpoint).values(expires_at=None).where(own))


def test_with_writers_that_commit_in_any_order_nothing_is_deleted_before_it_is_delivered(
    postgres_engine: sa.Engine, postgres_url: str
) -> None:
    """A relay and a sweep that deletes whatever it may, as fast as it can, beside writers."""
    given = settings(postgres_engine, "a", "b", events="0s")
    only_relaying = given.model_copy(update={"retention": RetentionSettings()})
    broker = broker_of(given)
    committed: list[str] = []
    deleted = 0
    crowd, deleting = Crowd(), Crowd()

    def write(seed: int, writer: Any) -> Callable[[], None]:
        dice = random.Random(seed)

        def transaction() -> None:
            names = [uuid.uuid4().hex for _ in range(dice.randint(1, 5))]
            for name in names:
                writer.run(
                    "INSERT INTO outbox_event (type, data) VALUES ('t.t', convert_to(%s, 'UTF8'))",
                    name,
                )
                time.sleep(dice.choice([0, 0, 0.002, 0.05]))
            if dice.random() < 0.2:
                writer.rollback()
            else:
                writer.commit()
                committed.extend(names)

        return transaction

    def delete() -> None:
        nonlocal deleted
        deleted += swept(postgres_engine, given, anew=False).deleted["events"]

    deleting.add(delete)
    with (
        writers(postgres_url, 6) as made,
        Relay(only_relaying, ["a"], engine=postgres_engine).running(),
    ):
        for seed, writer in enumerate(made):
            crowd.add(write(seed, writer))
        with deleting.at_work():
            with Relay(only_relaying, ["b"], engine=postgres_engine).running(), crowd.at_work():
                crowd.until(
                    lambda: deleting.errors or (len(committed) > 300 and deleted > 300),
                    why=lambda: (len(committed), deleted),
                )
            drained = Relay(only_relaying, ["b"], engine=postgres_engine).run(until=Until.DRAINED)
            assert drained.exit_code == 0
            eventually(lambda: len(broker.messages("t")) >= 2 * len(committed))
    assert crowd.errors == deleting.errors == []
    found = sorted(message.data.decode() for message in broker.messages("t"))
    assert found == sorted(committed * 2)
    swept(postgres_engine, given)
    assert stored(postgres_engine) == []


class Claims:
    """Workers of one consumer: what they claimed, and whether a claim was forgotten too early."""

    def __init__(self, engine: sa.Engine) -> None:
        self.claimed_at: dict[EventId, float] = {}
        """A moment before each claim that was committed."""
        self.known = 0
        """How often an event that came again was recognised."""
        self.again = 0
        """How often it was not, because its claim was old enough to be gone."""
        self.lost: list[EventId] = []
        self._engine = engine
        self._lock = threading.Lock()
        self._batch: list[EventId] = []

    def worker(self, seed: int) -> Callable[[], None]:
        dice = random.Random(seed)

        def transaction() -> None:
            ids = self._received(dice)
            with self._engine.connect() as connection:
                before = _moment(connection)
                claimed = inbox.claim(connection, "c", ids)
                after = _moment(connection)
                if dice.random() < 0.2:
                    connection.rollback()
                    return
                connection.commit()
            self._note(ids, claimed, before, after)

        return transaction

    def _received(self, dice: random.Random) -> list[EventId]:
        """Return new events, which another worker may receive too, and some that come again."""
        with self._lock:
            past = list(self.claimed_at)
            batch, self._batch = self._batch, []
            if not batch:
                batch = self._batch = [("/s", uuid.uuid4().hex) for _ in range(20)]
        # Most that come again are young, as those of a worker that died; some may be forgotten.
        recent, older = past[-100:], past[-5_000:]
        again = dice.sample(recent, min(8, len(recent))) + dice.sample(older, min(4, len(older)))
        ids = [*batch, *again]
        dice.shuffle(ids)
        return ids

    def _note(self, ids: list[EventId], claimed: set[EventId], before: float, after: float) -> None:
        with self._lock:
            self.known += len(self.claimed_at.keys() & ids) - len(self.claimed_at.keys() & claimed)
            for event in claimed:
                earlier = self.claimed_at.get(event)
                if earlier is not None and earlier <= before:
                    self.again += 1
                    if after - earlier < AGE_SECONDS:
                        self.lost.append(event)
                # Anew at the end: the newest claims stand last.
                self.claimed_at.pop(event, None)
                self.claimed_at[event] = max(before, earlier or before)

    def young(self) -> tuple[set[EventId], set[EventId]]:
        """Return the claims that have to be there now, and those that are."""
        columns = (outbox_inbox.c.source, outbox_inbox.c.event_id)
        with self._engine.begin() as connection:
            stored = {(source, id_) for source, id_ in connection.execute(sa.select(*columns))}
            now = _moment(connection)
        # A claim is no older than the moment before it.
        return {e for e, at in self.claimed_at.items() if now - at < AGE_SECONDS}, stored


def _moment(connection: sa.Connection) -> float:
    """Return the time of the database's clock."""
    return float(connection.execute(sa.select(clock.now())).scalar_one().timestamp())


def test_a_sweep_of_the_inbox_hinders_no_worker_and_forgets_no_young_claim(
    postgres_engine: sa.Engine,
) -> None:
    """Workers of one consumer claim new events, some of them at once, and some that come again."""
    given = settings(postgres_engine, inbox=f"{AGE_SECONDS:g}s")
    sweeper = Sweeper(postgres_engine, given, "inbox")
    claims = Claims(postgres_engine)
    crowd = Crowd()
    for seed in range(4):
        crowd.add(claims.worker(seed))
    crowd.add(sweeper.sweep)
    with crowd.at_work():
        crowd.until(
            lambda: sweeper.deleted > 2_000 and claims.known > 500 and claims.again > 20,
            why=lambda: (sweeper.deleted, claims.known, claims.again),
        )
    assert crowd.errors == []
    assert claims.lost == []
    expected, found = claims.young()
    assert expected <= found
    # It never waits for a worker, so it never had to give way.
    assert sweeper.gave_way == 0


class Letters:
    """The letters of one route, which one thread writes and decides about in any order.

    It is a relay and its operator at once: between the two of them they may wait for each other,
    and what is looked at here is whether either of them waits for a sweep.
    """

    def __init__(self, engine: sa.Engine, owner: str) -> None:
        self.unresolved: dict[str, int] = {}
        """What has to be there, by event."""
        self.resolved = 0
        self.reopened = 0
        self._engine = engine
        self._owner = owner
        self._dice = random.Random(owner)
        self._events = [envelope(f"k{number}") for number in range(60)]

    def transaction(self) -> None:
        with self._engine.begin() as connection:
            for step in self._dice.sample([self._fail, self._replay, self._discard], 2):
                step(connection)
            self._request(connection)

    def stored(self) -> set[str]:
        columns = outbox_dead_letter.c
        query = sa.select(columns.event_id).where(
            columns.owner == self._owner, columns.resolved_at.is_(None)
        )
        with self._engine.begin() as connection:
            return set(connection.scalars(query))

    def _fail(self, connection: sa.Connection) -> None:
        """Record letters of new events, and of some that have one, perhaps a resolved one."""
        chosen = self._dice.sample(self._events, 10)
        dead_letter.record(connection, "relay", self._owner, [Failure(e, "no") for e in chosen])
        rows = connection.execute(
            sa.select(outbox_dead_letter.c.event_id, outbox_dead_letter.c.id).where(
                outbox_dead_letter.c.owner == self._owner,
                outbox_dead_letter.c.event_id.in_([event.id for event in chosen]),
            )
        )
        found = {row.event_id: row.id for row in rows}
        assert len(found) == len(chosen)
        self.unresolved |= found

    def _replay(self, connection: sa.Connection) -> None:
        self._close(lambda ids: dead_letter.resolve(connection, ids))

    def _discard(self, connection: sa.Connection) -> None:
        self._close(lambda ids: dead_letter.discard(connection, ids, "no use"))

    def _close(self, how: Callable[[list[int]], int]) -> None:
        chosen = dict(
            self._dice.sample(list(self.unresolved.items()), min(6, len(self.unresolved)))
        )
        assert how(list(chosen.values())) == len(chosen), "a letter is gone that nobody closed"
        for event_id in chosen:
            del self.unresolved[event_id]
        self.resolved += len(chosen)

    def _request(self, connection: sa.Connection) -> None:
        """Ask for some that were discarded, as long as they are there."""
        query = sa.select(outbox_dead_letter.c.id, outbox_dead_letter.c.event_id).where(
            outbox_dead_letter.c.owner == self._owner, outbox_dead_letter.c.status == "discarded"
        )
        found = connection.execute(query).all()
        for number, event_id in self._dice.sample(found, min(4, len(found))):
            if dead_letter.request(connection, [number]):
                self.unresolved[event_id] = number
                self.reopened += 1


def test_a_sweep_of_the_letters_hinders_nobody_and_takes_none_that_is_open(
    postgres_engine: sa.Engine,
) -> None:
    """A letter that is asked for while it is about to be deleted is there, or was not asked for."""
    given = settings(postgres_engine, dead_letters="0s")
    sweeper = Sweeper(postgres_engine, given, "dead_letters")
    owners = [Letters(postgres_engine, owner) for owner in "ab"]
    crowd = Crowd()
    for owner in owners:
        crowd.add(owner.transaction)
    crowd.add(sweeper.sweep)
    with crowd.at_work():
        crowd.until(
            lambda: sweeper.deleted > 300 and min(owner.reopened for owner in owners) > 50,
            why=lambda: (sweeper.deleted, [owner.reopened for owner in owners]),
        )
    assert crowd.errors == []
    for owner in owners:
        assert owner.stored() == owner.unresolved.keys()


def test_a_writer_that_a_sweep_waits_for_and_that_waits_for_the_sweep_goes_on(
    postgres_engine: sa.Engine, postgres_url: str
) -> None:
    """Each has a letter that the other one comes to next: the sweep gives way, not the writer.

    It waits for less than what the server takes to look for a deadlock, which is a second.
    """
    given = settings(postgres_engine, dead_letters="0s")
    with postgres_engine.begin() as connection:
        failures = [Failure(replace(envelope(), id=name), "broken") for name in "ab"]
        dead_letter.record(connection, "relay", "a", failures)
        dead_letter.discard(connection, Filter(), "no")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    sweeper = Sweeper(postgres_engine, given, "dead_letters")
    crowd = Crowd()
    crowd.add(sweeper.sweep)
    with connect(postgres_url) as writer, connect(postgres_url, autocommit=True) as observer:

        def is_waited_for() -> bool:
            found = observer.execute(f"{waiting} AND wait_event_type = 'Lock'").fetchone()
            return found == (1,)

        writer.execute("UPDATE outbox_dead_letter SET note = 'mine' WHERE id = 2")
        with crowd.at_work():
            eventually(lambda: crowd.errors or is_waited_for())
            writer.execute("UPDATE outbox_dead_letter SET note = 'mine' WHERE id = 1")
            writer.commit()
            crowd.until(lambda: sweeper.deleted == 2, why=lambda: sweeper.deleted)
    assert crowd.errors == []
    assert sweeper.gave_way > 0
