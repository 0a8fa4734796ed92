"""The receiving side of ActiveMQ: one member of the consumers of a queue."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, cast

from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    DestinationRefusedError,
    TransientError,
    UsageError,
)
from outbox.transport import Delivery
from outbox.transports.activemq.destinations import source
from outbox.transports.activemq.dialling import Dialler
from outbox.transports.activemq.encode import to_message
from outbox.transports.activemq.errors import ErrorFrameError
from outbox.transports.activemq.frames import encode
from outbox.transports.activemq.inbound import Inbound, Item, in_order, item_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from outbox.transports.activemq.frames import Frame
    from outbox.transports.activemq.link import Link
    from outbox.transports.activemq.options import Options

log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 3.0
"""How long connecting may take at least, however short a receive is to be."""
CLOSE_SECONDS: Final = 3.0
"""How long leaving waits until the broker has heard of it."""
SHARE_SECONDS: Final = 10.0
"""How long a member keeps the message groups that it has, while it has nothing to do."""
_ACK_SECONDS: Final = 2.0
_QUIET_SECONDS: Final = 0.1
"""After so long a queue has nothing to send."""
_PAUSE_SECONDS: Final = 1.0
"""After so long it has no more to send of what was given back; brokers stop for a while, too."""
_REMEMBERED: Final = 100_000
"""Acknowledgements that the broker has not confirmed, at most."""
_WIDEST: Final = 64
"""So many times the prefetch may be read ahead where much was given back."""


class ActiveMqSubscriber:
    """Receives as one consumer of each of its queues; joins when it first receives.

    What is given back stays here and is handed out again, so the broker counts no redelivery
    for it, and makes no dead letter. An acknowledgement counts once the broker has confirmed it;
    if the connection breaks before, a message that comes again is acknowledged again, unseen.
    """

    def __init__(self, route: str, options: Options, group: str, topics: Sequence[str]) -> None:
        """Raise `ConfigurationError` where the group is none of the route's."""
        if options.destination == "virtual-topic" and group not in options.groups:
            raise ConfigurationError(
                f"routes.{route}.groups does not name {group!r}: the relay would keep nothing for"
                " it while no worker runs. Add it, and start the relay again"
            )
        self._route = route
        self._prefetch = options.prefetch
        self._topics = {source(options, group, topic): topic for topic in topics}
        self._dialler = Dialler(route, options)
        self._link: Link | None = None
        self._queues: dict[str, str] = {}
        """Queues by their subscriptions that are under way."""
        self._inbound = Inbound()
        self._unconfirmed: dict[tuple[str, str], None] = {}
        """What is acknowledged, and may come again all the same."""
        self._receipts: dict[str, list[tuple[str, str]]] = {}
        self._count = 0
        self._joined_at = 0.0
        self._has_groups = False
        self._unproven: set[str] = set()
        """Queues that have sent nothing since this member joined."""
        self._is_closed = False

    def receive(self, limit: int, timeout: float, /) -> list[Delivery]:
        """See `Subscriber.receive`."""
        if self._is_closed:
            raise UsageError("the subscriber is closed; make another one")
        deadline = time.monotonic() + timeout
        try:
            link = self._joined(max(deadline, time.monotonic() + CONNECT_SECONDS))
            deliveries = self._take(link, limit, deadline)
            if not deliveries:
                self._share(link)
        except ErrorFrameError as error:
            self._drop()
            raise BrokerUnavailableError(
                f"the broker ended the connection: {error.text}"
            ) from error
        except TransientError:
            self._drop()
            raise
        return deliveries

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        """See `Subscriber.ack`."""
        items = [cast("Item", delivery.handle) for delivery in deliveries]
        open_ = [item for item in items if not item.is_acked]
        for item in open_:
            item.is_acked = True
            self._inbound.settle(item)
            self._remember(item)
        link = self._link
        if link is None:
            return
        try:
            self._send_acks(link, open_)
            if self._inbound.is_clear:
                self._share(link)
        except TransientError as error:
            log.warning("acknowledgement kept for later", extra={"error": str(error)})
            self._drop()

    def nack(self, deliveries: Sequence[Delivery], /) -> None:
        """See `Subscriber.nack`."""
        self._inbound.give_back(cast("Item", delivery.handle) for delivery in deliveries)

    def close(self) -> None:
        """See `Subscriber.close`. In an outage it gives up after some seconds."""
        self._is_closed = True
        link = self._link
        if link is not None:
            deadline = time.monotonic() + CLOSE_SECONDS
            try:
                link.send(encode("DISCONNECT", [("receipt", "bye")]), deadline)
                link.await_receipt("bye", deadline)
            except TransientError as error:
                log.warning("left without an answer", extra={"error": str(error)})
        self._drop()

    def _joined(self, deadline: float) -> Link:
        if self._link is None:
            self._link = self._dialler.connect(deadline)
            self._subscribe(self._link, deadline, self._prefetch)
        return self._link

    def _drop(self) -> None:
        """Give up the connection; the next receive makes another one."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._queues.clear()
        self._receipts.clear()
        self._inbound.clear()

    def _subscribe(self, link: Link, deadline: float, prefetch: int) -> None:
        """Join the consumers of each queue, and take in what was given back to it.

        That stands first, and has to be seen as a whole to be put in order.
        """
        asked = []
        for queue in self._topics:
            self._count += 1
            self._queues[str(self._count)] = queue
            headers = [("id", str(self._count)), ("destination", queue)]
            headers += [("ack", "client-individual"), ("activemq.prefetchSize", str(prefetch))]
            asked.append(encode("SUBSCRIBE", [*headers, ("receipt", f"s{self._count}")]))
        link.send(b"".join(asked), deadline)
        self._joined_at = time.monotonic()
        self._has_groups = False
        asked_for = {f"s{subscription}": queue for subscription, queue in self._queues.items()}
        found, is_all = self._gather(link, deadline, prefetch, asked_for, [])
        if not is_all and prefetch < self._prefetch * _WIDEST:
            self._unsubscribe(link, deadline)
            self._subscribe(link, deadline, prefetch * 4)
            return
        self._inbound.add(in_order(found))

    def _unsubscribe(self, link: Link, deadline: float) -> None:
        asked = [encode("UNSUBSCRIBE", [("id", subscription)]) for subscription in self._queues]
        # What is under way on the old subscriptions belongs to nobody now.
        self._queues.clear()
        link.send(b"".join(asked), deadline)

    def _gather(
        self,
        link: Link,
        deadline: float,
        prefetch: int,
        missing: dict[str, str],
        found: list[Item],
    ) -> tuple[list[Item], bool]:
        """Receive until each queue has shown something new, or nothing more comes.

        `missing` are queues by the receipts that have to come. Tell also whether that is all
        that was given back, as far as it is meant for this member.
        """
        self._unproven = set()
        unseen = set(self._queues.values())
        counts = Counter(item.queue for item in found)
        while missing or unseen:
            quiet = time.monotonic() + (_PAUSE_SECONDS if found else _QUIET_SECONDS)
            try:
                frame = link.receive(deadline if missing else min(deadline, quiet))
            except ErrorFrameError as error:
                if error.receipt not in missing:
                    raise
                raise self._refused(missing[error.receipt], error) from error
            if frame is None:
                break
            if frame.command == "RECEIPT":
                missing.pop(frame.headers.get("receipt-id", ""), None)
            for item in self._items(frame):
                found.append(item)
                counts[item.queue] += 1
                if not item.is_redelivered:
                    unseen.discard(item.queue)
                elif counts[item.queue] >= prefetch:
                    return found, False
        if missing:
            raise BrokerUnavailableError(f"{link.address} does not answer in time")
        self._unproven = unseen - counts.keys()
        return found, True

    def _refused(self, queue: str, error: ErrorFrameError) -> DestinationRefusedError:
        return DestinationRefusedError(
            f"the broker does not let this worker receive from {queue!r}; grant the user of"
            f" routes.{self._route}.username the right to read it ({error.text})"
        )

    def _items(self, frame: Frame) -> Iterable[Item]:
        """Take in a frame; yield the message that it carries."""
        if frame.command == "RECEIPT":
            for identity in self._receipts.pop(frame.headers.get("receipt-id", ""), ()):
                self._unconfirmed.pop(identity, None)
        elif frame.command == "MESSAGE":
            queue = self._queues.get(frame.headers.get("subscription", ""))
            if queue is not None:
                self._has_groups = True
                yield item_of(frame, to_message(frame, self._topics[queue]), queue)

    def _take(self, link: Link, limit: int, deadline: float) -> list[Delivery]:
        """Wait for a first message, then take along what has already arrived."""
        deliveries: list[Delivery] = []
        again: list[Item] = []
        while len(deliveries) < limit:
            item = self._inbound.next()
            if item is None:
                frame = link.receive(0.0 if deliveries else deadline)
                if frame is None:
                    break
                self._inbound.add(self._first(link, list(self._items(frame))))
            elif item.is_acked or item.identity in self._unconfirmed:
                self._inbound.settle(item)
                again.append(item)
            else:
                place = f"{item.queue.removeprefix('/queue/')}@{item.message_id}"
                deliveries.append(Delivery(item.message, place, item))
        self._send_acks(link, [item for item in again if not item.is_acked])
        return deliveries

    def _first(self, link: Link, items: list[Item]) -> list[Item]:
        """Return what was received, in order where it is the first of a queue since joining."""
        first = [item for item in items if item.queue in self._unproven]
        if not first:
            return items
        self._unproven -= {item.queue for item in first}
        if any(item.is_redelivered for item in first):
            deadline = time.monotonic() + CONNECT_SECONDS
            found, _ = self._gather(link, deadline, self._prefetch, {}, items)
            return in_order(found)
        return items

    def _remember(self, item: Item) -> None:
        self._unconfirmed[item.identity] = None
        if len(self._unconfirmed) > _REMEMBERED:
            del self._unconfirmed[next(iter(self._unconfirmed))]

    def _send_acks(self, link: Link, items: Sequence[Item]) -> None:
        """Acknowledge what came on the subscriptions under way; the broker confirms the last."""
        current = [item for item in items if item.subscription in self._queues]
        if not current:
            return
        self._count += 1
        receipt = f"a{self._count}"
        self._receipts[receipt] = [item.identity for item in current]
        acks = [encode("ACK", [("id", item.ack_id)]) for item in current[:-1]]
        acks.append(encode("ACK", [("id", current[-1].ack_id), ("receipt", receipt)]))
        for item in current:
            item.is_acked = True
        link.send(b"".join(acks), time.monotonic() + _ACK_SECONDS)

    def _share(self, link: Link) -> None:
        """Give up the message groups, where nothing is to be done, so that new members get some.

        Nothing of them is under way then, so their order is kept.
        """
        if not self._has_groups or time.monotonic() - self._joined_at < SHARE_SECONDS:
            return
        while (frame := link.receive(0.0)) is not None:
            self._inbound.add(self._items(frame))
        if self._inbound.is_clear:
            deadline = time.monotonic() + CONNECT_SECONDS
            self._unsubscribe(link, deadline)
            self._subscribe(link, deadline, self._prefetch)
