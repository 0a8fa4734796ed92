"""What a worker has received and not yet settled; pure."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from outbox.transport import Message
    from outbox.transports.activemq.frames import Frame


@dataclass(eq=False, slots=True)
class Item:
    """One message that the broker has sent on one subscription."""

    message: Message
    queue: str
    message_id: str
    ack_id: str
    subscription: str
    is_redelivered: bool
    sent_at: int
    """When the broker took it from its producer, in milliseconds."""
    is_acked: bool = False

    @property
    def identity(self) -> tuple[str, str]:
        """The same whenever it comes again."""
        return self.queue, self.message_id


class Inbound:
    """Messages that wait to be handed out, and those that were, in order."""

    def __init__(self) -> None:
        self._waiting: deque[Item] = deque()
        self._unsettled: dict[int, Item] = {}
        self._numbers: dict[Item, int] = {}
        self._last = 0

    @property
    def is_clear(self) -> bool:
        """Whether nothing waits and everything that was handed out is settled."""
        return not self._waiting and not self._unsettled

    def add(self, items: Iterable[Item]) -> None:
        """Take in what was received."""
        self._waiting.extend(items)

    def next(self) -> Item | None:
        """Hand out the next one; None where nothing waits."""
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        self._last += 1
        self._unsettled[self._last] = item
        self._numbers[item] = self._last
        return item

    def settle(self, item: Item) -> None:
        """Be done with one; nothing happens where it is not unsettled."""
        number = self._numbers.pop(item, None)
        if number is not None:
            del self._unsettled[number]

    def give_back(self, items: Iterable[Item]) -> None:
        """Let these, and what followed them in their queues, wait again at their place."""
        firsts: dict[str, int] = {}
        for item in items:
            number = self._numbers.get(item)
            if number is not None:
                firsts[item.queue] = min(number, firsts.get(item.queue, number))
        back = [
            item
            for number, item in self._unsettled.items()
            if number >= firsts.get(item.queue, number + 1)
        ]
        for item in back:
            self.settle(item)
        self._waiting.extendleft(reversed(back))

    def clear(self) -> None:
        """Forget everything: the broker will send it again."""
        self._waiting.clear()
        self._unsettled.clear()
        self._numbers.clear()


def item_of(frame: Frame, message: Message, queue: str) -> Item:
    """Read what a MESSAGE frame says besides the event."""
    headers = frame.headers
    sent_at = headers.get("timestamp", "")
    return Item(
        message=message,
        queue=queue,
        message_id=headers.get("message-id", ""),
        ack_id=headers.get("ack", ""),
        subscription=headers.get("subscription", ""),
        is_redelivered=headers.get("redelivered") == "true",
        sent_at=int(sent_at) if sent_at.isdecimal() else 0,
    )


def in_order(items: Sequence[Item]) -> list[Item]:
    """Return messages that wait at the head of a queue in the order of publishing.

    What members left behind stands first in a queue, but after the second time in any order: the
    broker puts what is given back behind what was given back before. An id ends in a number that
    counts the messages of one producer, so a producer's messages are sorted by it, and producers
    by their first message.
    """
    again = [item for item in items if item.is_redelivered]
    began: defaultdict[str, int] = defaultdict(int)
    for item in again:
        producer, _ = _origin(item)
        began[producer] = min(item.sent_at, began.get(producer, item.sent_at))

    def place(item: Item) -> tuple[int, str, int]:
        producer, number = _origin(item)
        return began[producer], producer, number

    return sorted(again, key=place) + [item for item in items if not item.is_redelivered]


def _origin(item: Item) -> tuple[str, int]:
    producer, _, number = item.message_id.rpartition(":")
    return producer, int(number) if number.isdecimal() else 0
