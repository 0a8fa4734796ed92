"""Settles a batch: each event is handled, parked, made a dead letter or known already."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import sqlalchemy as sa

from outbox import dead_letter, inbox
from outbox.batch import DONE, Conflict, Fault, Pause, Try, Unavailable, plan
from outbox.dead_letter import Failure
from outbox.envelope import Envelope
from outbox.errors import DatabaseUnavailableError, DecodeError, MisfitError, PermanentError
from outbox.opening import opener
from outbox.sealing import has_tokens
from outbox.transaction import Job, job_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from sqlalchemy.orm import Session

    from outbox.batch import Outcome, Task
    from outbox.consumer import Consumer
    from outbox.handlers import Call
    from outbox.reading import Received
    from outbox.transport import Message

logger = logging.getLogger(__name__)

PARKED: Final = "parked behind a dead letter of its key"
UNTOLD: Final = "its text is not kept, because the event has personal data"


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of events; each is counted once its transaction has committed."""

    handled: int = 0
    duplicate: int = 0
    """Already in the inbox: nothing was done."""
    skipped: int = 0
    """Of a type that the consumer has no handler for."""
    parked: int = 0
    dead: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.handled + other.handled,
            self.duplicate + other.duplicate,
            self.skipped + other.skipped,
            self.parked + other.parked,
            self.dead + other.dead,
        )


class Transaction(Protocol):
    """What a step does before its handlers run."""

    def prepare(self, session: Session, /) -> Sequence[Job]:
        """Return what is to be handled in the same transaction."""
        ...


Step = Transaction | Pause


def settle(
    consumer: Consumer,
    batch: Sequence[Received],
    max_attempts: int,
    report: Callable[[Counts], None],
) -> Generator[Step, Outcome | None, None]:
    """Yield the transactions and pauses that settle a batch; send the outcome of each.

    Events without a handler are skipped: they leave no inbox row, so that a handler of a later
    release can still have them replayed.
    """
    types = frozenset(consumer.handlers.types)
    wanted = [
        received
        for received in batch
        if not isinstance(received.content, Envelope) or received.content.type in types
    ]
    report(Counts(skipped=len(batch) - len(wanted)))
    steps = plan(wanted, max_attempts)
    step = next(steps, None)
    while step is not None:
        outcome: Outcome | None = None
        if isinstance(step, Try):
            outcome = yield from _try(consumer, step.tasks, report)
        else:
            yield step
        try:
            step = steps.send(outcome)
        except StopIteration:
            return


def _try(
    consumer: Consumer, tasks: Sequence[Task[Received]], report: Callable[[Counts], None]
) -> Generator[Step, Outcome | None, Outcome | None]:
    """Yield the transaction of some events; once more where one of them was known already."""
    outcome: Outcome | None
    try:
        settlement = Settlement(consumer, tasks)
    except DatabaseUnavailableError as exc:  # the one that has the keys of personal data
        outcome = Unavailable(exc)
    else:
        outcome = yield settlement
        if settlement.has_met_known and outcome != DONE:
            outcome = yield settlement
        if outcome == DONE:
            report(settlement.counts)
            log_letters(consumer.name, settlement.failures)
            return outcome
    log_failure(consumer.name, outcome, tasks)
    return outcome


class Settlement:
    """One transaction over a part of a batch."""

    def __init__(self, consumer: Consumer, tasks: Sequence[Task[Received]]) -> None:
        """Parse the events, before any connection is held.

        Raises `DatabaseUnavailableError` where the keys of their personal data cannot be had now.
        """
        self.counts = Counts()
        """What the transaction does, should it commit."""
        self.failures: Sequence[Failure] = []
        self.has_met_known = False
        """The claim failed, because one of the events was there; it can be prepared once more."""
        self._consumer = consumer
        self._tasks = tasks
        self._ids = [task.item.identity for task in tasks]
        contents = (task.item.content for task in tasks)
        open_ = opener(each for each in contents if isinstance(each, Envelope))
        load = consumer.handlers.load
        self._loaded = [_load(load, open_, index, task) for index, task in enumerate(tasks)]
        """For each task what is to be called, or why it is to be a dead letter."""

    def prepare(self, session: Session) -> Sequence[Job]:
        """Claim the events and record the dead letters; return what is left to be handled."""
        connection = session.connection()
        fresh, blocked = self._claim(connection)
        jobs, failures = self._sort(fresh, blocked)
        self.failures = failures
        dead_letter.record(connection, "consumer", self._consumer.name, failures)
        parked = sum(failure.status == "parked" for failure in failures)
        self.counts = Counts(
            handled=len(jobs),
            duplicate=len(self._tasks) - len(jobs) - len(failures),
            parked=parked,
            dead=len(failures) - parked,
        )
        return jobs

    def _claim(self, connection: sa.Connection) -> tuple[set[inbox.EventId], set[str]]:
        """Return which events are new, and the keys that have an unresolved letter.

        The letters are looked for by a statement that does not begin before the claim: whoever had
        claimed one of the events before has committed its letters by then, or this claim fails.
        """
        name = self._consumer.name
        ids = set(self._ids)
        if self.has_met_known or connection.dialect.name != "postgresql":
            ids = inbox.claim(connection, name, ids)
            if not dead_letter.any_unresolved(connection, "consumer", name):
                return ids, set()
        else:
            try:
                if inbox.claim_new(connection, name, ids, is_without_letters=True):
                    return ids, set()
                inbox.claim_new(connection, name, ids)
            except sa.exc.IntegrityError:
                self.has_met_known = True
                raise
        contents = [task.item.content for task in self._tasks]
        envelopes = [each for each in contents if isinstance(each, Envelope)]
        keys = {each.partition_key for each in envelopes if each.partition_key is not None}
        return ids, dead_letter.blocked_keys(connection, "consumer", name, keys)

    def _sort(
        self, fresh: set[inbox.EventId], blocked: set[str]
    ) -> tuple[list[Job], list[Failure]]:
        """Decide for each task: nothing, a job, or a letter that blocks its key from here on."""
        jobs = [loaded for loaded in self._loaded if isinstance(loaded, Job)]
        if not blocked and len(jobs) == len(fresh) == len(self._tasks):
            return jobs, []
        jobs = []
        failures: list[Failure] = []
        for task, loaded in zip(self._tasks, self._loaded, strict=True):
            content, place, event_id, _ = task.item
            if event_id not in fresh:
                continue
            fresh.discard(event_id)  # the second of two in one batch is a duplicate
            key = content.partition_key if isinstance(content, Envelope) else None
            if key in blocked:
                failures.append(Failure(content, PARKED, "parked", 0, place))
            elif isinstance(loaded, Job):
                jobs.append(loaded)
            else:
                attempts = max(1, task.failure_count)
                failures.append(Failure(content, reason(loaded, content), "dead", attempts, place))
                if key is not None:
                    blocked.add(key)
        return jobs, failures


def _load(
    load: Callable[[Envelope], Sequence[Call]],
    open_: Callable[[Envelope], Envelope],
    index: int,
    task: Task[Received],
) -> Job | Exception:
    """Parse a task's event for its handlers, or say why it is to be a dead letter."""
    received, failure_count, error, is_given_up = task
    content = received.content
    if is_given_up and error is not None:
        return error
    if received.error is not None:
        return received.error
    if not isinstance(content, Envelope):
        return DecodeError("the message is no event")
    try:
        return job_of((index, content, load(open_(content)), failure_count + 1))
    except PermanentError as exc:
        return exc


class WithheldError(Exception):
    """Stands for a handler's error whose text may quote personal data; its traceback does not."""


def withheld(error: Exception, contents: Iterable[Envelope | Message]) -> Exception:
    """Return what may be told of an error: of an event with personal data, no handler's text."""
    if not any(has_tokens(content.data) for content in contents):
        return error
    text = error.without_values if isinstance(error, MisfitError) else UNTOLD
    made = WithheldError(f"{type(error).__name__}: {text}")
    return made.with_traceback(error.__traceback__)


def reason(error: Exception, content: Envelope | Message | None = None) -> str:
    """Say in one line's sense why an event is a dead letter; the traceback is for the log."""
    error = error if content is None else withheld(error, [content])
    own = isinstance(error, WithheldError)
    text = f"{error}" if own else f"{type(error).__name__}: {error}"
    # Half of a surrogate pair is no text that a database takes.
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


def log_failure(consumer: str, outcome: Outcome | None, tasks: Sequence[Task[Received]]) -> None:
    """Log why a transaction did not commit."""
    if isinstance(outcome, Unavailable):
        log_outage(consumer, outcome.error)
    if isinstance(outcome, Fault | Conflict):
        facts: dict[str, object] = {"consumer": consumer, "event_count": len(tasks)}
        at = 0 if len(tasks) == 1 else outcome.suspect
        if at is not None:
            facts |= {
                "event_id": tasks[at].item.name,
                "place": tasks[at].item.place,
                "attempt": tasks[at].failure_count + 1,
            }
        error = withheld(outcome.error, [task.item.content for task in tasks])
        logger.warning("a handler's transaction failed", exc_info=error, extra=facts)


def log_outage(consumer: str, error: Exception) -> None:
    """Log that a database, of the consumer or of the keys, does not let it go on now."""
    facts = {"consumer": consumer, "error": reason(getattr(error, "orig", None) or error)}
    if isinstance(error, DatabaseUnavailableError):
        logger.warning("the keys of personal data cannot be had; waiting", extra=facts)
    else:
        logger.warning("the database does not take the transaction; waiting", extra=facts)


def log_letters(consumer: str, failures: Sequence[Failure]) -> None:
    """Log the dead letters that a transaction has recorded."""
    for failure in failures:
        if failure.status == "dead":
            facts = {"consumer": consumer, "place": failure.place, "reason": failure.reason}
            logger.error("an event became a dead letter", extra=facts)
