"""The rows of a page, and the envelopes that they become; each microsecond here is one a row.

A frozen dataclass sets its fields one call at a time, which takes most of `codec.from_row`. Here a
draft with the same slots is filled by plain assignments and then declared to be an envelope.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import orjson

from outbox.codec import from_row
from outbox.envelope import Envelope

if TYPE_CHECKING:
    from collections.abc import Sequence

SEQ: Final = 0
TRANSACTION_ID: Final = 12
STATE: Final = 13


class _Draft:
    """An envelope that is still to be filled."""

    __slots__ = tuple(field.name for field in fields(Envelope))

    if TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None: ...


def to_envelopes(rows: Sequence[tuple[Any, ...]]) -> list[Envelope]:
    """Make the envelope of each row, equal to the one of `codec.from_row`.

    Headers come as JSON text, and None where there are none.
    """
    return [_envelope(*row) for row in rows]


def _envelope(
    seq: int,
    id: str,  # noqa: A002  # the column's name
    source: str | None,
    type: str,  # noqa: A002  # the column's name
    version: int,
    subject: str | None,
    partition_key: str | None,
    topic: str | None,
    time: Any,
    content_type: str,
    data: bytes,
    headers: str | None,
    _transaction_id: bytes,
    _state: None,
) -> Envelope:
    own = orjson.loads(headers) if headers else {}
    for value in own.values():
        if value.__class__ is not str:  # plain SQL may store any JSON
            row = (id, source, type, version, subject, partition_key, topic, time)
            return from_row(seq, *row, content_type, data, own)
    draft = _Draft()
    draft.id = id
    draft.source = source
    draft.type = type
    draft.time = time
    draft.data = data
    draft.version = version
    draft.content_type = content_type
    draft.subject = subject
    draft.partition_key = partition_key
    draft.topic = topic
    draft.dataschema = own.pop("dataschema", None)
    draft.correlation_id = own.pop("correlationid", None)
    draft.causation_id = own.pop("causationid", None)
    draft.actor = own.pop("actor", None)
    draft.traceparent = own.pop("traceparent", None)
    draft.tracestate = own.pop("tracestate", None)
    draft.headers = own
    draft.sequence = seq
    draft.__class__ = Envelope  # type: ignore[assignment]  # the same slots: no copy is needed
    return draft  # type: ignore[return-value]  # it has just become one
