"""The outcomes of one batch whose events are stored by one transaction after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from outbox.transports.page import Page

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from outbox.envelope import Envelope
    from outbox.errors import TransientError


@dataclass(frozen=True, slots=True)
class Event:
    """One event that is to be sent."""

    index: int
    """Its place in the batch."""
    topic: str
    frame: bytes


class Batch(Page):
    """A page that knows what of it is stored already."""

    def __init__(self, batch: Sequence[Envelope]) -> None:
        super().__init__(batch)
        self._stored: set[int] = set()

    def stored(self, events: Collection[Event]) -> None:
        """Settle what the broker has stored."""
        self._stored.update(event.index for event in events)
        self.published(len(events))

    def refuse(self, events: Iterable[Event], topics: Mapping[str, TransientError]) -> None:
        """Settle events of these topics, and what follows of their keys among them."""
        for event in events:
            if not self.holds_back(event.index) and event.topic in topics:
                self.fail(event.index, topics[event.topic])

    def give_up(self, events: Iterable[Event], error: TransientError) -> None:
        """Settle all of these that are not yet: they have to be published again."""
        self.retry([event.index for event in events if self._is_open(event)], error)

    def unsettled(self, events: Iterable[Event]) -> list[Event]:
        """Return what is left to be sent; what follows a failure of its key is held back."""
        return [
            event for event in events if self._is_open(event) and not self.holds_back(event.index)
        ]

    def _is_open(self, event: Event) -> bool:
        return event.index not in self._stored and not self.is_settled(event.index)
