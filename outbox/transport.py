"""④ The seam between events and brokers: what a transport has to do, and nothing else.

A transport has two sides, `Publisher` for the relay and `Subscriber` for workers, and is made by
a factory that `outbox.transports` looks up by name. `outbox.testing` has the suite that every
implementation passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope
    from outbox.errors import PermanentError, TransientError


@dataclass(frozen=True, slots=True)
class Published:
    """The broker has stored the event."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not stored, or not known to be: publish it again, and nothing later of its key before it."""

    error: TransientError


@dataclass(frozen=True, slots=True)
class Dead:
    """It can never be stored: set it aside as a dead letter."""

    error: PermanentError


Outcome = Published | Retry | Dead
"""What became of one event; a closed sum."""

PUBLISHED = Published()
"""The one value of `Published` that anyone needs."""


class Publisher(Protocol):
    """Carries envelopes to a broker; used from one thread at a time."""

    def publish(self, batch: Sequence[Envelope], /) -> Sequence[Outcome]:
        """Return one outcome for each envelope, in order, once each is settled.

        Envelopes of one partition key reach the broker in the order of the batch. Behind one
        that is `Retry` or `Dead`, later ones of its key are `Retry`: the caller may publish them
        again, or set them aside. They were not sent (`HeldBackError`), unless the broker itself
        refused or lost the earlier one: then they may have been stored, and come again.
        It is not atomic: some may be stored and others not. It returns within the time-out that
        it was made with, an outage included: then with `Retry` for what the broker did not
        confirm, which may still have been stored. It raises `ConfigurationError` where no retry
        could ever help.
        """
        ...

    def close(self) -> None:
        """Release the connection; idempotent. Nothing is in flight between two publishes."""
        ...


@runtime_checkable
class TransactionalPublisher(Publisher, Protocol):
    """A publisher whose broker stores a batch and the route's progress together, or neither.

    The progress tells whoever publishes next how far the one before came, so that it neither
    repeats nor leaves out anything.
    """

    def take_over(self, identity: str, /) -> bytes | None:
        """Become the only publisher of a route; return its last progress, None where there is none.

        Call it before anything is published, and again after `InDoubtError`. From then on the
        broker turns away every publisher of the same identity that took over earlier. Raises
        `TransientError`, after which it may be called again, or `ConfigurationError`.
        """
        ...

    def publish_with(self, batch: Sequence[Envelope], progress: bytes, /) -> Sequence[Outcome]:
        """Store a batch and its progress together: all outcomes are `Published`, or none is.

        Where none is, those that can never be stored are `Dead`, and all others are `Retry`. All
        are `HeldBackError` where it is not known which one is at fault: fewer at once tell.
        Raises `InDoubtError` where it is not known which: `take_over` tells by the progress
        that it returns. Otherwise as `publish`.
        """
        ...


class Message(NamedTuple):
    """What a broker carries: bytes with a key and headers, not yet known to be an event."""

    topic: str
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    """None is a header without a value, which reads as an empty one."""
    data: bytes


class Delivery(NamedTuple):
    """One received message and the place where it stands at the broker."""

    message: Message
    place: str
    """For people: topic, partition and offset, for instance `shop.order[2]@4711`."""
    handle: object
    """For the subscriber that made it, nobody else."""


class Subscriber(Protocol):
    """Receives messages as one member of a consumer group; used from one thread at a time.

    Messages of one key come in the order in which they were published, and at one time go to
    one member of the group only, as long as that member keeps receiving. What was never
    acknowledged comes again, to this member or another: delivery is at-least-once.
    """

    def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
        """Return 1 to `limit` deliveries, or none when `timeout` seconds have passed.

        Raises `BrokerUnavailableError` or `DestinationRefusedError` where the broker says so,
        after which it may be called again, and `ConfigurationError` where that is pointless.
        """
        ...

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        """Say that these are done with, so that they do not come again; idempotent.

        Deliveries are acknowledged in the order in which they were received. An acknowledgement
        that comes too late, because the group gave their partition to another member, is
        logged and dropped: they may come again there. One that the broker cannot take now is
        logged, kept and sent with the next call; until then they may come again.
        """
        ...

    def nack(self, deliveries: Sequence[Delivery], /) -> None:
        """Give these back: they, and what followed them, are received again; idempotent."""
        ...

    def close(self) -> None:
        """Leave the group; idempotent. What was not acknowledged goes to another member."""
        ...
