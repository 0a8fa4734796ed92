"""One term: what a route does while it holds the lease.

    reader ──pages──▶ publisher ──positions──▶ keeper

Three threads, one of which may end the term: the lease is lost, the server was replaced, a
setting is wrong, an operator stops the relay. Then the publish that is under way is finished, and
what is settled is stored.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from outbox import formats
from outbox.dead_letter import Failure
from outbox.errors import (
    CaptureRestartedError,
    DatabaseUnavailableError,
    HeldBackError,
    LeaseLostError,
    OutboxError,
)
from outbox.rows import Rows
from outbox.transport import Retry
from outbox.transports import transport_of
from relay import plan
from relay.capture import open_capture
from relay.checkpoint import Checkpoint
from relay.filter import EventFilter
from relay.group import group
from relay.guarantee import guarantee_of
from relay.letters import Letters
from relay.progress import Aside
from relay.reader import PageQueue, Reader
from relay.recovery import resume
from relay.stall import Stall, TermOverError
from relay.start import starting_position

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import sqlalchemy as sa

    from outbox.envelope import Envelope
    from outbox.settings import RouteSettings
    from outbox.transport import Outcome, Publisher
    from relay.capture import Capture, Page, Position
    from relay.group import Group
    from relay.lease import Grant, Trust
    from relay.stall import Patience

log = logging.getLogger(__name__)

PUBLISH_SHARE: Final = 0.4
"""The part of a lease that one publish may take."""
SLACK_SHARE: Final = 0.1
"""The part of a lease that has to be left over after it."""
PASSING: Final = (LeaseLostError, CaptureRestartedError, DatabaseUnavailableError)
"""What ends a term and is no fault of the route."""
MAX_PORTION: Final = 50_000
"""Events that a round publishes at most; no page is larger."""
LETTERS_SECONDS: Final = 0.05
"""How long a route rests after it wrote letters, so that a flood of them is few transactions."""
TRUST_SECONDS: Final = 0.02
"""How often a publisher that may not act looks whether it may again."""


@dataclass(slots=True)
class Counts:
    """What one route did since it was started."""

    published: int = 0
    parked: int = 0
    dead: int = 0


class Term:
    """The time from one lease to its end."""

    def __init__(
        self,
        engine: sa.Engine,
        settings: RouteSettings,
        source: str,
        grant: Grant,
        trust: Trust,
        patience: Patience,
        counts: Counts,
        is_enough: Callable[[Page], bool],
    ) -> None:
        """Begin with a granted lease; `is_enough` says which page is the last one to be read."""
        self._engine = engine
        self._settings = settings
        self._source = source
        self._route = grant.route
        self._patience = patience
        self._counts = counts
        self._is_enough = is_enough
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._is_done = False
        self._trust = trust
        self._checkpoint = Checkpoint(
            engine, grant, settings.lease_seconds, trust, on_failure=self._fail
        )
        self._queue = PageQueue()
        self._filter = EventFilter(settings.types, settings.where)
        self._stall = self._new_stall(self._report)
        self._reader: Reader | None = None
        self._portion = MAX_PORTION

    def ring(self) -> None:
        """Let an idle reader read at once; from any thread, at any moment of the term."""
        reader = self._reader
        if reader is not None:
            reader.wakeup.ring()

    def end(self) -> None:
        """Finish what is under way, then stop; from any thread, more than once."""
        self._ended.set()
        self._queue.close()

    def run(self) -> bool:
        """Work until the end; return whether all was done that was to be done.

        Raises what ended the term, if not `end`.
        """
        with ExitStack() as stack:
            stack.callback(self._checkpoint.close)
            try:
                self._open(stack)
                self._publish_pages()
            except TermOverError:
                pass
            except Exception as exc:  # noqa: BLE001  # raised below, unless another thread's caused it
                self._fail(exc)
            if self._error is not None:
                if not isinstance(self._error, PASSING):
                    self._report(str(self._error))
                raise self._error
        return self._is_done

    def _open(self, stack: ExitStack) -> None:
        """Make what the threads use, and start them; the stack ends them in reverse order."""
        self._checkpoint.start()
        capture = open_capture(self._engine, self._source)
        stack.callback(capture.close)
        publisher = self._make_publisher()
        stack.callback(publisher.close)
        identity = self._checkpoint.identity
        self._guarantee = guarantee_of(publisher, identity, self._checkpoint, self._stall)
        self._position = self._start(capture)
        self._letters = Letters(
            self._engine,
            self._route,
            lambda: min(self._portion, self._settings.page_size),
            self._publish_again,
            self._checkpoint.guarded,
        )
        reader = self._reader = Reader(
            capture,
            self._position,
            self._settings.page_size,
            self._queue,
            self._is_enough,
            self._new_stall().wait,
            self._ended,
        )
        thread = threading.Thread(
            target=self._read, args=(reader,), name=f"relay-{self._route}-reader"
        )
        thread.start()
        stack.callback(thread.join)
        stack.callback(reader.wakeup.ring)
        stack.callback(self.end)

    def _start(self, capture: Capture) -> Position:
        progress = self._guarantee.take_over()
        position = resume(
            self._engine, capture, self._checkpoint, progress, self._route, self._source
        )
        if position is None:
            position = starting_position(self._engine, capture, self._settings.start)
        # What commits from here on is not to be missed, whatever happens before the first page;
        # and progress recorded from now on is told from that of an earlier life of the route.
        self._checkpoint.settle(position)
        self._checkpoint.store()
        return position

    def _make_publisher(self) -> Publisher:
        route, settings = self._route, self._settings
        transport, options = transport_of(route, settings, self._engine.url)
        timeout = settings.lease_seconds * PUBLISH_SHARE
        if settings.schemas is None:
            return transport.publisher(route, options, timeout)
        make = partial(transport.publisher, route, options)
        return formats.converting(route, settings.schemas, options, make, timeout)

    def _new_stall(self, report: Callable[[str | None], None] | None = None) -> Stall:
        seconds = self._settings.retry_max_seconds
        return Stall(self._route, seconds, self._patience, self._ended, report)

    def _read(self, reader: Reader) -> None:
        try:
            reader.run()
        except TermOverError:
            pass
        except BaseException as exc:  # noqa: BLE001  # the term ends by it and raises it
            self._fail(exc)

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self.end()

    def _publish_pages(self) -> None:
        while not self._ended.is_set():
            self._count_letters(self._letters.look_if_due())
            pages = self._queue.get(self._letters.seconds_to_look)
            if pages:
                self._deliver(group(pages))
            elif self._queue.is_exhausted:
                self._publish_letters()
                self._is_done = True
                return

    def _publish_letters(self) -> None:
        """Publish all letters that are to be tried again, before a relay that is to finish does."""
        while True:
            result = self._letters.look()
            self._count_letters(result)
            if result.error is not None:
                self._stall.wait(result.error)
            elif not result.has_progressed:
                return

    def _count_letters(self, result: plan.Replayed) -> None:
        self._counts.published += len(result.resolved)
        self._counts.dead += len(result.failed)

    def _deliver(self, batch: Group) -> None:
        """Work off some pages; they are settled when this returns."""
        position = batch.position()
        if not batch.events:
            self._settle(position, soon=False)
            return
        blocked = set() if self._settings.on_dead == "skip" else self._letters.blocked
        parts = [plan.begin(batch.events, self._filter.select(batch.events), blocked)]
        while parts:
            work = parts.pop()
            if len(work.events) > self._portion:
                first, rest = plan.split(work, self._portion)
                parts += [rest, first]
            elif not work.is_done:
                parts.append(self._round(work, batch))
            else:
                position = batch.position(work.total if parts else None)
                if work.set_aside:
                    self._set_aside(work, position)
                self._settle(position)
                if work.set_aside:
                    self._ended.wait(LETTERS_SECONDS)
                parts = [plan.park(part, work.blocked) for part in parts]

    def _round(self, work: plan.Work, batch: Group) -> plan.Work:
        position = batch.position(None if work.total == len(batch.events) else work.total)
        before = work.published_count
        aside = [
            Aside(item.envelope.sequence or 0, item.status, item.reason) for item in work.set_aside
        ]
        self._await_trust()
        started = time.monotonic()
        outcomes = self._guarantee.publish(work.events, position, aside, self._letters.published)
        if self._reader is not None:
            self._reader.wakeup.pace.published(time.monotonic() - started)
        work = plan.after(work, outcomes, self._settings.on_dead)
        self._counts.published += work.published_count - before
        self._adjust(len(outcomes), len(work.events))
        if not work.is_done:
            self._checkpoint.settle(batch.position(work.settled_count))
            if work.published_count > before:
                self._patience.progressed()
            # Nothing is to be waited for where fewer of them tell which one is at fault.
            is_search = isinstance(work.error, HeldBackError) and len(outcomes) > 1
            if work.error is not None and not is_search:
                self._stall.wait(work.error)
        return work

    def _adjust(self, count: int, left_count: int) -> None:
        """Let the next round take half as much where all is left, until nothing is again.

        A transaction with more than the broker takes in time would fail for ever; and where it
        does not say which event it refuses, fewer at once tell.
        """
        if left_count == count:
            self._portion = max(1, count // 2)
        elif left_count == 0:
            self._portion = min(MAX_PORTION, self._portion * 2)

    def _publish_again(
        self, envelopes: Sequence[Envelope], letters: Sequence[int]
    ) -> Sequence[Outcome]:
        """Publish events of dead letters, which moves the route nowhere."""
        self._await_trust()
        outcomes = self._guarantee.publish(Rows.of(envelopes), self._position, letters=letters)
        self._adjust(len(outcomes), sum(isinstance(outcome, Retry) for outcome in outcomes))
        return outcomes

    def _await_trust(self) -> None:
        """Wait until the lease can be trusted until the end of a publish."""
        needed = self._settings.lease_seconds * (PUBLISH_SHARE + SLACK_SHARE)
        while self._trust.seconds_left() <= needed:
            if self._ended.wait(TRUST_SECONDS):
                raise TermOverError
        if self._ended.is_set():
            raise TermOverError

    def _set_aside(self, work: plan.Work, position: Position) -> None:
        """Write letters; the position behind them is stored by the same transaction."""
        failures = [
            Failure(item.envelope, item.reason, item.status, int(item.status == "dead"))
            for item in work.set_aside
        ]
        stall = self._new_stall()
        while True:
            try:
                self._checkpoint.set_aside(position, failures)
                break
            except DatabaseUnavailableError as exc:
                stall.wait(exc)
        self._letters.blocked |= work.blocked
        dead = [item for item in work.set_aside if item.status == "dead"]
        self._counts.dead += len(dead)
        self._counts.parked += len(failures) - len(dead)
        for item in dead:
            facts = {
                "route": self._route,
                "id": item.envelope.id,
                "type": item.envelope.type,
                "partition_key": item.envelope.partition_key,
                "reason": item.reason,
            }
            log.error("event became a dead letter", extra=facts)

    def _settle(self, position: Position, *, soon: bool = True) -> None:
        """Say that everything up to a position is settled, and that the route flows."""
        self._position = position
        self._checkpoint.settle(position, soon=soon)
        self._stall.over()
        self._report(None)

    def _report(self, error: str | None) -> None:
        try:
            self._checkpoint.report(error)
        except OutboxError as exc:
            facts = {"route": self._route, "error": str(exc)}
            log.warning("the status cannot be written now", extra=facts)
