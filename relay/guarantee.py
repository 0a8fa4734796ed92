"""The two guarantees that events are published with: at least once, or exactly once.

    at least once   publish ─▶ the position is stored soon, in the database
    exactly once    events and progress, in one transaction of the broker ─▶ the same

With the second, a term begins with the progress that the one before recorded at the broker: it
says what the stored position does not know yet.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from outbox.errors import DatabaseUnavailableError, InDoubtError, LeaseLostError, TransientError
from outbox.transport import PUBLISHED, Retry, TransactionalPublisher
from relay.progress import Aside, Progress, read_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.rows import Rows
    from outbox.transport import Outcome, Publisher
    from relay.capture import Position
    from relay.checkpoint import Checkpoint
    from relay.stall import Stall

log = logging.getLogger(__name__)


class Guarantee(Protocol):
    """Publishes the events of one term."""

    def take_over(self) -> Progress | None:
        """Begin; return what the term before recorded at the broker, where the broker does so."""
        ...

    def publish(
        self,
        events: Rows,
        position: Position,
        aside: Sequence[Aside] = (),
        letters: Sequence[int] = (),
    ) -> Sequence[Outcome]:
        """Publish events; once all are published, the route is at `position`.

        Unless `aside` events of the same pages have no dead letters yet, and unless the `letters`
        that these events come from are not marked as published yet: what is recorded at the
        broker says so.
        """
        ...


def guarantee_of(
    publisher: Publisher, identity: str, checkpoint: Checkpoint, stall: Stall
) -> Guarantee:
    """Choose the one that a publisher is made for."""
    if isinstance(publisher, TransactionalPublisher):
        return ExactlyOnce(publisher, identity, checkpoint, stall)
    return AtLeastOnce(publisher)


class AtLeastOnce:
    """The position is stored after the events: a relay that is killed in between sends again."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def take_over(self) -> Progress | None:
        """Return nothing: the stored position is all that there is."""
        return None

    def publish(
        self,
        events: Rows,
        position: Position,
        aside: Sequence[Aside] = (),
        letters: Sequence[int] = (),
    ) -> Sequence[Outcome]:
        """See `Guarantee.publish`."""
        del position, aside, letters
        return self._publisher.publish(events)


class ExactlyOnce:
    """Events and progress become visible together."""

    def __init__(
        self,
        publisher: TransactionalPublisher,
        identity: str,
        checkpoint: Checkpoint,
        stall: Stall,
    ) -> None:
        """`stall` waits while the broker does not answer, or raises to give up."""
        self._publisher = publisher
        self._identity = identity
        self._checkpoint = checkpoint
        self._stall = stall

    def take_over(self) -> Progress | None:
        """Turn away every relay that published before; return what it recorded last."""
        stored = self._take_over()
        return None if stored is None else read_progress(stored)

    def publish(
        self,
        events: Rows,
        position: Position,
        aside: Sequence[Aside] = (),
        letters: Sequence[int] = (),
    ) -> Sequence[Outcome]:
        """See `Guarantee.publish`; either all outcomes are `Published`, or none is."""
        mark = self._checkpoint.next_mark()
        progress = Progress(mark, position.to_json(), tuple(aside), tuple(letters)).to_bytes()
        try:
            outcomes = self._publisher.publish_with(events, progress)
        except InDoubtError as doubt:
            outcomes = self._settle_doubt(doubt, progress, len(events))
        if outcomes.count(PUBLISHED) == len(outcomes):
            self._checkpoint.reached(mark)
        return outcomes

    def _settle_doubt(self, doubt: InDoubtError, progress: bytes, count: int) -> Sequence[Outcome]:
        """Find out whether a transaction was committed, if this relay still has the lease."""
        log.warning("a transaction is in doubt", extra={"error": str(doubt)})
        while True:
            try:
                # Another relay may have taken the route over: then the term ends here.
                self._checkpoint.store()
                break
            except LeaseLostError:
                raise
            except DatabaseUnavailableError as exc:
                self._stall.wait(exc)
        is_committed = self._take_over() == progress
        return [PUBLISHED if is_committed else Retry(doubt)] * count

    def _take_over(self) -> bytes | None:
        while True:
            try:
                stored = self._publisher.take_over(self._identity)
            except TransientError as exc:
                self._stall.wait(exc)
            else:
                self._stall.over()
                return stored
