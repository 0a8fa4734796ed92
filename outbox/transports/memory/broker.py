"""The in-memory broker: topics of partitions, each a ring buffer, and groups that read them."""

from __future__ import annotations

import itertools
import threading
import time
import zlib
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    PermanentError,
    TransientError,
)
from outbox.transport import Dead, Message, Outcome, Retry
from outbox.transports.memory.ring import RingBuffer
from outbox.transports.memory.waiting import STRATEGIES, Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from outbox.envelope import Envelope
    from outbox.transports.memory.ring import RingConsumer

CAPACITY: Final = 4096
"""Slots of each partition."""
_NOBODY: Final[Mapping[str, Sequence[str]]] = {}


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    number: int


class Place(NamedTuple):
    """Where a message is."""

    partition: Partition
    sequence: int
    """The first message of a partition has 1."""


class Stored(NamedTuple):
    """What a slot holds."""

    arrival: int
    """Its number among all messages of the broker."""
    message: Message


@dataclass(eq=False, slots=True)
class Member:
    """One member of a group."""

    topics: frozenset[str]


@dataclass(slots=True)
class _Group:
    members: list[Member] = field(default_factory=list)
    owners: dict[Partition, Member] = field(default_factory=dict)
    consumers: dict[Partition, RingConsumer[Stored]] = field(default_factory=dict)
    """How far the group is, by partition."""
    globs: Sequence[str] = ()
    """Topics of which it misses nothing, whether or not it has members."""
    after: Sequence[str] = ()
    """The groups that process a message before this one does."""


class MemoryBroker:
    """A broker inside one process, for programs that are one process, tests and demos.

    Thread-safe. A topic appears when it is first published to or received from. Events of one
    key go to one partition, the same in every broker; those without a key take turns. A partition
    is a ring buffer: a message stays until its slot is needed and every group has processed it,
    so the slowest group makes publishers wait. A group that joins begins with the oldest messages
    that are still there. Nothing survives the process: neither messages nor how far groups are,
    and no other process sees any of them.
    """

    _named: ClassVar[dict[str, MemoryBroker]] = {}
    _naming: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, partitions: int = 4, capacity: int = CAPACITY, wait: str = "block") -> None:
        """Make an empty broker; `capacity` is in messages of each partition, a power of two.

        `wait` is how threads wait for each other: `block`, `yield` or `spin`.
        """
        self.made_with: Final[Mapping[str, int | str]] = {
            "partitions": partitions,
            "capacity": capacity,
            "wait": wait,
        }
        self._partition_count = partitions
        self._capacity = capacity
        self._signal = Signal(STRATEGIES[wait]())
        self._lock = self._signal.lock
        self._rings: dict[Partition, RingBuffer[Stored]] = {}
        self._groups: dict[str, _Group] = defaultdict(_Group)
        self._turns = itertools.count()
        self._arrivals = itertools.count()
        self._is_down = False
        self._is_closed = False
        self._refusals: list[tuple[Callable[[Envelope], bool], Outcome]] = []
        self._version = 0

    @classmethod
    def named(cls, name: str = "default", **wanted: int | str) -> MemoryBroker:
        """Return this process's broker of that name; it is made when first asked for.

        Raises `ConfigurationError` where it was made otherwise than is wanted here.
        """
        with cls._naming:
            if name not in cls._named:
                cls._named[name] = cls(**wanted)  # type: ignore[arg-type]  # by its options' types
            broker = cls._named[name]
        for what, value in wanted.items():
            made = broker.made_with[what]
            if made != value:
                raise ConfigurationError(
                    f"the in-memory broker {name!r} of this process was made with {what} = {made},"
                    f" not {value}: let all of its routes say the same, or name another broker"
                )
        return broker

    def declare(
        self, groups: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]] = _NOBODY
    ) -> None:
        """Let groups miss nothing, from before their first member joins, of topics by globs.

        `after` has the groups that come before others, which have to be among `groups`: a group
        is shown a message once those before it have processed it.
        """
        with self._lock:
            for name, globs in groups.items():
                self._groups[name].globs = globs
            for name, before in after.items():
                self._groups[name].after = before
            for partition in self._rings:
                self._attach_declared(partition)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Answer nobody until the block ends; what was stored before stays."""
        with self._lock:
            self._is_down = True
            self._notify()
        try:
            yield
        finally:
            with self._lock:
                self._is_down = False
                self._notify()

    @contextmanager
    def refuse(
        self, chosen: Callable[[Envelope], bool], error: PermanentError | TransientError
    ) -> Iterator[None]:
        """Refuse the chosen envelopes until the block ends; the error decides on the outcome."""
        outcome = Dead(error) if isinstance(error, PermanentError) else Retry(error)
        refusal = (chosen, outcome)
        with self._lock:
            self._refusals.append(refusal)
        try:
            yield
        finally:
            with self._lock:
                self._refusals.remove(refusal)

    def repeat(self, count: int) -> int:
        """Store the last `count` messages again, as a relay that died does; return how many.

        Raises `BrokerUnavailableError` where there is no room for them.
        """
        with self._lock:
            last = sorted(self._stored())[-count:] if count > 0 else []
            for _, message in last:
                self._put(message, time.monotonic())
            return len(last)

    def messages(self, topic: str) -> list[Message]:
        """Return what is still there of a topic, in the order of its arrival."""
        with self._lock:
            return [message for _, message in sorted(self._stored()) if message.topic == topic]

    def append(self, envelope: Envelope, message: Message, deadline: float) -> Place | Outcome:
        """Store a message of an envelope, and return where.

        Waits for room until the deadline, by `time.monotonic()`. Where the broker is down, full or
        refuses it, what became of it is returned.
        """
        with self._lock:
            for chosen, outcome in self._refusals:
                if not self._is_down and chosen(envelope):
                    return outcome
            try:
                return self._put(message, deadline)
            except BrokerUnavailableError as error:
                return Retry(error)

    def wait_until_processed(self, places: Sequence[Place], deadline: float) -> None:
        """Wait until every group has processed some messages, or for an outage or the deadline."""
        last = {place.partition: place.sequence for place in sorted(places)}

        def are_processed() -> bool:
            return self._is_down or all(
                self._rings[partition].processed >= sequence for partition, sequence in last.items()
            )

        with self._lock:
            self._signal.wait(are_processed, deadline - time.monotonic())

    def unprocessed_by(self, place: Place) -> Sequence[str]:
        """Return the groups that have yet to process a message."""
        with self._lock:
            return self._behind(*place)

    def join(self, group: str, topics: Sequence[str]) -> Member:
        """Return a new member of a group, which from now on misses nothing of these topics."""
        member = Member(frozenset(topics))
        with self._lock:
            state = self._groups[group]
            state.members.append(member)
            for topic in member.topics:
                for number in range(self._partition_count):
                    self._attach(group, Partition(topic, number))
            self._notify()
        return member

    def leave(self, group: str, member: Member) -> None:
        """Give up membership and partitions; does nothing the second time.

        The group stays: messages are kept for it, and publishers wait for it, until `forget`.
        """
        with self._lock:
            state = self._groups[group]
            if member in state.members:
                state.members.remove(member)
            state.owners = {p: owner for p, owner in state.owners.items() if owner is not member}
            self._notify()

    def forget(self, group: str) -> None:
        """Let a group that will not come back hold up nobody; its members receive no more."""
        with self._lock:
            state = self._groups.pop(group, _Group())
            for partition, consumer in state.consumers.items():
                self._rings[partition].drop(consumer)
            self._notify()

    def close(self, timeout: float | None = None) -> bool:
        """Take nothing more, and wait until every group has processed everything; tell whether so.

        `timeout` is in seconds; None waits as long as it takes. Members go on to receive.
        """
        with self._lock:
            self._is_closed = True
            self._notify()
            return self._signal.wait(
                lambda: all(ring.processed >= ring.published for ring in self._rings.values()),
                timeout,
            )

    def settle_assignment(self, group: str, member: Member) -> dict[Partition, int]:
        """Return the member's partitions, with how many messages of each the group has processed.

        Where members came or went, this is the moment at which it gives partitions up and takes
        others: so nobody else receives what it is at work on.
        """
        with self._lock:
            self._require_up()
            state = self._groups[group]
            due = self._due(state)
            for partition, owner in list(state.owners.items()):
                if owner is member and due.get(partition) is not member:
                    del state.owners[partition]
                    self._notify()
            for partition, owner in due.items():
                if owner is member:
                    state.owners.setdefault(partition, member)
            mine = [p for p, owner in state.owners.items() if owner is member]
            return {partition: state.consumers[partition].sequence for partition in mine}

    def commit(self, group: str, member: Member, partition: Partition, offset: int) -> bool:
        """Store that a group has processed the first `offset` messages of a partition.

        False where another member has the partition. Raises `BrokerUnavailableError` in an outage.
        """
        with self._lock:
            self._require_up()
            state = self._groups[group]
            if state.owners.get(partition) is not member:
                return False
            consumer = state.consumers[partition]
            consumer.sequence = max(offset, consumer.sequence)
            self._notify()
            return True

    def read(self, group: str, partition: Partition, offset: int, limit: int) -> list[Message]:
        """Return up to `limit` messages behind the first `offset`, as far as the group may see."""
        with self._lock:
            consumer = self._groups[group].consumers.get(partition)
            if consumer is None:
                return []
            end = min(consumer.available, offset + limit)
            return [stored.message for stored in self._rings[partition].items(offset, end)]

    def version(self) -> int:
        """Return a number that grows with every message, commit, change of members, and outage."""
        return self._version

    def wait(self, version: int, deadline: float) -> bool:
        """Wait for a version after this one; False at the deadline."""
        with self._lock:
            left = deadline - time.monotonic()
            return self._signal.wait(lambda: self._version != version, left)

    def _put(self, message: Message, deadline: float) -> Place:
        """Store a message, as soon as there is room for it."""
        partition = self._partition_of(message)
        ring = self._ring(partition)
        self._signal.wait(
            lambda: ring.room() > 0 or self._is_down or self._is_closed,
            deadline - time.monotonic(),
        )
        self._require_up()
        if self._is_closed:
            raise BrokerUnavailableError("the in-memory broker is closed")
        if ring.room() < 1:
            slowest = ", ".join(self._behind(partition, ring.processed + 1))
            raise BrokerUnavailableError(
                f"partition {partition.number} of the in-memory topic {partition.topic!r} is full:"
                f" {ring.capacity} messages wait for {slowest}"
            )
        ring.put([Stored(next(self._arrivals), message)])
        self._notify()
        return Place(partition, ring.published)

    def _behind(self, partition: Partition, sequence: int) -> Sequence[str]:
        return [
            name
            for name, group in self._groups.items()
            if partition in group.consumers and group.consumers[partition].sequence < sequence
        ]

    def _ring(self, partition: Partition) -> RingBuffer[Stored]:
        ring = self._rings.get(partition)
        if ring is None:
            ring = self._rings[partition] = RingBuffer(self._capacity, signal=self._signal)
            self._attach_declared(partition)
        return ring

    def _attach_declared(self, partition: Partition) -> None:
        for name, group in list(self._groups.items()):
            if any(fnmatchcase(partition.topic, glob) for glob in group.globs):
                self._attach(name, partition)

    def _attach(self, name: str, partition: Partition) -> RingConsumer[Stored] | None:
        """Let a group read a partition, behind the groups before it that read it as well."""
        ring = self._ring(partition)
        group = self._groups[name]
        if partition not in group.consumers:
            after = [
                self._attach(before, partition)
                for before in group.after
                if any(fnmatchcase(partition.topic, glob) for glob in self._groups[before].globs)
            ]
            group.consumers[partition] = ring.attach(
                after=[consumer for consumer in after if consumer is not None]
            )
        return group.consumers[partition]

    def _stored(self) -> Iterator[Stored]:
        for ring in self._rings.values():
            yield from ring.items(ring.oldest, ring.published)

    def _notify(self) -> None:
        self._version += 1
        self._signal.notify()

    def _partition_of(self, message: Message) -> Partition:
        # Not hash(): that differs between processes, and a broker's order should not.
        turn = next(self._turns) if message.key is None else zlib.crc32(message.key)
        return Partition(message.topic, turn % self._partition_count)

    def _due(self, state: _Group) -> dict[Partition, Member]:
        due = {}
        for topic in sorted({topic for member in state.members for topic in member.topics}):
            interested = [member for member in state.members if topic in member.topics]
            for number in range(self._partition_count):
                due[Partition(topic, number)] = interested[number % len(interested)]
        return due

    def _require_up(self) -> None:
        if self._is_down:
            raise BrokerUnavailableError("the in-memory broker is down")
