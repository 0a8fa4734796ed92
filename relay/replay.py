"""Sends stored events again, beside the route that carries them: chosen, paced, and marked.

The route's position stays where it is, and its relay goes on meanwhile. So this is for a few
events of many, for a consumer that is to get them slowly, or once more than its inbox knows; to
send everything again, in order with what follows, a route is moved back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from outbox import stored
from outbox.codec import REPLAY, time_text
from outbox.errors import HeldBackError
from outbox.retry import BackOff
from outbox.rows import Rows
from outbox.table import outbox_event
from outbox.transport import Dead, Retry
from outbox.transports import transport_of
from relay.database import transaction
from relay.filter import EventFilter

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    import sqlalchemy as sa

    from outbox.envelope import Envelope
    from outbox.errors import PermanentError, TransientError
    from outbox.selection import Selection
    from outbox.settings import RouteSettings
    from outbox.transport import Publisher

PAGE: Final = 500
"""Events that are published at once, at most."""
PAGES_A_SECOND: Final = 4
"""So smooth a rate is."""
PUBLISH_SECONDS: Final = 10.0
"""What a publisher has for a page."""


@dataclass(slots=True)
class Progress:
    """How far a replay has come."""

    looked_at: int = 0
    """Events of the selection, those that the route leaves out among them."""
    sent: int = 0
    refused: list[tuple[Envelope, PermanentError]] = field(default_factory=list)
    """What the destination can never take, and why."""
    sequence: int = 0
    """Everything up to here is done with: a replay that broke off goes on behind it."""
    error: TransientError | None = None
    """Why it waits, while it does."""


class Replay:
    """One replay of a route's events; used once, by one thread."""

    def __init__(
        self,
        engine: sa.Engine,
        route: str,
        settings: RouteSettings,
        selection: Selection,
        rate: float | None,
        source: str,
    ) -> None:
        """`rate` is in events a second; None is as fast as the broker takes them.

        `source` is for events that have none, as it is when the relay sends them.
        """
        self._engine = engine
        self._route = route
        self._settings = settings
        self._selection = selection
        self._rate = rate
        self._source = source
        self._filter = EventFilter(settings.types, settings.where)
        self._mark = time_text(datetime.now(UTC))
        self.progress = Progress(sequence=selection.after or 0)

    def count(self) -> int:
        """Count the events of the selection, those that the route leaves out among them."""
        with transaction(self._engine) as connection:
            return connection.scalar(self._selection.count()) or 0

    def run(self, stop: threading.Event, told: Callable[[Progress], None]) -> bool:
        """Send them, in order; False where it was stopped before the end.

        An outage is waited for, however long. `told` is called after each step. Raises
        `ConfigurationError` where no waiting could help.
        """
        publisher = self._publisher()
        started, back_off = time.monotonic(), BackOff(self._settings.retry_max_seconds)
        try:
            for page in self._pages():
                pending: Sequence[Envelope] = [page[index] for index in self._filter.select(page)]
                while pending:
                    pending = self._publish(publisher, pending)
                    told(self.progress)
                    waiting = 0.0 if self.progress.error is None else back_off.next()
                    # A page that is sent as a whole is behind whoever goes on from here.
                    if pending and stop.wait(waiting):
                        return False
                back_off.reset()
                self.progress.looked_at += len(page)
                self.progress.sequence = page[len(page) - 1].sequence or 0
                told(self.progress)
                sent_in = 0.0 if self._rate is None else self.progress.sent / self._rate
                if stop.wait(max(0.0, started + sent_in - time.monotonic())):
                    return False
            return True
        finally:
            publisher.close()

    def _pages(self) -> Iterator[Rows]:
        size = PAGE if self._rate is None else max(1, min(PAGE, int(self._rate / PAGES_A_SECOND)))
        query = self._selection.query().order_by(outbox_event.c.seq).limit(size)
        while True:
            following = query.where(outbox_event.c.seq > self.progress.sequence)
            with transaction(self._engine) as connection:
                found = list(map(self._marked, stored.read(connection, following)))
            if not found:
                return
            yield Rows.of(found)

    def _marked(self, envelope: Envelope) -> Envelope:
        headers = {**envelope.headers, REPLAY: self._mark}
        return replace(envelope, source=envelope.source or self._source, headers=headers)

    def _publish(self, publisher: Publisher, batch: Sequence[Envelope]) -> Sequence[Envelope]:
        """Publish once; return what is to be tried again."""
        again: list[Envelope] = []
        self.progress.error = None
        for envelope, outcome in zip(batch, publisher.publish(batch), strict=True):
            match outcome:
                case Dead(error):
                    self.progress.refused.append((envelope, error))
                case Retry(HeldBackError()):
                    again.append(envelope)  # the one that it waited for is settled by now
                case Retry(reason):
                    again.append(envelope)
                    self.progress.error = self.progress.error or reason
                case _:
                    self.progress.sent += 1
        return again

    def _publisher(self) -> Publisher:
        transport, options = transport_of(self._route, self._settings, self._engine.url)
        made: Any = options
        if "delivery" in type(options).model_fields:
            # Exactly-once is a promise about the route's position, which is not moved here; and
            # its transactional id is the relay's.
            made = options.model_copy(update={"delivery": "at-least-once"})
        return transport.publisher(self._route, made, PUBLISH_SECONDS)
