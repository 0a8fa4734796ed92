"""An application for the acceptance test: counters that are raised under a row lock.

The n-th raise of a counter commits together with the event "counter k is now n". So the events
that have to arrive are known from the counters alone: 1 to n for each, in this order, no others.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import outbox

COUNTER_COUNT = 100


class Base(DeclarativeBase):
    """Tables of the application."""


class Counter(Base):
    """The aggregate."""

    __tablename__ = "counter"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(default=0)


class Effect(Base):
    """What the consumer did, in the order in which it did it."""

    __tablename__ = "effect"
    id: Mapped[int] = mapped_column(primary_key=True)
    counter_id: Mapped[int]
    value: Mapped[int]


@outbox.event("counting.counter.raised", key="counter_id")
class CounterRaised(BaseModel):
    """A counter has a new value."""

    counter_id: int
    value: int


engine = sa.create_engine(os.environ.get("COUNTING_DATABASE_URL", "sqlite://"))
consumer = outbox.Consumer("counting", database=engine)


@consumer.on(CounterRaised)
def note(event: CounterRaised, context: outbox.Context) -> None:
    """Write the effect down."""
    context.session.add(Effect(counter_id=event.counter_id, value=event.value))


def raise_counter(session: Session, counter_id: int) -> None:
    """Raise one counter under its row lock; the event is emitted before the flush."""
    counter = session.get_one(Counter, counter_id, with_for_update=True)
    counter.value += 1
    outbox.emit(session, CounterRaised(counter_id=counter_id, value=counter.value))


def work(session: Session, dice: random.Random) -> int:
    """Raise one to four counters, some in savepoints that roll back; return how many stay."""
    raised = 0
    # One order of locks for everyone, so that writers do not deadlock.
    for counter_id in sorted(dice.sample(range(1, COUNTER_COUNT + 1), dice.randint(1, 4))):
        if dice.random() < 0.1:
            savepoint = session.begin_nested()
            raise_counter(session, counter_id)
            savepoint.rollback()
        else:
            raise_counter(session, counter_id)
            raised += 1
    return raised


def write(event_count: int, rate: float, end: Path, seed: int) -> None:
    """Commit events until there are enough and a file says so; roll a tenth back."""
    dice = random.Random(seed)
    committed = 0
    while committed < event_count or not end.exists():
        with Session(engine) as session:
            raised = work(session, dice)
            if dice.random() < 0.1:
                session.rollback()
            else:
                session.commit()
                committed += raised
        time.sleep(dice.expovariate(rate))


if __name__ == "__main__":
    write(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
