"""Receiving from S3: the log is read in order, and the objects that it lists side by side."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple, cast
from urllib.parse import quote

from outbox.codec import REPLAY
from outbox.errors import TransientError, UsageError
from outbox.structured import decode
from outbox.transport import Delivery, Message
from outbox.transports.ledger import Ledger
from outbox.transports.s3.chain import FIRST, Chain
from outbox.transports.s3.compress import decompress
from outbox.transports.s3.keys import GROUPS
from outbox.transports.s3.log import INDEX_BITS, LogReader
from outbox.transports.s3.membership import REQUEST_SECONDS, Membership
from outbox.transports.s3.store import Patience, Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outbox.transports.s3.options import Options

log = logging.getLogger(__name__)

_PATIENCE: Final = Patience(2.0, 5.0)
_COMMIT_SECONDS: Final = 1.0
"""How seldom acknowledgements are stored while more of them come."""
_MAX_BYTES: Final = 32_000_000
"""Of the objects that one receive reads, unless the first one is larger."""
_FIRST_PAUSE_SECONDS: Final = 0.05


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    number: int


class Found(NamedTuple):
    """An event that is to be delivered: where it stands in the log, and where its bytes are."""

    partition: Partition
    offset: int
    key: str
    line: int
    replayed_at: str | None
    """See `Page.replayed_at`."""


class S3Subscriber:
    """Receives as one member of a group; joins at the first `receive`.

    Acknowledgements are stored about once a second, and when the member leaves. Partitions are
    given up and taken only inside `receive` and `ack`.
    """

    def __init__(self, options: Options, group: str, topics: Sequence[str]) -> None:
        self._options = options
        self._store = Store(options, _PATIENCE)
        self._pool = ThreadPoolExecutor(options.concurrency, thread_name_prefix="s3-read")
        self._log = LogReader(self._store, self._pool, options.partitions)
        self._memberships = {
            topic: Membership(
                Chain(self._store, f"{GROUPS}{quote(group, safe='')}/{topic}/"),
                f"{group} on {topic}",
                options.partitions,
                options.member_seconds,
            )
            for topic in topics
        }
        self._positions: dict[Partition, int] = {}
        self._ledger: Ledger[Partition] = Ledger()
        self._settled: dict[Partition, int] = {}
        """Offsets that are acknowledged and not stored yet."""
        self._bodies: dict[str, list[bytes] | None] = {}
        """The objects read last: the next receive may need more of their lines."""
        self._pause = _FIRST_PAUSE_SECONDS
        self._is_closed = False

    def receive(self, limit: int, timeout: float, /) -> list[Delivery]:
        """See `Subscriber.receive`."""
        if self._is_closed:
            raise UsageError("the subscriber is closed; make another one")
        deadline = time.monotonic() + timeout
        while True:
            for topic, membership in self._memberships.items():
                if membership.is_due or self._must_commit(topic):
                    self._sync(topic)
            deliveries = self._read(limit)
            left = deadline - time.monotonic()
            if deliveries or left <= 0:
                return deliveries
            time.sleep(min(left, self._pause))
            self._pause = min(2 * self._pause, self._options.poll_seconds)

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        """See `Subscriber.ack`."""
        offsets: dict[Partition, list[int]] = {}
        for delivery in deliveries:
            partition, offset = cast("tuple[Partition, int]", delivery.handle)
            offsets.setdefault(partition, []).append(offset)
        for partition, settled in offsets.items():
            following = self._ledger.ack(partition, settled)
            if following is not None:
                self._settled[partition] = following
        for topic in {partition.topic for partition in offsets}:
            if self._must_commit(topic):
                try:
                    self._sync(topic)
                except TransientError as exc:
                    log.warning("acknowledgement kept for later", extra={"error": str(exc)})

    def nack(self, deliveries: Sequence[Delivery], /) -> None:
        """See `Subscriber.nack`."""
        for delivery in deliveries:
            partition, offset = cast("tuple[Partition, int]", delivery.handle)
            if self._ledger.nack(partition, offset):
                self._positions[partition] = offset

    def close(self) -> None:
        """See `Subscriber.close`.

        In an outage it gives up after some seconds; the group drops it after `member_seconds`.
        """
        if self._is_closed:
            return
        self._is_closed = True
        for topic, membership in self._memberships.items():
            try:
                membership.leave(self._done(topic))
            except TransientError as exc:
                log.warning("left the group without telling it", extra={"error": str(exc)})
        for partition in list(self._positions):
            self._lose(partition)
        self._store.close()
        self._pool.shutdown()

    def _must_commit(self, topic: str) -> bool:
        membership = self._memberships[topic]
        return (
            not self._is_closed
            and membership.seconds_since_written() >= _COMMIT_SECONDS
            and any(partition.topic == topic for partition in self._settled)
        )

    def _sync(self, topic: str) -> None:
        membership = self._memberships[topic]
        own = [partition for partition in self._positions if partition.topic == topic]
        busy = [part.number for part in own if not self._ledger.is_clear(part)]
        is_kept = membership.sync(self._done(topic), busy, must_write=self._must_commit(topic))
        owned = membership.owned
        for partition in own:
            if not is_kept or partition.number not in owned:
                self._lose(partition)
            elif owned[partition.number] >= self._settled.get(partition, 0):
                self._settled.pop(partition, None)
        for number, offset in owned.items():
            partition = Partition(topic, number)
            if partition not in self._positions:
                self._positions[partition] = max(offset, FIRST << INDEX_BITS)
                self._log.may_begin_later()

    def _done(self, topic: str) -> dict[int, int]:
        """Return where the next owner of each partition would begin.

        Where nothing is in our hands, that is where we would read on: it passes over entries
        that have nothing for the partition.
        """
        return {
            partition.number: position
            if self._ledger.is_clear(partition)
            else self._settled.get(partition, 0)
            for partition, position in self._positions.items()
            if partition.topic == topic
        }

    def _lose(self, partition: Partition) -> None:
        del self._positions[partition]
        is_unsettled = self._ledger.forget(partition) > 0
        if (self._settled.pop(partition, None) is not None or is_unsettled) and not self._is_closed:
            log.warning("%s[%d] was given to another member with events unsettled", *partition)

    def _read(self, limit: int) -> list[Delivery]:
        """Return what the log has for this member."""
        positions = self._readable()
        found = self._find(positions, limit)
        bodies = self._fetch({event.key for event in found})
        deliveries = [self._delivery(event, bodies[event.key]) for event in found]
        self._positions.update(positions)
        for event in found:
            self._ledger.deliver(event.partition, event.offset)
        if found:
            self._pause = _FIRST_PAUSE_SECONDS
        return deliveries

    def _readable(self) -> dict[Partition, int]:
        """Return the positions of the partitions that may be read."""
        readable = {}
        for topic, membership in self._memberships.items():
            if not membership.is_trusted:
                continue
            for number in membership.owned.keys() - set(membership.surplus):
                partition = Partition(topic, number)
                if partition in self._positions:
                    readable[partition] = self._positions[partition]
        return readable

    def _find(self, positions: dict[Partition, int], limit: int) -> list[Found]:
        """Return the next events, and move the positions on behind them."""
        found: list[Found] = []
        sizes: dict[str, int] = {}
        while positions and len(found) < limit and sum(sizes.values()) < _MAX_BYTES:
            number = min(positions.values()) >> INDEX_BITS
            first = self._log.first_at(number)
            if first is None:
                break
            page = self._log.page(first)
            for partition, position in positions.items():
                positions[partition] = max(position, first << INDEX_BITS)
            here = [part for part, at in positions.items() if at >> INDEX_BITS == first]
            events = sorted(
                (index, partition)
                for partition in here
                for index in page.indexes(partition.topic, partition.number)
                if first << INDEX_BITS | index >= positions[partition]
            )
            for partition in here:
                positions[partition] = (first + 1) << INDEX_BITS
            left_over: set[Partition] = set()
            for index, partition in events:
                key, size, line = page.place(index)
                is_full = len(found) >= limit or (
                    found and key not in sizes and sum(sizes.values()) + size > _MAX_BYTES
                )
                if partition not in left_over and is_full:
                    left_over.add(partition)
                    positions[partition] = first << INDEX_BITS | index
                if partition not in left_over:
                    sizes[key] = size
                    offset = first << INDEX_BITS | index
                    found.append(Found(partition, offset, key, line, page.replayed_at(index)))
            if left_over:
                break
        return found

    def _fetch(self, keys: set[str]) -> Mapping[str, list[bytes] | None]:
        """Return the lines of objects; None for one that is not there."""
        wanted = [key for key in keys if self._bodies.get(key) is None]
        bodies = dict(zip(wanted, self._pool.map(self._fetch_one, wanted), strict=True))
        self._bodies = {key: bodies[key] if key in bodies else self._bodies[key] for key in keys}
        return self._bodies

    def _fetch_one(self, key: str) -> list[bytes] | None:
        stored = self._store.get(key, time.monotonic() + REQUEST_SECONDS)
        if stored is None:
            return None
        try:
            body = decompress(stored, key)
        except ValueError as exc:
            log.error("a damaged object", extra={"error": str(exc)})  # noqa: TRY400  # its text says it
            return [stored]
        # Lines all end; an object that is one event does not, and its data may have line breaks.
        return body.split(b"\n") if body.endswith(b"\n") else [body]

    def _delivery(self, event: Found, lines: list[bytes] | None) -> Delivery:
        topic = event.partition.topic
        place = f"{self._options.prefix}{event.key}#{event.line}"
        handle = (event.partition, event.offset)
        body = b"" if lines is None else lines[event.line] if event.line < len(lines) else lines[0]
        if lines is None:
            # It was listed, so somebody deleted it. The consumer sets it aside and goes on.
            log.error("an object that the log lists is not there", extra={"place": place})
        try:
            message = decode(body, topic)
        except (ValueError, TypeError) as exc:
            log.warning("an object is no event", extra={"place": place, "error": str(exc)})
            message = Message(topic, None, (), body)
        if event.replayed_at is not None:
            header = (REPLAY, event.replayed_at.encode())
            message = message._replace(headers=[*message.headers, header])
        return Delivery(message, place, handle)
