"""The publishing side of the in-memory broker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from outbox.codec import to_headers
from outbox.errors import HeldBackError, RecordRefusedError, TransientError
from outbox.transport import PUBLISHED, Dead, Message, Outcome, Retry
from outbox.transports.memory.broker import Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope
    from outbox.transports.memory.broker import MemoryBroker
    from outbox.transports.topic import TopicTemplate


class MemoryPublisher:
    """Stores envelopes as messages in binary mode, and waits until groups have processed them."""

    def __init__(
        self,
        broker: MemoryBroker,
        template: TopicTemplate,
        timeout: float,
        *,
        waits_until_processed: bool,
    ) -> None:
        self._broker = broker
        self._template = template
        self._timeout = timeout
        self._waits_until_processed = waits_until_processed
        # Stored, and not yet processed when the time was up: what is published again is these.
        self._waiting: dict[str, Place] = {}

    def publish(self, batch: Sequence[Envelope], /) -> list[Outcome]:
        """See `Publisher.publish`; what waits to be processed is not stored again."""
        deadline = time.monotonic() + self._timeout
        held: set[str] = set()
        found: list[Place | Outcome] = []
        for envelope in batch:
            key = envelope.partition_key
            if key in held:
                error = HeldBackError(f"an earlier event of the key {key!r} was not published")
                found.append(Retry(error))
                continue
            place = self._store(envelope, deadline)
            if key is not None and not isinstance(place, Place):
                held.add(key)
            found.append(place)
        if not self._waits_until_processed:
            return [PUBLISHED if isinstance(each, Place) else each for each in found]
        places = [each for each in found if isinstance(each, Place)]
        self._broker.wait_until_processed(places, deadline)
        return [
            self._settled(envelope, each) if isinstance(each, Place) else each
            for envelope, each in zip(batch, found, strict=True)
        ]

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _store(self, envelope: Envelope, deadline: float) -> Place | Outcome:
        waiting = self._waiting.get(envelope.id)
        if waiting is not None:
            return waiting
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
        return self._broker.append(envelope, message, deadline)

    def _settled(self, envelope: Envelope, place: Place) -> Outcome:
        groups = self._broker.unprocessed_by(place)
        if not groups:
            self._waiting.pop(envelope.id, None)
            return PUBLISHED
        self._waiting[envelope.id] = place
        error = TransientError(f"not yet processed by {', '.join(groups)}; it is stored in memory")
        return Retry(error)
