"""outbox.track where a flush does more than its instances say, or SQLAlchemy has other values."""

from __future__ import annotations

import gc
import weakref
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import outbox
from tests.emitting import read
from tests.tracking import (
    Animal,
    Base,
    Cat,
    Line,
    Note,
    OldNote,
    Order,
    Page,
    Paper,
    Shop,
    Tag,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=["postgres", "sqlite", "mariadb"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return Shop(request.getfixturevalue(f"{request.param}_engine"))


@pytest.fixture
def sqlite_shop(sqlite_engine: sa.Engine) -> Shop:
    return Shop(sqlite_engine)


@pytest.fixture
def hook() -> Iterator[Callable[[type, str, Any], None]]:
    """Listens to a mapper for the time of one test."""
    listeners: list[tuple[type, str, Any]] = []

    def listen(cls: type, name: str, function: Any) -> None:
        sa.event.listen(cls, name, function)
        listeners.append((cls, name, function))

    yield listen
    for listener in listeners:
        sa.event.remove(*listener)


def test_an_item_that_replaces_another_one_of_its_key_is_an_update(shop: Shop) -> None:
    shop.add(Order(id="o-1", lines=[Line(number=1, quantity=10, note="fragile")]))
    with shop.session() as session, session.begin():
        # An orphan is found by the flush alone, and is in no list of the session.
        session.get_one(Order, "o-1").lines = [Line(number=1, quantity=20)]
    [change] = shop.changes()
    assert change["operation"] == "updated"
    assert change["before"] == {"quantity": 10, "doubled": 20, "edits": 0}
    assert change["after"] == {"quantity": 20, "doubled": 40, "edits": 1}


def test_a_row_with_an_empty_key_is_refused_as_emit_does(shop: Shop) -> None:
    message = "a change of Order cannot be told: id, by which its events are ordered, is empty"
    with pytest.raises(outbox.InvalidEventError, match=message):
        shop.add(Order(id=""))
    assert shop.changes() == []


def test_an_instance_in_the_place_of_one_that_others_deleted_is_a_creation(shop: Shop) -> None:
    shop.add(Note(id=1, text="old"))
    with shop.session() as session:
        old = session.get_one(Note, 1)
        session.commit()  # and `old` is expired
        with shop.session() as other, other.begin():
            other.delete(other.get_one(Note, 1))
        shop.forget()
        session.add(Note(id=1, text="new"))
        session.commit()
        assert old not in session
    assert shop.changes() == [told("created", 1, None, {"text": "new"})]


@pytest.mark.parametrize("is_loaded", [True, False])
def test_what_changes_with_every_update_is_told(shop: Shop, is_loaded: bool) -> None:  # noqa: FBT001
    with shop.session() as session:
        paper = Paper(id=1, title="a", seen=1)
        session.add(paper)
        session.commit()
        shop.forget()
        if is_loaded:
            session.refresh(paper)
        paper.seen = 5  # not tracked
        session.commit()
    [change] = shop.changes()
    assert change["before"] == {"revision": 1, "edits": 0, "mark": 0, "length": 2}
    assert change["after"] == {"revision": 2, "edits": 1, "mark": 99, "length": 10}


def test_an_expired_instance_is_read_no_more_than_it_has_to_be(shop: Shop) -> None:
    with shop.session() as session:
        paper, cat = Paper(id=1, owner=2, title="a"), Cat(id=1, name="Tom")
        session.add_all([paper, cat])
        session.commit()
        shop.statements.clear()
        paper.seen = 5  # not tracked, and the key is another column than the primary key
        session.flush()
        kinds = [statement.split()[0] for statement in shop.statements]
        assert kinds[:2] == ["SELECT", "UPDATE"]  # SQLAlchemy reads an expired instance
        shop.statements.clear()
        cat.name = "Tim"  # of a class that is tracked by itself, as its parent is
        session.flush()
        kinds = [statement.split()[0] for statement in shop.statements]
        assert kinds[:3] == ["SELECT", "SELECT", "UPDATE"]


def test_many_expired_instances_are_read_by_one_query(shop: Shop) -> None:
    with shop.session() as session:
        notes = [Note(id=number, text="old") for number in range(1, 21)]
        session.add_all(notes)
        session.commit()
        shop.forget()
        for note in notes[:10]:
            note.text = "new"
        for note in notes[10:]:
            note.text = "old"
        session.commit()
    ours = [query for query in shop.queries if " IN " in query]
    assert len(ours) == 1
    assert [change["before"] for change in shop.changes()] == [{"text": "old"}] * 10


def test_what_a_later_hook_sets_in_an_expired_instance_is_told_whole(
    shop: Shop, hook: Callable[[type, str, Any], None]
) -> None:
    def set_day(_mapper: object, _connection: object, paper: Paper) -> None:
        paper.day = date(2026, 1, 2)

    hook(Paper, "before_update", set_day)
    with shop.session() as session:
        paper = Paper(id=1, title="a")
        session.add(paper)
        session.commit()
        for title in ("b", "c"):
            paper.title = title
            session.commit()
    _, first, second = shop.changes()
    assert first["before"].keys() == first["after"].keys()
    assert (first["before"]["day"], first["after"]["day"]) == (None, "2026-01-02")
    assert "day" not in second["after"]


def test_a_session_that_nobody_closed_gives_its_connection_back(sqlite_shop: Shop) -> None:
    def abandon() -> weakref.ref[Session]:
        session = sqlite_shop.session()
        session.add(Note(id=1, text="a"))
        session.flush()
        return weakref.ref(session)

    abandoned = abandon()
    gc.collect()
    assert abandoned() is None
    sqlite_shop.add(Note(id=1, text="b"))  # nothing holds the database


def test_sessions_that_share_a_connection_are_forgotten(sqlite_shop: Shop) -> None:
    with sqlite_shop.engine.connect() as connection, connection.begin() as transaction:
        found = []
        for number in (1, 2):
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                session.add(Note(id=number, text="a"))
                session.commit()
            found.append(weakref.ref(session))
        del session
        gc.collect()
        assert [each() for each in found] == [None, None]
        transaction.rollback()


def test_a_concrete_subclass_is_none_of_its_parent_s_rows(shop: Shop) -> None:
    shop.add(Note(id=1, text="parent"), OldNote(id=1, text="child"))
    with shop.session() as session, session.begin():
        session.get_one(OldNote, 1).text = "changed"
        session.flush()
        session.execute(sa.update(OldNote).values(text="by itself"))
    assert shop.changes() == []


def test_the_null_of_json_is_none(shop: Shop) -> None:
    shop.add(Paper(id=1, title="a", more={"a": 1}))
    with shop.session() as session, session.begin():
        paper = session.get_one(Paper, 1)
        paper.more = sa.JSON.NULL
        session.flush()
        paper.more = [1]
    first, second = shop.changes()
    assert (first["before"]["more"], first["after"]["more"]) == ({"a": 1}, None)
    assert (second["before"]["more"], second["after"]["more"]) == (None, [1])


def test_a_moment_in_a_column_of_days_is_its_day(shop: Shop) -> None:
    with shop.session() as session, session.begin():
        paper = Paper(id=1, title="a", day=datetime(2026, 1, 2, 3, 4))  # noqa: DTZ001  # as applications write it
        session.add(paper)
        session.flush()
        paper.day = date(2026, 1, 2)
    created, updated = shop.changes()
    assert created["after"]["day"] == "2026-01-02"
    assert "day" not in updated["after"]


def test_a_key_that_is_read_as_another_value_than_was_written_finds_its_row(
    sqlite_shop: Shop,
) -> None:
    with sqlite_shop.session() as session, session.begin():
        orders = [Order(id=7), Order(id=8)]
        for order in orders:
            session.add(order)
            session.flush()  # SQLAlchemy itself cannot insert both in one statement
        for order in orders:
            order.copies = Order.copies + 1
    changes = sqlite_shop.changes()
    assert [(change["operation"], change["identity"]["id"]) for change in changes] == [
        ("created", "7"),
        ("created", "8"),
        ("updated", "7"),
        ("updated", "8"),
    ]
    assert changes[2]["before"] == {"copies": 1}
    assert changes[3]["after"] == {"copies": 2}


def test_a_row_that_a_trigger_removed_is_named(sqlite_shop: Shop) -> None:
    with sqlite_shop.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER gone AFTER INSERT ON tracked_line"
            " BEGIN DELETE FROM tracked_line WHERE number = new.number; END"
        )
    with sqlite_shop.session() as session:
        session.add(Order(id="o-1", lines=[Line(number=1, quantity=sa.literal(2) + 1)]))
        with pytest.raises(outbox.InvalidEventError, match=r"change of Line .* is not there"):
            session.flush()
        session.rollback()


def test_two_keys_are_never_one_text(sqlite_shop: Shop) -> None:
    with sqlite_shop.session() as session, session.begin():
        session.add(Order(id="a/1", lines=[Line(number=2, quantity=1)]))
    line = next(envelope for envelope in read(sqlite_shop.engine) if "line" in envelope.type)
    assert (line.subject, line.partition_key) == ("a%2F1/2", "a/1")


ANIMALS = Base.metadata.tables["tracked_animal"]
NOTES = Base.metadata.tables["tracked_note"]
PAGES = Base.metadata.tables["tracked_page"]


@pytest.mark.parametrize("table", [NOTES, PAGES])
def test_a_statement_of_a_hook_is_seen_beside_those_of_the_flush(
    sqlite_shop: Shop, hook: Callable[[type, str, Any], None], table: sa.Table
) -> None:
    """Of another table, and of the one that the flush writes."""

    def write(_mapper: object, connection: sa.Connection, _page: Page) -> None:
        connection.execute(sa.delete(table))

    hook(Page, "after_insert", write)
    with sqlite_shop.session() as session:
        session.add_all([Page(id=1), Note(id=1, text="a")])
        with pytest.raises(outbox.UntrackedChangeError, match=f"DELETE of {table.name}"):
            session.flush()
        session.rollback()


def test_rows_that_a_relationship_writes_by_itself_are_seen(sqlite_shop: Shop) -> None:
    sqlite_shop.add(Tag(id=1, name="a"), Paper(id=1, title="a"))
    for is_tag_changed in (True, False):
        with sqlite_shop.session() as session:
            tag = session.get_one(Tag, 1)
            tag.papers.append(session.get_one(Paper, 1))
            if is_tag_changed:
                tag.name = "b"
            with pytest.raises(outbox.UntrackedChangeError, match="INSERT of tracked_tagging"):
                session.flush()
            session.rollback()
    assert sqlite_shop.changes() == []


def test_a_flush_inside_a_flush_leaves_the_outer_one_its_statements(
    sqlite_shop: Shop, hook: Callable[[type, str, Any], None]
) -> None:
    """Another session on the same connection, as hooks that keep a log of their own make it."""

    def log(_mapper: object, connection: sa.Connection, animal: Animal) -> None:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.add(Note(id=animal.id, text=animal.name))
            session.commit()

    hook(Animal, "before_insert", log)
    with sqlite_shop.session() as session, session.begin():
        session.add_all([Animal(id=1, name="a"), Animal(id=2, name="b")])
    assert len(sqlite_shop.changes()) == 4
