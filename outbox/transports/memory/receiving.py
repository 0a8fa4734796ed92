"""The receiving side of the in-memory broker."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import TYPE_CHECKING, cast

from outbox.errors import BrokerUnavailableError
from outbox.transport import Delivery
from outbox.transports.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.transports.memory.broker import MemoryBroker, Partition

log = logging.getLogger(__name__)


class MemorySubscriber:
    """One member of a group of the in-memory broker."""

    def __init__(self, broker: MemoryBroker, group: str, topics: Sequence[str]) -> None:
        self._broker = broker
        self._group = group
        self._member = broker.join(group, topics)
        self._positions: dict[Partition, int] = {}
        self._ledger: Ledger[Partition] = Ledger()
        self._uncommitted: dict[Partition, int] = {}

    def receive(self, limit: int, timeout: float, /) -> list[Delivery]:
        """See `Subscriber.receive`."""
        deadline = time.monotonic() + timeout
        while True:
            version = self._broker.version()
            self._commit()
            self._take(self._broker.settle_assignment(self._group, self._member))
            deliveries = self._read(limit)
            if deliveries or not self._broker.wait(version, deadline):
                return deliveries

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        """See `Subscriber.ack`."""
        by_partition: dict[Partition, list[int]] = defaultdict(list)
        for delivery in deliveries:
            partition, offset = cast("tuple[Partition, int]", delivery.handle)
            by_partition[partition].append(offset)
        for partition, offsets in by_partition.items():
            following = self._ledger.ack(partition, offsets)
            if following is not None:
                self._uncommitted[partition] = following
        try:
            self._commit()
        except BrokerUnavailableError as error:
            log.warning("acknowledgement kept for later", extra={"error": str(error)})

    def nack(self, deliveries: Sequence[Delivery], /) -> None:
        """See `Subscriber.nack`."""
        for delivery in deliveries:
            partition, offset = cast("tuple[Partition, int]", delivery.handle)
            if self._ledger.nack(partition, offset):
                self._positions[partition] = offset

    def close(self) -> None:
        """See `Subscriber.close`."""
        self._broker.leave(self._group, self._member)
        self._take({})

    def _commit(self) -> None:
        while self._uncommitted:
            partition, offset = next(iter(self._uncommitted.items()))
            if not self._broker.commit(self._group, self._member, partition, offset):
                log.warning("acknowledgement dropped: %s[%d] was lost", *partition)
            del self._uncommitted[partition]

    def _take(self, assigned: dict[Partition, int]) -> None:
        for partition in self._positions.keys() - assigned.keys():
            del self._positions[partition]
            self._ledger.forget(partition)
        for partition, committed in assigned.items():
            self._positions.setdefault(partition, committed)

    def _read(self, limit: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for partition in list(self._positions):
            # Popped and put last: a busy partition does not starve the others.
            position = self._positions.pop(partition)
            messages = self._broker.read(self._group, partition, position, limit - len(deliveries))
            for offset, message in enumerate(messages, position):
                self._ledger.deliver(partition, offset)
                place = f"{partition.topic}[{partition.number}]@{offset}"
                deliveries.append(Delivery(message, place, (partition, offset)))
            self._positions[partition] = position + len(messages)
            if len(deliveries) == limit:
                break
        return deliveries
