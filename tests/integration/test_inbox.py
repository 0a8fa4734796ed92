"""What a claim returns, and what it waits for."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from outbox import dead_letter, inbox
from tests.integration.consuming import counted


@pytest.fixture(params=["postgres", "sqlite"])
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


@pytest.mark.parametrize(("ending", "left"), [("commit", set()), ("rollback", {("s", "1")})])
def test_a_claim_waits_for_the_transaction_that_claimed_before(
    postgres_engine: sa.Engine, ending: str, left: set[inbox.EventId]
) -> None:
    found: list[set[inbox.EventId]] = []

    def second(began: threading.Event) -> None:
        with postgres_engine.begin() as connection:
            began.set()
            found.append(inbox.claim(connection, "c", [("s", "1")]))

    with postgres_engine.connect() as first, postgres_engine.connect() as onlooker:
        inbox.claim(first, "c", [("s", "1")])
        began = threading.Event()
        thread = threading.Thread(target=second, args=(began,))
        thread.start()
        began.wait(10)
        waiting = sa.text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while not onlooker.scalar(waiting):
            onlooker.rollback()
        assert found == []
        getattr(first, ending)()
        thread.join(10)
    assert found == [left]


def test_a_row_says_when_it_was_processed(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        inbox.claim(connection, "c", [("s", "1")])
        row = connection.execute(sa.text("SELECT processed_at FROM outbox_inbox")).one()
    assert row.processed_at is not None


IDS = [("s", "3"), ("", "2"), ("s", "1"), ("s", "3")]


def claimed(connection: sa.Connection) -> list[inbox.EventId]:
    rows = connection.execute(sa.text("SELECT source, event_id FROM outbox_inbox ORDER BY ctid"))
    return [(source, event_id) for source, event_id in rows]


@pytest.mark.parametrize("is_without_letters", [False, True])
def test_events_that_are_all_new_are_entered_in_the_same_order(
    postgres_engine: sa.Engine, *, is_without_letters: bool
) -> None:
    with postgres_engine.begin() as connection:
        assert inbox.claim_new(connection, "c", IDS, is_without_letters=is_without_letters)
        assert claimed(connection) == [("", "2"), ("s", "1"), ("s", "3")]
        assert inbox.claim_new(connection, "d", [("", "1")], is_without_letters=is_without_letters)


def test_events_of_which_one_was_there_are_not_entered(postgres_engine: sa.Engine) -> None:
    with postgres_engine.begin() as connection:
        inbox.claim(connection, "c", [("s", "1")])
    with postgres_engine.connect() as connection:
        with pytest.raises(sa.exc.IntegrityError):
            inbox.claim_new(connection, "c", IDS)
        connection.rollback()
        assert claimed(connection) == [("s", "1")]


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
        assert len(claimed(connection)) == (3 if expected else 0)
        assert inbox.claim_new(connection, "c", [("s", "new")])


@pytest.mark.parametrize("texts", [["\x1f"], ["\x1f", "\x1f\x1f"], ["a\x1f", "\x1fb"], ["", "a"]])
def test_texts_may_hold_what_separates_them(engine: sa.Engine, texts: list[str]) -> None:
    ids = {(source, event_id) for source in texts for event_id in texts}
    with engine.begin() as connection:
        assert inbox.claim(connection, "c", ids) == ids
        assert inbox.claim(connection, "c", ids) == set()
