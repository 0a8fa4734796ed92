"""emit from an application's own SQLAlchemy listeners: nothing that commits loses its event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy.orm import Session, SessionTransaction, object_session

from outbox.errors import NoTransactionError
from tests.emitting import Order, Shop, emit, listening

if TYPE_CHECKING:
    from collections.abc import Iterator


FLUSH_HOOKS = ["before_flush", "after_flush", "after_flush_postexec"]


@pytest.fixture(params=["postgres", "mariadb"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return Shop(request.getfixturevalue(f"{request.param}_engine"))


@pytest.fixture
def session(shop: Shop) -> Iterator[Session]:
    with Session(shop.engine) as session:
        yield session


def test_a_before_commit_listener_may_change_state_and_emit(shop: Shop, session: Session) -> None:
    def late(session: Session) -> None:
        session.add(Order(name="late"))
        emit(session, "late")

    with listening(session, "before_commit", late):
        session.begin()
        emit(session, "a")
        session.commit()
    assert shop.writes == ["outbox_event", "shop_order", "outbox_event", "COMMIT"]
    assert shop.names() == ["a", "late"]


def test_the_first_event_may_come_from_a_before_commit_listener(
    shop: Shop, session: Session
) -> None:
    with listening(session, "before_commit", lambda session: emit(session, "late")):
        session.begin()
        session.commit()
    assert shop.names() == ["late"]


def test_a_before_commit_listener_may_emit_after_a_savepoint_of_its_own(
    shop: Shop, session: Session
) -> None:
    def late(session: Session) -> None:
        if not session.in_nested_transaction():
            with session.begin_nested():
                emit(session, "inside")
            emit(session, "outside")

    with listening(session, "before_commit", late):
        session.begin()
        session.commit()
    assert shop.names() == ["inside", "outside"]


def test_a_before_commit_listener_may_emit_at_the_release_of_a_savepoint(
    shop: Shop, session: Session
) -> None:
    def late(session: Session) -> None:
        if session.in_nested_transaction():
            emit(session, "release")

    with listening(session, "before_commit", late), session.begin():
        with session.begin_nested():
            emit(session, "inside")
        for name in "abc":
            emit(session, name)
        assert shop.writes == ["outbox_event", "outbox_event"]
    assert shop.names() == ["inside", "release", "a", "b", "c"]


@pytest.mark.parametrize("hook", FLUSH_HOOKS)
def test_flush_listeners_may_emit(shop: Shop, session: Session, hook: str) -> None:
    with listening(session, hook, lambda session, *_: emit(session, "h")):
        session.add(Order(name="x"))
        emit(session, "a")
        session.commit()
    assert shop.names() == ["a", "h"]
    # All that is emitted before the flush has ended is one statement.
    statement_count = 2 if hook == "after_flush_postexec" else 1
    assert shop.writes == ["shop_order", *["outbox_event"] * statement_count, "COMMIT"]


@pytest.mark.parametrize("hook", FLUSH_HOOKS)
def test_the_first_event_may_come_from_the_flush_of_a_commit(
    shop: Shop, session: Session, hook: str
) -> None:
    with listening(session, hook, lambda session, *_: emit(session, "h")):
        session.add(Order(name="x"))
        session.commit()
    assert shop.names() == ["h"]


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("hook", FLUSH_HOOKS)
def test_flush_listeners_may_emit_in_the_last_flush_of_a_commit(
    shop: Shop, session: Session, hook: str, *, is_nested: bool
) -> None:
    with (
        listening(session, hook, lambda session, *_: emit(session, "h")),
        listening(session, "before_commit", lambda session: session.add(Order(name="late"))),
    ):
        session.begin()
        if is_nested:
            session.begin_nested()
        emit(session, "a")
        session.commit()
    assert shop.names() == ["a", *["h"] * (1 + is_nested)]
    assert shop.writes[-3:] == ["shop_order", "outbox_event", "COMMIT"]


@pytest.mark.parametrize("hook", FLUSH_HOOKS)
def test_the_last_flush_of_a_commit_may_emit_after_it_released_open_savepoints(
    shop: Shop, session: Session, hook: str
) -> None:
    def at_end(session: Session, transaction: SessionTransaction) -> None:
        parent = transaction.parent
        if transaction.nested and parent is not None and not parent.nested:
            session.add(Order(name="late"))

    with (
        listening(session, "after_transaction_end", at_end),
        listening(session, hook, lambda session, *_: emit(session, "h")),
    ):
        with session.begin():
            session.begin_nested()
            session.begin_nested()
            emit(session, "a")
        session.begin()
        session.commit()
    assert shop.names() == ["a", "h"]


def test_the_first_event_may_come_from_the_end_of_a_savepoint_that_a_commit_released(
    shop: Shop, session: Session
) -> None:
    def at_end(session: Session, transaction: SessionTransaction) -> None:
        if transaction.nested:
            emit(session, "end")

    with listening(session, "after_transaction_end", at_end), session.begin():
        session.begin_nested()
    assert shop.names() == ["end"]


def test_a_listener_that_fails_in_a_flush_leaves_no_event_behind_unwritten(
    shop: Shop, session: Session
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("boom")

    session.begin()
    session.add(Order(name="x"))
    emit(session, "a")
    with (
        listening(session, "before_flush", fail),
        pytest.raises(ValueError, match="boom"),
    ):
        session.flush()
    session.expunge_all()
    with listening(session, "before_commit", lambda session: emit(session, "late")):
        session.commit()
    assert shop.names() == ["a", "late"]


def test_mapper_listeners_may_emit(shop: Shop) -> None:
    def inserted(_mapper: object, _connection: object, order: Order) -> None:
        session = object_session(order)
        assert session is not None
        emit(session, "m")

    with (
        listening(Order, "after_insert", inserted),
        Session(shop.engine) as session,
        session.begin(),
    ):
        session.add(Order(name="x"))
    assert shop.writes == ["shop_order", "outbox_event", "COMMIT"]
    assert shop.names() == ["m"]


@pytest.mark.parametrize("hook", ["after_commit", "after_rollback", "after_soft_rollback"])
def test_a_listener_of_the_end_is_refused(shop: Shop, session: Session, hook: str) -> None:
    errors: list[Exception] = []

    def end(session: Session, *_: object) -> None:
        with pytest.raises(NoTransactionError) as caught:
            emit(session, "too late")
        errors.append(caught.value)

    with listening(session, hook, end):
        session.begin()
        emit(session, "a")
        if hook == "after_commit":
            session.commit()
        else:
            session.rollback()
    assert len(errors) == 1
    assert shop.names() == (["a"] if hook == "after_commit" else [])
