"""What to try next with a batch whose handlers may fail: decisions alone, no I/O.

A batch is tried in one transaction. When that fails it is tried again in smaller parts, in
order, until the event at fault stands alone; that one is tried again after a back-off, and at
last given up. Every other event is handled as if it had not been there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar, assert_never

from outbox.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

T = TypeVar("T")

MAX_CONFLICTS: Final = 5
"""How often a transaction that lost a lock or a race is tried again at once."""


class Task(NamedTuple, Generic[T]):
    """One item of a batch and how it has fared."""

    item: T
    failure_count: int = 0
    error: Exception | None = None
    """The last failure."""
    is_given_up: bool = False
    """It is to be recorded as a dead letter instead of being handled."""


_task: Final[Any] = partial(tuple.__new__, Task)
"""Makes one in C, which a named tuple's own constructor does not."""


@dataclass(frozen=True, slots=True)
class Try(Generic[T]):
    """Settle these in one transaction, in this order; answer with an `Outcome`."""

    tasks: Sequence[Task[T]]


@dataclass(frozen=True, slots=True)
class Pause:
    """Back off before the next attempt."""

    count: int
    """How many have failed in a row."""


Step = Try[T] | Pause


@dataclass(frozen=True, slots=True)
class Done:
    """The transaction has committed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A handler, or the database because of what a handler wrote, raised; all is rolled back."""

    error: Exception
    suspect: int | None
    """Index of the task whose handler raised; None where it was the flush or the commit."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A deadlock, a lost race or a lock that took too long; all is rolled back."""

    error: Exception
    suspect: int | None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The database does not answer: no event's fault."""

    error: Exception


Outcome = Done | Fault | Conflict | Unavailable
"""What became of one transaction; a closed sum."""

DONE: Final = Done()


def plan(items: Sequence[T], max_attempts: int) -> Generator[Step[T], Outcome | None, None]:
    """Say step by step how to settle a batch; send the outcome of each `Try`.

    Every item is settled in exactly one committed transaction, in the order of the batch. An
    outage is waited out for as long as it lasts. Raises the error where a dead letter cannot be
    recorded: going on would lose it.
    """
    # A stack, so that the parts of a part come before what follows it.
    parts: list[Sequence[Task[T]]] = (
        [[_task((item, 0, None, False)) for item in items]] if items else []
    )
    while parts:
        part = parts.pop()
        first = part[0]
        if first.error is not None and not first.is_given_up:
            yield Pause(first.failure_count)
        fault = yield from _try(part)
        if fault is not None:
            parts += reversed(split(part, fault, max_attempts))


def _try(part: Sequence[Task[T]]) -> Generator[Step[T], Outcome | None, Fault | None]:
    """Try one part until it commits, or return the fault that prevents it."""
    outage_count = conflict_count = 0
    while True:
        outcome = yield Try(part)
        match outcome:
            case Done():
                return None
            case Unavailable():
                outage_count += 1
                yield Pause(outage_count)
            case Conflict(error, suspect):
                conflict_count += 1
                if conflict_count > MAX_CONFLICTS:
                    return Fault(error, suspect)
            case Fault():
                return outcome
            case None:
                raise RuntimeError("a Try is answered with its outcome")
            case _:
                assert_never(outcome)


def split(part: Sequence[Task[T]], fault: Fault, max_attempts: int) -> list[Sequence[Task[T]]]:
    """Divide a part that failed into smaller ones, in order, until the culprit stands alone.

    A suspect behind others is not known to be the culprit: its query may have flushed what an
    earlier handler wrote. So its attempts are up only once it failed at the front of a part; but
    `PermanentError` comes from a handler, not from a flush. Each part is smaller than the last
    one, or has one attempt less before it.
    """
    at = 0 if len(part) == 1 else fault.suspect
    if at is None:
        middle = len(part) // 2
        return [part[:middle], part[middle:]]
    if part[at].is_given_up:
        raise fault.error
    failure_count = part[at].failure_count + 1
    is_permanent = isinstance(fault.error, PermanentError)
    before, after = part[:at], part[at + 1 :]
    if failure_count >= max_attempts and before and not is_permanent:
        return [before, part[at:]]
    is_given_up = is_permanent or failure_count >= max_attempts
    failed = part[at]._replace(
        failure_count=failure_count, error=fault.error, is_given_up=is_given_up
    )
    parts = [before, [failed, *after]] if is_given_up else [before, [failed], after]
    return [each for each in parts if each]
