"""One route: takes the lease, runs a term, and begins again whenever a term ends."""

from __future__ import annotations

import logging
import threading
from enum import Enum
from typing import TYPE_CHECKING, Final

from outbox.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    OutboxError,
    TransientError,
)
from outbox.retry import BackOff
from relay import lease
from relay.database import transaction
from relay.lease import Grant, Held, Trust
from relay.stall import GaveUpError, Patience, Stall, TermOverError
from relay.term import Counts, Term

if TYPE_CHECKING:
    import sqlalchemy as sa

    from outbox.settings import RouteSettings
    from relay.capture import Page

log = logging.getLogger(__name__)

ACQUIRE_SECONDS: Final = 0.25
"""How often a relay without the lease asks for it."""
TERM_SECONDS: Final = 10.0
"""The longest wait between two terms."""


class Until(Enum):
    """How far a relay goes."""

    FOREVER = "forever"
    """Until it is told to stop."""
    DRAINED = "drained"
    """Until nothing more is there to be read, and everything read is settled."""
    ONCE = "once"
    """One page a route."""


class Route:
    """Runs one route on a thread of its own, until it is done, told to stop, or cannot go on."""

    def __init__(
        self,
        engine: sa.Engine,
        name: str,
        settings: RouteSettings,
        source: str,
        holder: str,
        until: Until,
        patience_seconds: float,
    ) -> None:
        """`patience_seconds` is for a relay that is to finish: longest time without progress."""
        self.name = name
        self.counts = Counts()
        self.error: str | None = None
        """Why it ended, where it is not because it was done or told to stop."""
        self._engine = engine
        self._settings = settings
        self._source = source
        self._holder = holder
        self._until = until
        self._patience_seconds = None if until is Until.FOREVER else patience_seconds
        self._patience = Patience(self._patience_seconds)
        self._stopping = threading.Event()
        self._term: Term | None = None
        self._term_changes = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"relay-{name}")

    def start(self) -> None:
        """Start its thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let it finish what is under way and give the lease back; from any thread."""
        with self._term_changes:
            self._stopping.set()
            if self._term is not None:
                self._term.end()

    def ring(self) -> None:
        """Let it read at once where it is waiting for events; from any thread."""
        with self._term_changes:
            if self._term is not None:
                self._term.ring()

    def is_over(self, wait_seconds: float) -> bool:
        """Tell whether it has ended, after waiting for it for a while."""
        self._thread.join(wait_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        back_off = BackOff(TERM_SECONDS)
        told: str | None = None
        while not self._stopping.is_set():
            before = self.counts.published
            try:
                if self._run_term():
                    break
            except (ConfigurationError, GaveUpError) as exc:
                self._give_up(exc)
                break
            except TransientError as exc:
                log.warning("term ended", extra=self._facts(exc))
                error: Exception = exc
            except Exception as exc:
                # The traceback is told once, not at each attempt.
                is_new = str(exc) != told
                log.exception("term broke off", extra=self._facts(exc), exc_info=is_new)
                error, told = exc, str(exc)
            else:
                continue
            if self.counts.published > before:
                back_off.reset()
            try:
                self._patience.check(self.name, error)
            except GaveUpError as exc:
                self._give_up(exc)
                break
            self._stopping.wait(back_off.next())

    def _run_term(self) -> bool:
        """Wait for the lease and run a term; return whether everything is done."""
        granted = self._acquire()
        if granted is None:
            return False
        grant, trust = granted
        log.info("route started", extra={"route": self.name, "token": grant.token})
        term = Term(
            self._engine,
            self._settings,
            self._source,
            grant,
            trust,
            self._patience,
            self.counts,
            self._is_enough,
        )
        with self._term_changes:
            self._term = term
            if self._stopping.is_set():
                term.end()
        try:
            return term.run()
        finally:
            with self._term_changes:
                self._term = None
            log.info(
                "route stopped", extra={"route": self.name, "published": self.counts.published}
            )

    def _acquire(self) -> tuple[Grant, Trust] | None:
        """Wait until nobody else has the lease; None when told to stop meanwhile."""
        seconds = self._settings.lease_seconds
        limit = None if self._until is Until.FOREVER else seconds * 1.2 + 1
        patience = Patience(limit)
        outage = Stall(self.name, self._settings.retry_max_seconds, self._patience, self._stopping)
        told: str | None = None
        while not self._stopping.is_set():
            asked_at = Trust.clock()
            try:
                with transaction(self._engine) as connection:
                    found = lease.acquire(connection, self.name, self._holder, seconds)
            except DatabaseUnavailableError as exc:
                try:
                    outage.wait(exc)
                except TermOverError:
                    return None
                continue
            match found:
                case Grant():
                    return found, Trust(seconds, asked_at)
                case Held(holder):
                    what = "route is paused" if found.is_paused else "another relay has the lease"
                    if holder != told:
                        log.info(what, extra={"route": self.name, "holder": holder})
                        told = holder
                    if found.is_paused and self._until is not Until.FOREVER:
                        raise GaveUpError(
                            f"route {self.name} is paused: `outbox routes resume {self.name}`"
                        )
                    patience.check(self.name, f"the relay {holder} has the lease")
                    self._stopping.wait(ACQUIRE_SECONDS)
        return None

    def _is_enough(self, page: Page) -> bool:
        """Tell whether this page is the last one that is to be read."""
        return self._until is Until.ONCE or (self._until is Until.DRAINED and page.is_last)

    def _give_up(self, error: OutboxError) -> None:
        self.error = str(error)
        log.error("route ended", extra=self._facts(error))

    def _facts(self, error: Exception) -> dict[str, str]:
        return {"route": self.name, "kind": type(error).__name__, "error": str(error)}
