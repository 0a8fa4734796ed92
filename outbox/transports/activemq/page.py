"""The outcomes of one batch while it is being settled: what failed holds its key back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from outbox.errors import HeldBackError, PermanentError, TransientError
from outbox.rows import KEY, Rows
from outbox.transport import PUBLISHED, Dead, Retry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from outbox.envelope import Envelope
    from outbox.transport import Outcome


@dataclass(frozen=True, slots=True)
class Event:
    """One event that is to be sent."""

    index: int
    """Its place in the batch."""
    topic: str
    frame: bytes


class Page:
    """Outcomes by the event's index in the batch; pure."""

    def __init__(self, batch: Sequence[Envelope]) -> None:
        self.rows = Rows.of(batch).rows
        self._outcomes: list[Outcome | None] = [None] * len(self.rows)
        self._first_failures: dict[bytes, int] = {}

    def holds_back(self, index: int) -> bool:
        """Settle an event if an earlier one of its key failed; say whether it is so."""
        key = self.rows[index][KEY]
        if key is None or index <= self._first_failures.get(key, index):
            return False
        text = f"an earlier event of the key {key.decode()!r} was not published"
        self._outcomes[index] = Retry(HeldBackError(text))
        return True

    def fail(self, index: int, error: PermanentError | TransientError) -> None:
        """Settle one, and hold its key back."""
        self._outcomes[index] = Dead(error) if isinstance(error, PermanentError) else Retry(error)
        key = self.rows[index][KEY]
        if key is not None:
            self._first_failures[key] = min(index, self._first_failures.get(key, index))

    def published(self, events: Iterable[Event]) -> None:
        """Settle what the broker has stored."""
        for event in events:
            self._outcomes[event.index] = PUBLISHED

    def refuse(self, events: Iterable[Event], topics: Mapping[str, TransientError]) -> None:
        """Settle events of these topics, and what follows of their keys among them."""
        for event in events:
            if not self.holds_back(event.index) and event.topic in topics:
                self.fail(event.index, topics[event.topic])

    def retry(self, events: Iterable[Event], error: TransientError) -> None:
        """Settle all of these that are not yet."""
        for event in events:
            if self._outcomes[event.index] is None:
                self._outcomes[event.index] = Retry(error)

    def unsettled(self, events: Iterable[Event]) -> list[Event]:
        """Return what is left to be sent; what follows a failure of its key is held back."""
        return [
            event
            for event in events
            if self._outcomes[event.index] is None and not self.holds_back(event.index)
        ]

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes, each of which is settled."""
        settled = [outcome for outcome in self._outcomes if outcome is not None]
        if len(settled) != len(self._outcomes):
            raise AssertionError("an event was left without an outcome")
        return settled
