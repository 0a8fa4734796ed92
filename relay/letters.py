"""Dead letters of a route: which keys they block, and publishing them again when asked."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from outbox import dead_letter
from outbox.errors import DatabaseUnavailableError
from relay import plan
from relay.database import statement, transaction
from relay.stall import TELL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    import sqlalchemy as sa

    from outbox.dead_letter import Letter
    from outbox.envelope import Envelope
    from outbox.transport import Outcome

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""The shortest time between two looks for letters to publish again."""
LOOK_SHARE: Final = 10
"""A look that takes long is followed by a pause so many times as long."""

NOTHING: Final = plan.Replayed((), (), None)


class Letters:
    """The letters of one route, for one term."""

    def __init__(
        self,
        engine: sa.Engine,
        route: str,
        limit: Callable[[], int],
        publish: Callable[[Sequence[Envelope], Sequence[int]], Sequence[Outcome]],
        guarded: Callable[[], AbstractContextManager[sa.Connection]],
    ) -> None:
        """Publish at most `limit()` at once; `guarded` opens a transaction of the lease's holder.

        `publish` takes the events, and the ids of the letters that they come from.
        """
        self.blocked: set[bytes] = set()
        """Keys whose events have to wait behind a letter."""
        self.published: tuple[int, ...] = ()
        """Letters whose events were published, although the database does not say so yet."""
        self._engine = engine
        self._route = route
        self._limit = limit
        self._publish = publish
        self._guarded = guarded
        self._next_look = time.monotonic()
        self._told_at: float | None = None
        """When it was logged last that the database is away."""

    @property
    def seconds_to_look(self) -> float:
        """How long it is until the next look is due."""
        return max(0.0, self._next_look - time.monotonic())

    def look_if_due(self) -> plan.Replayed:
        """Publish what is to be tried again, at most once a second while that leads nowhere."""
        if self.seconds_to_look > 0:
            return NOTHING
        try:
            result = self.look()
        except DatabaseUnavailableError as exc:
            now = time.monotonic()
            if self._told_at is None or now - self._told_at >= TELL_SECONDS:
                self._told_at = now
                facts = {"route": self._route, "error": str(exc)}
                log.warning("dead letters cannot be read now", extra=facts)
            self._next_look = now + LOOK_SECONDS
            return NOTHING
        self._told_at = None
        return result

    def look(self) -> plan.Replayed:
        """Learn which keys are blocked, and publish the letters that are to be tried again.

        They are published in the order of their keys and before any further row of these. The
        result is written under the lease: a relay that lost it changes no letter.
        """
        started = time.monotonic()
        if self.published:
            self._mark(plan.Replayed(self.published, (), None))
        ready = self._load()
        pause = max(LOOK_SECONDS, LOOK_SHARE * (time.monotonic() - started))
        result = self._replay(ready) if ready else NOTHING
        self._next_look = time.monotonic() + (0.0 if result.has_progressed else pause)
        return result

    def _load(self) -> Sequence[Letter]:
        with statement(self._engine) as connection:
            has_any = dead_letter.any_unresolved(connection, "relay", self._route)
        if not has_any:
            self.blocked = set()
            return []
        with transaction(self._engine) as connection:
            self.blocked = self._blocked_keys(connection)
            return dead_letter.ready(
                connection, "relay", self._route, self._limit(), heads_only=False
            )

    def _replay(self, letters: Sequence[Letter]) -> plan.Replayed:
        ids = [letter.id for letter in letters]
        outcomes = self._publish([_again(letter) for letter in letters], ids)
        result = plan.replayed(letters, outcomes)
        self.published = result.resolved
        self._mark(result)
        facts = {
            "route": self._route,
            "published": len(result.resolved),
            "dead": len(result.failed),
        }
        if result.error is not None:
            facts["error"] = str(result.error)
        log.info("dead letters were tried again", extra=facts)
        return result

    def _mark(self, result: plan.Replayed) -> None:
        """Write what became of letters."""
        with self._guarded() as connection:
            dead_letter.resolve(connection, result.resolved)
            for number, reason in result.failed:
                dead_letter.fail_again(connection, number, reason)
            self.blocked = self._blocked_keys(connection)
        self.published = ()

    def _blocked_keys(self, connection: sa.Connection) -> set[bytes]:
        keys = dead_letter.blocked_keys(connection, "relay", self._route)
        return {key.encode() for key in keys}


def _again(letter: Letter) -> Envelope:
    if letter.envelope is None:
        msg = f"letter {letter.id} of route {letter.owner} holds no event"
        raise TypeError(msg)
    return letter.envelope
