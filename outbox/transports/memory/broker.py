"""The in-memory broker: topics of partitions, and consumer groups with committed offsets."""

from __future__ import annotations

import itertools
import threading
import time
import zlib
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from outbox.errors import BrokerUnavailableError, PermanentError, TransientError
from outbox.transport import PUBLISHED, Dead, Message, Outcome, Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from outbox.envelope import Envelope


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    number: int


@dataclass(eq=False, slots=True)
class Member:
    """One member of a group."""

    topics: frozenset[str]


@dataclass(slots=True)
class _Group:
    members: list[Member] = field(default_factory=list)
    owners: dict[Partition, Member] = field(default_factory=dict)
    committed: dict[Partition, int] = field(default_factory=dict)
    """The next offset that the group wants, by partition."""


class MemoryBroker:
    """A broker inside one process: the reference of the contract, for tests and demos.

    Thread-safe. A topic appears when it is first published to or received from. Events of one
    key go to one partition, the same in every broker; those without a key take turns. Everything
    published stays in memory, so every new group reads from the beginning. Nothing survives the
    process: neither messages nor committed offsets, and no other process sees any of them.
    """

    _named: ClassVar[dict[str, MemoryBroker]] = {}
    _naming: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, partitions: int = 4) -> None:
        self._partition_count = partitions
        self._logs: dict[Partition, list[Message]] = defaultdict(list)
        self._arrivals: list[tuple[Partition, Message]] = []
        self._groups: dict[str, _Group] = defaultdict(_Group)
        self._turns = itertools.count()
        self._is_down = False
        self._refusals: list[tuple[Callable[[Envelope], bool], Outcome]] = []
        self._changed = threading.Condition()
        self._version = 0

    @classmethod
    def named(cls, name: str = "default") -> MemoryBroker:
        """Return this process's broker of that name; it is made when first asked for."""
        with cls._naming:
            return cls._named.setdefault(name, cls())

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Answer nobody until the block ends; what was stored before stays."""
        with self._changed:
            self._is_down = True
            self._notify()
        try:
            yield
        finally:
            with self._changed:
                self._is_down = False
                self._notify()

    @contextmanager
    def refuse(
        self, chosen: Callable[[Envelope], bool], error: PermanentError | TransientError
    ) -> Iterator[None]:
        """Refuse the chosen envelopes until the block ends; the error decides on the outcome."""
        outcome = Dead(error) if isinstance(error, PermanentError) else Retry(error)
        refusal = (chosen, outcome)
        with self._changed:
            self._refusals.append(refusal)
        try:
            yield
        finally:
            with self._changed:
                self._refusals.remove(refusal)

    def repeat(self, count: int) -> int:
        """Store the last `count` messages again, as a relay that died does; return how many."""
        with self._changed:
            last = self._arrivals[-count:] if count > 0 else []
            for partition, message in last:
                self._append(partition, message)
            return len(last)

    def messages(self, topic: str) -> list[Message]:
        """Return everything stored under a topic, in the order of its arrival."""
        with self._changed:
            return [message for partition, message in self._arrivals if partition.topic == topic]

    def append(self, envelope: Envelope, message: Message) -> Outcome:
        """Store a message of an envelope, unless the broker is down or refuses it."""
        with self._changed:
            if self._is_down:
                return Retry(BrokerUnavailableError("the in-memory broker is down"))
            for chosen, outcome in self._refusals:
                if chosen(envelope):
                    return outcome
            self._append(self._partition_of(message), message)
            return PUBLISHED

    def join(self, group: str, topics: Sequence[str]) -> Member:
        """Return a new member of a group."""
        member = Member(frozenset(topics))
        with self._changed:
            self._groups[group].members.append(member)
            self._notify()
        return member

    def leave(self, group: str, member: Member) -> None:
        """Give up membership and partitions; does nothing the second time."""
        with self._changed:
            state = self._groups[group]
            if member in state.members:
                state.members.remove(member)
            state.owners = {p: owner for p, owner in state.owners.items() if owner is not member}
            self._notify()

    def settle_assignment(self, group: str, member: Member) -> dict[Partition, int]:
        """Return the member's partitions, with the offset that the group committed in each.

        Where members came or went, this is the moment at which it gives partitions up and takes
        others: so nobody else receives what it is at work on.
        """
        with self._changed:
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
            return {partition: state.committed.get(partition, 0) for partition in mine}

    def commit(self, group: str, member: Member, partition: Partition, offset: int) -> bool:
        """Store the next offset that a group wants; False where another member has the partition.

        Raises `BrokerUnavailableError` in an outage.
        """
        with self._changed:
            self._require_up()
            state = self._groups[group]
            if state.owners.get(partition) is not member:
                return False
            state.committed[partition] = max(offset, state.committed.get(partition, 0))
            return True

    def read(self, partition: Partition, offset: int, limit: int) -> list[Message]:
        """Return up to `limit` messages from an offset on."""
        with self._changed:
            return self._logs[partition][offset : offset + limit]

    def version(self) -> int:
        """Return a number that grows with every message, change of members, and outage."""
        return self._version

    def wait(self, version: int, deadline: float) -> bool:
        """Wait for a version after this one; False at the deadline."""
        with self._changed:
            left = deadline - time.monotonic()
            return self._changed.wait_for(lambda: self._version != version, left)

    def _append(self, partition: Partition, message: Message) -> None:
        self._logs[partition].append(message)
        self._arrivals.append((partition, message))
        self._notify()

    def _notify(self) -> None:
        self._version += 1
        self._changed.notify_all()

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
