"""Tries a consumer's requested and parked dead letters again, in the order of their key."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from outbox import dead_letter, inbox
from outbox.batch import Conflict, Done, Fault, Pause, Unavailable
from outbox.envelope import Envelope
from outbox.errors import PermanentError
from outbox.opening import opener
from outbox.reading import decode, identity
from outbox.settlement import Counts, log_outage, reason, withheld
from outbox.transaction import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from sqlalchemy.orm import Session

    from outbox.batch import Outcome
    from outbox.consumer import Consumer
    from outbox.dead_letter import Letter
    from outbox.settlement import Step

logger = logging.getLogger(__name__)

MAX_LETTERS: Final = 100
"""Letters tried again before the worker looks at the broker once more."""


def replay(
    consumer: Consumer,
    max_attempts: int,
    report: Callable[[Counts], None],
    unpack: Callable[[Envelope], Envelope],
) -> Generator[Step, Outcome | None, None]:
    """Yield the transactions and pauses that try the letters that are ready.

    A letter is locked while its handlers run, and resolved in their transaction: two workers
    never run the same one. One that fails for the last time is dead again, with its new reason.
    """
    failure_counts: dict[int, int] = {}
    outage_count = 0
    for _ in range(MAX_LETTERS):
        attempt = LetterAttempt(consumer, failure_counts, unpack)
        outcome = yield attempt
        match outcome:
            case Done():
                outage_count = 0
                report(attempt.counts)
                if attempt.letter is None:
                    return
            case Unavailable(error):
                outage_count += 1
                log_outage(consumer.name, error)
                yield Pause(outage_count)
            case Fault(error) | Conflict(error):
                if attempt.letter is None:
                    raise error
                yield from _fail(consumer, attempt.letter, error, failure_counts, max_attempts)
            case None:
                raise RuntimeError("a transaction is answered with its outcome")


def _fail(
    consumer: Consumer,
    letter: Letter,
    error: Exception,
    failure_counts: dict[int, int],
    max_attempts: int,
) -> Generator[Step, Outcome | None, None]:
    """Wait before the next attempt at a letter, or make it dead again."""
    count = failure_counts[letter.id] = failure_counts.get(letter.id, 0) + 1
    logger.warning(
        "a dead letter failed again",
        exc_info=withheld(error, [letter.content]),
        extra={"consumer": consumer.name, "letter": letter.id, "attempt": count},
    )
    if count < max_attempts and not isinstance(error, PermanentError):
        yield Pause(count)
        return
    outage_count = 0
    while (outcome := (yield Closing(letter, error))) != Done():
        if isinstance(outcome, Fault):
            raise outcome.error
        outage_count += 1
        yield Pause(outage_count)


class LetterAttempt:
    """One transaction that handles the first letter that is ready, and resolves it."""

    def __init__(
        self,
        consumer: Consumer,
        failure_counts: dict[int, int],
        unpack: Callable[[Envelope], Envelope],
    ) -> None:
        """Take how often each letter has failed in this round, and what makes JSON of its data."""
        self.counts = Counts()
        self.letter: Letter | None = None
        """The letter that it works at; None where none is ready."""
        self._consumer = consumer
        self._failure_counts = failure_counts
        self._unpack = unpack

    def prepare(self, session: Session) -> Sequence[Job]:
        """Lock and resolve the letter; return its event, unless the inbox knows it."""
        connection = session.connection()
        name = self._consumer.name
        self.letter = letter = dead_letter.take(connection, "consumer", name)
        if letter is None:
            return []
        content = letter.content
        envelope = content if isinstance(content, Envelope) else decode(content)
        is_new = bool(inbox.claim(connection, name, [identity(envelope)]))
        if letter.envelope is None and not is_new:
            self.counts = Counts(duplicate=1)
            dead_letter.resolve(connection, [letter.id])
            return []
        if envelope.type not in self._consumer.handlers:
            raise PermanentError(f"consumer {name!r} has no handler for {envelope.type}")
        envelope = self._unpack(envelope)
        calls = self._consumer.handlers.load(opener([envelope])(envelope))
        dead_letter.resolve(connection, [letter.id])
        self.counts = Counts(handled=1)
        return [Job(0, envelope, calls, 1 + self._failure_counts.get(letter.id, 0))]


class Closing:
    """One transaction that makes a letter dead again."""

    def __init__(self, letter: Letter, error: Exception) -> None:
        """Take why."""
        self._letter = letter
        self._reason = reason(error, letter.content)

    def prepare(self, session: Session) -> Sequence[Job]:
        """Write the reason; nothing is left to be handled."""
        dead_letter.fail_again(session.connection(), self._letter.id, self._reason)
        return []
