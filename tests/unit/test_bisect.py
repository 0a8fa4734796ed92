"""What is tried next with a batch whose handlers may fail."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.batch import (
    DONE,
    MAX_CONFLICTS,
    Conflict,
    Fault,
    Outcome,
    Pause,
    Task,
    Try,
    Unavailable,
    plan,
    split,
)
from outbox.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_ATTEMPTS = 3


@dataclass
class World:
    """A database that knows which items fail, how often, and who is blamed for it."""

    fails: dict[int, bool] = field(default_factory=dict)
    """Items that fail at each attempt; True where they say that it is permanent."""
    is_seen_late: frozenset[int] = frozenset()
    """Items whose fault only the commit shows."""
    blames: frozenset[int] = frozenset()
    """Items whose query brings up the fault of an earlier one."""
    trouble: list[str] = field(default_factory=list)
    """What goes wrong in the next transactions, whatever is in them."""
    settled: list[int] = field(default_factory=list)
    dead: dict[int, int] = field(default_factory=dict)
    tries: list[list[int]] = field(default_factory=list)
    pauses: list[int] = field(default_factory=list)

    def run(self, items: Sequence[int]) -> World:
        steps = plan(items, MAX_ATTEMPTS)
        step = next(steps, None)
        while step is not None:
            outcome = None
            if isinstance(step, Pause):
                self.pauses.append(step.count)
            else:
                outcome = self.transact(step.tasks)
            try:
                step = steps.send(outcome)
            except StopIteration:
                break
        return self

    def transact(self, tasks: Sequence[Task[int]]) -> Outcome:
        self.tries.append([task.item for task in tasks])
        if self.trouble and (kind := self.trouble.pop()) != "none":
            return Unavailable(OSError()) if kind == "outage" else Conflict(OSError(), None)
        pending: int | None = None
        for index, task in enumerate(tasks):
            if task.is_given_up:
                continue
            if task.item in self.blames and pending is not None:
                return Fault(ValueError(), index)  # the database's error, whoever caused it
            if task.item in self.fails:
                if task.item not in self.is_seen_late:
                    return self.fail(task.item, index)
                pending = task.item
        if pending is not None:
            return self.fail(pending, None)
        self.settled += [task.item for task in tasks]
        self.dead |= {task.item: task.failure_count for task in tasks if task.is_given_up}
        return DONE

    def fail(self, item: int, suspect: int | None) -> Outcome:
        if self.fails[item]:
            return Fault(PermanentError(), suspect)
        return Fault(ValueError(), suspect)


items_of = st.integers(0, 40)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    return World(
        fails=draw(st.dictionaries(items_of, st.booleans(), max_size=6)),
        is_seen_late=draw(st.frozensets(items_of)),
        blames=draw(st.frozensets(items_of, max_size=6)),
        trouble=draw(st.lists(st.sampled_from(["none", "outage", "conflict"]), max_size=12)),
    )


@given(worlds(), st.integers(0, 41))
def test_each_item_is_settled_once_in_order_and_only_the_poison_is_dead(
    world: World, count: int
) -> None:
    world.run(range(count))
    assert world.settled == list(range(count))
    poison = {item for item in world.fails if item < count}
    assert poison <= set(world.dead)


@given(worlds(), st.integers(0, 41))
def test_a_suspect_that_is_innocent_is_never_given_up(world: World, count: int) -> None:
    world.trouble = []
    world.run(range(count))
    assert set(world.dead) == {item for item in world.fails if item < count}


@given(st.integers(1, 500), st.data())
def test_one_poison_costs_few_transactions(count: int, data: st.DataObject) -> None:
    poison = data.draw(st.integers(0, count - 1))
    named = World(fails={poison: True}).run(range(count))
    assert len(named.tries) <= 3
    unnamed = World(fails={poison: True}, is_seen_late=frozenset({poison})).run(range(count))
    assert len(unnamed.tries) <= 2 * count.bit_length() + 2


def test_attempts_are_counted_and_waited_for() -> None:
    world = World(fails={1: False}).run(range(3))
    assert world.dead == {1: MAX_ATTEMPTS}
    assert world.pauses == [1, 2]
    assert world.tries == [[0, 1, 2], [0], [1], [1], [1], [2]]


def test_a_permanent_failure_is_neither_waited_for_nor_tried_again() -> None:
    world = World(fails={1: True}).run(range(3))
    assert (world.dead, world.pauses) == ({1: 1}, [])
    assert world.tries == [[0, 1, 2], [0], [1, 2]]


def test_a_suspect_behind_the_culprit_is_not_given_up_with_a_single_attempt() -> None:
    world = World(fails={0: False}, is_seen_late=frozenset({0}), blames=frozenset({1}))
    steps = plan([0, 1], max_attempts=1)
    step = next(steps)
    with contextlib.suppress(StopIteration):
        while True:
            step = steps.send(world.transact(step.tasks) if isinstance(step, Try) else None)
    assert (world.settled, set(world.dead)) == ([0, 1], {0})


def test_an_outage_burns_no_attempt_however_long_it_lasts() -> None:
    world = World(trouble=["outage"] * 100).run(range(3))
    assert world.dead == {}
    assert world.pauses == list(range(1, 101))
    assert world.settled == [0, 1, 2]


def test_a_conflict_is_tried_again_at_once_and_not_for_ever() -> None:
    world = World(trouble=["conflict"] * MAX_CONFLICTS).run([7])
    assert (world.dead, world.pauses) == ({}, [])
    steps = plan([7], MAX_ATTEMPTS)
    next(steps)
    seen = [steps.send(Conflict(OSError(), 0)) for _ in range(MAX_CONFLICTS + 1)]
    assert seen == [Try([Task(7)])] * MAX_CONFLICTS + [Pause(1)]


def test_a_letter_that_cannot_be_recorded_stops_the_plan() -> None:
    given_up = Task(1, failure_count=3, is_given_up=True)
    with pytest.raises(OSError, match="disk"):
        split([given_up], Fault(OSError("disk"), None), MAX_ATTEMPTS)


def test_no_items_need_no_transaction() -> None:
    assert World().run([]).tries == []
