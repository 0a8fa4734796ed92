"""What a claim returns, and what it waits for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox import dead_letter, inbox
from outbox.dialect import mysql_number
from outbox.envelope import MAX_NAME_BYTES
from outbox.table import outbox_inbox
from tests.integration.consuming import counted
from tests.locked import await_waiters

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["postgres", "sqlite", "mariadb"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    made: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return made


def test_a_claim_returns_what_was_not_there_yet(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert inbox.claim(connection, "c", [("s", "2"), ("s", "1"), ("s", "1")]) == {
            ("s", "1"),
            ("s", "2"),
        }
    with engine.begin() as connection:
        assert inbox.claim(connection, "c", [("s", "1"), ("s", "3")]) == {("s", "3")}
        assert inbox.claim(connection, "other", [("s", "1")]) == {("s", "1")}
        assert inbox.claim(connection, "c", [("other", "1")]) == {("other", "1")}
        assert inbox.claim(connection, "c", []) == set()


@pytest.mark.parametrize("engine", ["postgres", "sqlite"], indirect=True)
def test_claims_are_entered_in_one_order_for_everyone(engine: sa.Engine) -> None:
    order = {"postgresql": "ctid", "sqlite": "rowid"}[engine.dialect.name]
    with engine.begin() as connection:
        inbox.claim(connection, "c", [("s", "3"), ("t", "2"), ("s", "1"), ("r", "4")])
        rows = connection.execute(sa.text(f"SELECT event_id FROM outbox_inbox ORDER BY {order}"))
        assert list(rows.scalars()) == ["4", "1", "3", "2"]


def test_a_claim_that_is_rolled_back_never_was(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        inbox.claim(connection, "c", [("s", "1")])
        connection.rollback()
        assert inbox.claim(connection, "c", [("s", "1")]) == {("s", "1")}


LEVELS = [
    ("postgres", "READ COMMITTED"),
    ("mariadb", "READ COMMITTED"),
    ("mariadb", "REPEATABLE READ"),
]
"""A worker reads what is committed; the other is what an engine of MariaDB has by default."""


@pytest.fixture(params=LEVELS, ids=lambda level: f"{level[0]}, {level[1].lower()}")
def server(request: pytest.FixtureRequest) -> sa.Engine:
    """An engine with many sessions, at one isolation level."""
    name, level = request.param
    made: sa.Engine = request.getfixturevalue(f"{name}_engine")
    return made.execution_options(isolation_level=level)


class Claiming:
    """A claim in a transaction of its own, on a thread of its own; it commits when it is told."""

    def __init__(self, pool: ThreadPoolExecutor, engine: sa.Engine, *ids: str) -> None:
        self._connection = engine.connect()
        if engine.dialect.name == "mariadb":
            # As if it had read before: what others commit later it must see nevertheless.
            self._connection.execute(sa.text("SELECT * FROM outbox_inbox"))
        self._claimed = pool.submit(
            inbox.claim, self._connection, "c", [("s", each) for each in ids]
        )

    def result(self) -> set[str]:
        return {event_id for _, event_id in self._claimed.result(20)}

    def end(self, how: str = "commit") -> set[str]:
        """End the transaction; return what it claimed."""
        found = self.result()
        getattr(self._connection, how)()
        self._connection.close()
        return found


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


@pytest.mark.parametrize(("ending", "left"), [("commit", set()), ("rollback", {"1"})])
def test_a_claim_waits_for_the_transaction_that_claimed_before(
    server: sa.Engine, pool: ThreadPoolExecutor, ending: str, left: set[str]
) -> None:
    first = Claiming(pool, server, "1")
    assert first.result() == {"1"}
    second = Claiming(pool, server, "1")
    await_waiters(server)
    first.end(ending)
    assert second.end() == left
    assert claimed(server) == ["1"]


@pytest.mark.parametrize(("ending", "left"), [("commit", {"4"}), ("rollback", {"2", "3", "4"})])
def test_of_a_batch_that_overlaps_the_rest_is_claimed(
    server: sa.Engine, pool: ThreadPoolExecutor, ending: str, left: set[str]
) -> None:
    first = Claiming(pool, server, "1", "2", "3")
    assert first.result() == {"1", "2", "3"}
    second = Claiming(pool, server, "2", "3", "4")
    await_waiters(server)
    first.end(ending)
    assert second.end() == left
    assert claimed(server) == (["1", "2", "3", "4"] if ending == "commit" else ["2", "3", "4"])


def test_what_was_committed_after_the_transaction_began_is_known(
    server: sa.Engine, pool: ThreadPoolExecutor
) -> None:
    with server.connect() as late:
        late.execute(sa.text("SELECT * FROM outbox_inbox"))
        assert Claiming(pool, server, "2").end() == {"2"}
        assert inbox.claim(late, "c", [("s", each) for each in "123"]) == {("s", "1"), ("s", "3")}
        late.commit()
    assert claimed(server) == ["1", "2", "3"]


def test_a_claim_that_finds_some_known_waits_for_no_other_one(
    server: sa.Engine, pool: ThreadPoolExecutor
) -> None:
    assert Claiming(pool, server, "1").end() == {"1"}
    other = Claiming(pool, server, "2")
    assert other.result() == {"2"}
    assert Claiming(pool, server, "1", "3").end() == {"3"}
    other.end()
    assert claimed(server) == ["1", "2", "3"]


def test_while_a_claim_waits_for_one_another_may_be_claimed(
    server: sa.Engine, pool: ThreadPoolExecutor
) -> None:
    first = Claiming(pool, server, "2")
    assert first.result() == {"2"}
    second = Claiming(pool, server, "2", "3")
    await_waiters(server)
    assert Claiming(pool, server, "3").end() == {"3"}
    first.end()
    assert second.end() == set()
    assert claimed(server) == ["2", "3"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_of_many_that_wait_for_one_claim_one_at_most_gets_it(
    server: sa.Engine, pool: ThreadPoolExecutor, ending: str
) -> None:
    first = Claiming(pool, server, "1", "2")
    assert first.result() == {"1", "2"}
    waiting = [pool.submit(claim_and_commit, server, "1", "2") for _ in range(3)]
    await_waiters(server, 3)
    first.end(ending)
    claims = [each.result(20) for each in waiting]
    # Where MariaDB gives some up in a deadlock, one at least is let go on.
    done = [found for found in claims if found is not None]
    assert sorted(map(len, done)) == [0] * (len(done) - 1) + [2 if ending == "rollback" else 0]
    assert len(done) == 3 or server.dialect.name == "mariadb"
    assert claimed(server) == ["1", "2"]


def claim_and_commit(engine: sa.Engine, *ids: str) -> set[inbox.EventId] | None:
    """Return what was claimed; None where the transaction was given up in a deadlock."""
    try:
        with engine.begin() as connection:
            return inbox.claim(connection, "c", [("s", each) for each in ids])
    except sa.exc.OperationalError as exc:
        if mysql_number(exc) != DEADLOCK:
            raise
        return None


DEADLOCK = 1213


def test_a_name_that_is_too_long_is_refused_and_not_cut(mariadb_engine: sa.Engine) -> None:
    long = "x" * MAX_NAME_BYTES
    with mariadb_engine.connect() as connection:
        assert inbox.claim(connection, "c", [("s", long)]) == {("s", long)}
        with pytest.raises(sa.exc.DataError):
            inbox.claim(connection, "c", [("s", long + "y")])


def test_names_that_look_alike_are_told_apart(engine: sa.Engine) -> None:
    ids = [("s", each) for each in ("a", "A", "a ", "á", "a\\", '"a"', "😀", "\n")]
    for _ in range(2):
        with engine.connect() as connection:
            for each in ids:
                assert inbox.claim(connection, "c", [each]) == {each}
            assert inbox.claim(connection, "c", ids) == set()
            connection.rollback()
            assert inbox.claim(connection, "c", ids) == set(ids)


def claimed(engine: sa.Engine) -> list[str]:
    query = sa.select(outbox_inbox.c.event_id).order_by(outbox_inbox.c.event_id)
    with engine.connect() as connection:
        return list(connection.scalars(query))


def test_a_row_says_when_it_was_processed(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        inbox.claim(connection, "c", [("s", "1")])
        row = connection.execute(sa.text("SELECT processed_at FROM outbox_inbox")).one()
    assert row.processed_at is not None


IDS = [("s", "3"), ("", "2"), ("s", "1"), ("s", "3")]


def entered(connection: sa.Connection) -> list[inbox.EventId]:
    rows = connection.execute(sa.text("SELECT source, event_id FROM outbox_inbox ORDER BY ctid"))
    return [(source, event_id) for source, event_id in rows]


@pytest.mark.parametrize("is_without_letters", [False, True])
def test_events_that_are_all_new_are_entered_in_the_same_order(
    postgres_engine: sa.Engine, *, is_without_letters: bool
) -> None:
    with postgres_engine.begin() as connection:
        assert inbox.claim_new(connection, "c", IDS, is_without_letters=is_without_letters)
        assert entered(connection) == [("", "2"), ("s", "1"), ("s", "3")]
        assert inbox.claim_new(connection, "d", [("", "1")], is_without_letters=is_without_letters)


def test_events_of_which_one_was_there_are_not_entered(postgres_engine: sa.Engine) -> None:
    with postgres_engine.begin() as connection:
        inbox.claim(connection, "c", [("s", "1")])
    with postgres_engine.connect() as connection:
        with pytest.raises(sa.exc.IntegrityError):
            inbox.claim_new(connection, "c", IDS)
        connection.rollback()
        assert entered(connection) == [("s", "1")]


@pytest.mark.parametrize(
    ("stage", "owner", "is_resolved", "expected"),
    [
        ("consumer", "c", False, False),
        ("consumer", "c", True, True),
        ("consumer", "d", False, True),
        ("relay", "c", False, True),
    ],
)
def test_events_are_not_entered_beside_an_unresolved_letter_of_their_consumer(
    postgres_engine: sa.Engine,
    stage: dead_letter.Stage,
    owner: str,
    *,
    is_resolved: bool,
    expected: bool,
) -> None:
    with postgres_engine.begin() as connection:
        failure = dead_letter.Failure(counted("k", 1), "lost")
        dead_letter.record(connection, stage, owner, [failure])
        if is_resolved:
            dead_letter.discard(connection, dead_letter.Filter(), "of no use")
        assert inbox.claim_new(connection, "c", IDS, is_without_letters=True) is expected
        assert len(entered(connection)) == (3 if expected else 0)
        assert inbox.claim_new(connection, "c", [("s", "new")])


@pytest.mark.parametrize("texts", [["\x1f"], ["\x1f", "\x1f\x1f"], ["a\x1f", "\x1fb"], ["", "a"]])
def test_texts_may_hold_what_separates_them(engine: sa.Engine, texts: list[str]) -> None:
    ids = {(source, event_id) for source in texts for event_id in texts}
    with engine.begin() as connection:
        assert inbox.claim(connection, "c", ids) == ids
        assert inbox.claim(connection, "c", ids) == set()
