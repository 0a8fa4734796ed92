"""The publishing side of the in-memory broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.codec import to_headers
from outbox.errors import HeldBackError, RecordRefusedError
from outbox.transport import Dead, Message, Outcome, Published, Retry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope
    from outbox.transports.memory.broker import MemoryBroker
    from outbox.transports.topic import TopicTemplate


class MemoryPublisher:
    """Stores envelopes as messages in binary mode, one by one."""

    def __init__(self, broker: MemoryBroker, template: TopicTemplate) -> None:
        self._broker = broker
        self._template = template

    def publish(self, batch: Sequence[Envelope], /) -> list[Outcome]:
        """See `Publisher.publish`; it waits for nothing."""
        held: set[str] = set()
        outcomes: list[Outcome] = []
        for envelope in batch:
            key = envelope.partition_key
            if key in held:
                error = HeldBackError(f"an earlier event of the key {key!r} was not published")
                outcomes.append(Retry(error))
                continue
            outcome = self._store(envelope)
            if key is not None and not isinstance(outcome, Published):
                held.add(key)
            outcomes.append(outcome)
        return outcomes

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _store(self, envelope: Envelope) -> Outcome:
        try:
            topic = self._template.topic(envelope)
        except RecordRefusedError as error:
            return Dead(error)
        key = envelope.partition_key
        message = Message(
            topic=topic,
            key=None if key is None else key.encode(),
            headers=tuple(to_headers(envelope)),
            data=envelope.data,
        )
        return self._broker.append(envelope, message)
