"""How far a route has come: stored in batches, by the holder of its lease alone.

A thread of its own, the *keeper*, stores each new position soon after it was settled and renews
the lease meanwhile, so that neither waits for the broker nor the broker for them.
"""

from __future__ import annotations

import logging
import threading
import uuid
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outbox import dead_letter
from outbox.errors import DatabaseUnavailableError, LeaseLostError, OutboxError
from outbox.retry import BackOff
from relay import lease
from relay.database import statement, transaction
from relay.progress import Mark, read_mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import sqlalchemy as sa

    from outbox.dead_letter import Failure
    from relay.capture import Position
    from relay.lease import Grant, Trust

    _Settled = tuple[Position, Mark]

log = logging.getLogger(__name__)

GAP_SECONDS: Final = 0.05
"""The shortest time between two writes."""
RENEW_SECONDS: Final = 2.0
"""The longest time between two: so soon an idle route learns that its position was moved."""


class Checkpoint:
    """How far one term came, in `outbox_checkpoint`, and the lease that guards it.

    Each position is stored with a mark that tells whether it is newer than what a transactional
    broker has recorded (see `relay.progress`).
    """

    def __init__(
        self,
        engine: sa.Engine,
        grant: Grant,
        seconds: float,
        trust: Trust,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """Take over a granted lease; `on_failure` is told when it is lost."""
        self.stored = grant.position
        """The position that the term before stored; None where the route never ran."""
        self.stored_mark = read_mark((grant.position or {}).get("mark"))
        """The mark it was stored with; None where it follows from no earlier one."""
        self.identity = grant.identity
        self.trust = trust
        self._engine = engine
        self._route = grant.route
        self._token = grant.token
        self._version = grant.version
        self._error = grant.error
        self._seconds = seconds
        self._on_failure = on_failure
        lineage = self.stored_mark.lineage if self.stored_mark else uuid.uuid4().hex
        self._mark = Mark(lineage, grant.token, 0)
        self._step = 0
        self._settled: _Settled | None = None
        self._written: _Settled | None = None
        self._is_lost = False
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"relay-{grant.route}-keeper")

    def start(self) -> None:
        """Begin to renew the lease."""
        self._thread.start()

    def next_mark(self) -> Mark:
        """Return the mark of a transaction that is about to begin."""
        self._step += 1
        return replace(self._mark, step=self._step)

    def reached(self, mark: Mark) -> None:
        """Say that the broker has recorded a mark: what is settled from now on comes after it."""
        self._mark = mark

    def settle(self, position: Position, /, *, soon: bool = True) -> None:
        """Say that everything up to a position is settled; it is stored later."""
        self._settled = (position, self._mark)
        if soon:
            self._wake.set()

    def set_aside(
        self, position: Position, failures: Sequence[Failure], letters: Sequence[int] = (), /
    ) -> None:
        """Write letters, and mark those that were published, with the position behind them.

        It is one transaction, committed when this returns. Raises `LeaseLostError`, or
        `DatabaseUnavailableError` after which it may be called again.
        """
        settled = (position, self._mark)
        with self._writing:
            asked_at = self.trust.clock()
            with transaction(self._engine) as connection:
                self._advance(connection, settled)
                dead_letter.record(connection, "relay", self._route, failures)
                dead_letter.resolve(connection, letters)
            self._advanced(settled)
            self._settled = settled
            self.trust.extend(asked_at)

    @contextmanager
    def guarded(self) -> Iterator[sa.Connection]:
        """Open a transaction that fails with `LeaseLostError` unless the lease is still held."""
        with self._writing:
            asked_at = self.trust.clock()
            with transaction(self._engine) as connection:
                self._renew(connection)
                yield connection
            self.trust.extend(asked_at)

    def report(self, error: str | None) -> None:
        """Show for `outbox status` why the route stands still; None when it flows again."""
        if error == self._error:
            return
        with self._writing, statement(self._engine) as connection:
            lease.report(connection, self._route, self._token, error)
        self._error = error

    def store(self) -> None:
        """Store the position settled last, or renew the lease where there is no new one."""
        with self._writing:
            asked_at = self.trust.clock()
            settled = self._settled
            is_new = settled != self._written
            with statement(self._engine) as connection:
                if settled is not None and is_new:
                    self._advance(connection, settled)
                else:
                    self._renew(connection)
            if settled is not None and is_new:
                self._advanced(settled)
            self.trust.extend(asked_at)

    def close(self) -> None:
        """Store what is settled and give the lease back; logs where that does not work."""
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        facts = {"route": self._route}
        try:
            if not self._is_lost and self._settled != self._written:
                self.store()
        except OutboxError as exc:
            log.warning("the last position was not stored", extra=facts | {"error": str(exc)})
            if isinstance(exc, DatabaseUnavailableError):
                return  # and the lease ends by itself
        try:
            with statement(self._engine) as connection:
                lease.resign(connection, self._route, self._token)
        except OutboxError as exc:
            log.warning("the lease was not given back", extra=facts | {"error": str(exc)})

    def _run(self) -> None:
        try:
            self._keep()
        except BaseException as exc:  # noqa: BLE001  # the term ends by it and says so
            self._on_failure(exc)

    def _keep(self) -> None:
        back_off = BackOff(max_seconds=1.0)
        while True:
            self._wake.wait(min(self._seconds / 3, RENEW_SECONDS))
            self._wake.clear()
            if self._closing.is_set():
                return
            try:
                self.store()
            except DatabaseUnavailableError as exc:
                if back_off.attempt_count == 0:
                    facts = {"route": self._route, "error": str(exc)}
                    log.warning("the position cannot be stored now", extra=facts)
                self._wake.set()
                self._closing.wait(back_off.next())
            else:
                back_off.reset()
                self._closing.wait(GAP_SECONDS)

    def _renew(self, connection: sa.Connection) -> None:
        with self._noticing_loss():
            lease.renew(connection, self._route, self._token, self._version, self._seconds)

    def _advance(self, connection: sa.Connection, settled: _Settled) -> None:
        position, mark = settled
        stored = position.to_json() | {"mark": mark.to_json()}
        with self._noticing_loss():
            lease.advance(
                connection, self._route, self._token, self._version, stored, self._seconds
            )

    def _advanced(self, settled: _Settled) -> None:
        self._version += 1
        self._written = settled

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        try:
            yield
        except LeaseLostError:
            self._is_lost = True
            raise
