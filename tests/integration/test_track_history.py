"""outbox.track over random histories: a consumer that replays the events has the table's rows."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.orm import Session

from tests.emitting import read
from tests.tracking import (
    FIELDS,
    LINE_FIELDS,
    Base,
    Customer,
    Line,
    LineChanged,
    Order,
    OrderChanged,
    Status,
    replay,
)

FULL = os.environ.get("HYPOTHESIS_PROFILE") == "full"
IDS = st.sampled_from(["o-1", "o-2", "o-3"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "status": st.sampled_from(Status),
    "total": st.none() | st.integers(0, 3).map(lambda n: Decimal(n) / 4),
    "customer_id": st.none() | st.integers(1, 2),
    "notes": st.none() | st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2),
    "scan": st.none() | st.sampled_from([b"", b"\xff"]),
    "copies": st.integers(0, 2),
    "remark": st.none() | st.sampled_from(["", "x"]),
    "seen": st.integers(0, 2),
}
QUANTITIES = st.lists(st.integers(0, 2), max_size=2)
CHANGES = st.fixed_dictionaries({}, optional=VALUES)


def make_lines(quantities: list[int]) -> list[Line]:
    return [Line(number=number, quantity=each) for number, each in enumerate(quantities)]


class History(RuleBasedStateMachine):
    """One session after the other, over one database; each step is what an application does."""

    engine: sa.Engine

    @initialize()
    def begin(self) -> None:
        with self.engine.begin() as connection:
            for name in ("tracked_line", "tracked_order", "outbox_event"):
                connection.exec_driver_sql(f"DELETE FROM {name}")
        self.session = Session(self.engine)
        self.savepoints: list[Any] = []

    @rule(id=IDS, values=CHANGES, lines=QUANTITIES)
    def add(self, id: str, values: dict[str, Any], lines: list[int]) -> None:  # noqa: A002  # the column
        if self.session.get(Order, id) is None:
            self.session.add(Order(id=id, lines=make_lines(lines), **values))

    @rule(id=IDS, values=CHANGES)
    def change(self, id: str, values: dict[str, Any]) -> None:  # noqa: A002  # the column
        order = self.session.get(Order, id)
        if order is not None:
            for name, value in values.items():
                setattr(order, name, value)

    @rule(id=IDS, values=CHANGES)
    def change_unseen(self, id: str, values: dict[str, Any]) -> None:  # noqa: A002  # the column
        self.session.flush()
        order = self.session.get(Order, id)
        if order is not None:
            self.session.expire(order)
            for name, value in values.items():
                setattr(order, name, value)

    @rule(id=IDS)
    def change_inside(self, id: str) -> None:  # noqa: A002  # the column
        order = self.session.get(Order, id)
        if order is not None and order.notes is not None:
            order.notes["c"] = len(order.notes)

    @rule(id=IDS)
    def change_by_expression(self, id: str) -> None:  # noqa: A002  # the column
        order = self.session.get(Order, id)
        if order is not None:
            order.copies = Order.copies + 1
            self.session.flush()  # a second expression would lose the first

    @rule(id=IDS, customer=st.none() | st.integers(1, 2))
    def relate(self, id: str, customer: int | None) -> None:  # noqa: A002  # the column
        order = self.session.get(Order, id)
        if order is not None:
            order.customer = customer and self.session.get_one(Customer, customer)  # type: ignore[assignment]  # never 0

    @rule(id=IDS, values=CHANGES)
    def merge(self, id: str, values: dict[str, Any]) -> None:  # noqa: A002  # the column
        self.session.merge(Order(id=id, **values))

    @rule(id=IDS)
    def delete(self, id: str) -> None:  # noqa: A002  # the column
        order = self.session.get(Order, id)
        if order is not None:
            self.session.delete(order)

    @rule(id=IDS, values=CHANGES, lines=QUANTITIES)
    def replace(self, id: str, values: dict[str, Any], lines: list[int]) -> None:  # noqa: A002  # the column
        order = self.session.get(Order, id)
        if order is not None:
            self.session.delete(order)
            self.session.add(Order(id=id, lines=make_lines(lines), **values))
            self.session.flush()

    @rule(id=IDS, lines=QUANTITIES)
    def replace_lines(self, id: str, lines: list[int]) -> None:  # noqa: A002  # the column
        self.session.flush()
        order = self.session.get(Order, id)
        if order is not None:
            order.lines = make_lines(lines)
            self.session.flush()

    @rule(old=IDS, new=IDS)
    def rename(self, old: str, new: str) -> None:
        order = self.session.get(Order, old)
        if order is not None and not order.lines and self.session.get(Order, new) is None:
            order.id = new
            self.session.flush()

    @rule(id=IDS)
    def drop_a_line(self, id: str) -> None:  # noqa: A002  # the column
        order = self.session.get(Order, id)
        if order is not None and order.lines:
            order.lines.pop()

    @rule(id=IDS, quantity=st.integers(0, 2), is_seen=st.booleans())
    def change_lines(self, id: str, quantity: int, is_seen: bool) -> None:  # noqa: A002, FBT001  # the column; hypothesis names it
        self.session.flush()
        order = self.session.get(Order, id)
        for line in order.lines if order is not None else ():
            if not is_seen:
                self.session.expire(line)
            line.quantity = quantity

    @rule()
    def flush(self) -> None:
        self.session.flush()

    @rule()
    def expire(self) -> None:
        self.session.flush()
        self.session.expire_all()

    @rule()
    def savepoint(self) -> None:
        self.savepoints.append(self.session.begin_nested())

    @precondition(lambda self: self.savepoints)
    @rule(is_kept=st.booleans())
    def end_savepoint(self, is_kept: bool) -> None:  # noqa: FBT001  # hypothesis names it
        savepoint = self.savepoints.pop()
        savepoint.commit() if is_kept else savepoint.rollback()

    @rule()
    def commit(self) -> None:
        self.session.commit()
        self.savepoints.clear()

    @rule()
    def roll_back(self) -> None:
        self.session.rollback()
        self.savepoints.clear()

    @rule()
    def start_anew(self) -> None:
        self.session.close()
        self.savepoints.clear()
        self.session = Session(self.engine)

    @invariant()
    def the_events_make_the_rows(self) -> None:
        if getattr(self, "session", None) is None or self.session.in_transaction():
            return
        events = read(self.engine)
        orders = replay(
            [
                OrderChanged.model_validate_json(event.data)
                for event in events
                if event.type == "shop.order.changed"
            ]
        )
        lines = replay(
            [
                LineChanged.model_validate_json(event.data)
                for event in events
                if event.type == "shop.line.changed"
            ]
        )
        with Session(self.engine) as session:
            assert orders == {
                (order.id,): {name: getattr(order, name) for name in FIELDS}
                for order in session.scalars(sa.select(Order))
            }
            assert lines == {
                (line.order_id, line.number): {name: getattr(line, name) for name in LINE_FIELDS}
                for line in session.scalars(sa.select(Line))
            }

    def teardown(self) -> None:
        if getattr(self, "session", None) is not None:
            self.session.close()
            self.the_events_make_the_rows()


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    found: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    Base.metadata.create_all(found)
    with Session(found) as session, session.begin():
        session.add_all([Customer(id=1, name="Ada"), Customer(id=2, name="Bo")])
    return found


def test_the_events_of_any_history_make_the_rows(engine: sa.Engine) -> None:
    few = 60 if engine.dialect.name == "sqlite" else 25
    run_state_machine_as_test(
        type("OfEngine", (History,), {"engine": engine}),
        settings=settings(
            max_examples=500 if FULL else few,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
