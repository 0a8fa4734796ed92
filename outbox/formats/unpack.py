"""What a worker receives in another format becomes JSON, before a handler is looked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outbox.envelope import JSON_CONTENT_TYPE, Envelope
from outbox.errors import DecodeError
from outbox.formats.wire import HEAD_BYTES, MAGIC, is_framed, schema_id_of

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from outbox.formats.registry import Registry
    from outbox.reading import Received

UNPACK_SECONDS: Final = 5.0
"""How long one request of a worker to the registry may take."""


class Unpacker:
    """Makes JSON of data that is in the wire format; all else passes through as it is."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def unpack_all(self, received: Sequence[Received], types: Container[str]) -> list[Received]:
        """Return a batch with JSON in its events of some types; others are of no interest.

        What cannot be read carries its error.

        Raises `BrokerUnavailableError` or `DestinationRefusedError` where the registry does not
        answer, or not to this worker: the whole batch has to be received again.
        """
        return [
            self._unpacked(each, types) if each.content.data[:1] == MAGIC else each
            for each in received
        ]

    def unpack(self, envelope: Envelope) -> Envelope:
        """Return an event with JSON as its data; raises as `unpack_all`, and `DecodeError`."""
        if not is_framed(envelope.content_type, envelope.data):
            return envelope
        ready = self._registry.by_id(schema_id_of(envelope.data))
        data = ready.codec.decode(envelope.data[HEAD_BYTES:])
        return replace(envelope, data=data, content_type=JSON_CONTENT_TYPE)

    def close(self) -> None:
        """Close the connection to the registry; idempotent."""
        self._registry.close()

    def _unpacked(self, received: Received, types: Container[str]) -> Received:
        content = received.content
        if not isinstance(content, Envelope) or content.type not in types:
            return received
        try:
            return received._replace(content=self.unpack(content))
        except DecodeError as exc:
            return received._replace(error=exc)
