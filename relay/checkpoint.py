"""How far a route has come: stored in batches, by the holder of its lease alone.

A thread of its own, the *keeper*, stores each new position soon after it was settled and renews
the lease meanwhile, so that neither waits for the broker nor the broker for them.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from outbox import dead_letter
from outbox.errors import DatabaseUnavailableError, LeaseLostError, OutboxError
from outbox.retry import BackOff
from relay import lease
from relay.database import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import sqlalchemy as sa

    from outbox.dead_letter import Failure
    from relay.capture import Position
    from relay.lease import Grant, Trust

log = logging.getLogger(__name__)

GAP_SECONDS: Final = 0.05
"""The shortest time between two writes."""
RENEW_SECONDS: Final = 2.0
"""The longest time between two: so soon an idle route learns that its position was moved."""


class Progress(Protocol):
    """Where a term starts, and where it records how far it came.

    The route knows no more of it than this, so that a publisher whose broker keeps the position
    in its own transaction can take its place.
    """

    @property
    def stored(self) -> Mapping[str, Any] | None:
        """The stored position; None where the route never ran."""
        ...

    def settle(self, position: Position, /, *, soon: bool = True) -> None:
        """Say that everything up to a position is settled; it is stored later, `soon` or not."""
        ...

    def set_aside(self, position: Position, failures: Sequence[Failure], /) -> None:
        """Write letters and the position behind them in one transaction, before it returns.

        Raises `LeaseLostError`, or `DatabaseUnavailableError` after which it may be called again.
        """
        ...


class Checkpoint:
    """The `Progress` of one term in `outbox_checkpoint`, and the lease that guards it."""

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
        self.trust = trust
        self._engine = engine
        self._route = grant.route
        self._token = grant.token
        self._version = grant.version
        self._error = grant.error
        self._seconds = seconds
        self._on_failure = on_failure
        self._position: Position | None = None
        self._written: Position | None = None
        self._is_lost = False
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"relay-{grant.route}-keeper")

    def start(self) -> None:
        """Begin to renew the lease."""
        self._thread.start()

    def settle(self, position: Position, /, *, soon: bool = True) -> None:
        """Say that everything up to a position is settled; it is stored later."""
        self._position = position
        if soon:
            self._wake.set()

    def set_aside(self, position: Position, failures: Sequence[Failure], /) -> None:
        """Write letters and the position behind them in one transaction."""
        with self._writing:
            asked_at = self.trust.clock()
            with transaction(self._engine) as connection:
                self._advance(connection, position)
                dead_letter.record(connection, "relay", self._route, failures)
            self._advanced(position)
            self._position = position
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
        with self._writing, transaction(self._engine) as connection:
            lease.report(connection, self._route, self._token, error)
        self._error = error

    def store(self) -> None:
        """Store the position settled last, or renew the lease where there is no new one."""
        with self._writing:
            asked_at = self.trust.clock()
            position = self._position
            is_new = position is not None and position != self._written
            with transaction(self._engine) as connection:
                if position is not None and is_new:
                    self._advance(connection, position)
                else:
                    self._renew(connection)
            if position is not None and is_new:
                self._advanced(position)
            self.trust.extend(asked_at)

    def close(self) -> None:
        """Store what is settled and give the lease back; logs where that does not work."""
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        facts = {"route": self._route}
        try:
            if not self._is_lost and self._position != self._written:
                self.store()
        except OutboxError as exc:
            log.warning("the last position was not stored", extra=facts | {"error": str(exc)})
            if isinstance(exc, DatabaseUnavailableError):
                return  # and the lease ends by itself
        try:
            with transaction(self._engine) as connection:
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

    def _advance(self, connection: sa.Connection, position: Position) -> None:
        stored, seconds = position.to_json(), self._seconds
        with self._noticing_loss():
            lease.advance(connection, self._route, self._token, self._version, stored, seconds)

    def _advanced(self, position: Position) -> None:
        self._version += 1
        self._written = position

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        try:
            yield
        except LeaseLostError:
            self._is_lost = True
            raise
