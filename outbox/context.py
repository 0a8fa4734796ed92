"""What a handler knows of the event that it handles, and what it passes on to those it emits."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping
    from datetime import datetime

    from outbox.envelope import Envelope

cause: ContextVar[Envelope | None] = ContextVar("outbox_cause", default=None)
"""The event that is being handled here; `emit` takes correlation, causation, actor and trace
context from it."""


@dataclass(frozen=True, slots=True)
class Context:
    """Handed to a handler beside the event."""

    envelope: Envelope
    session: Any
    """The `Session` (`AsyncSession` for an async handler) of the transaction that also holds the
    inbox row: what is written through it happens exactly once."""
    attempt: int
    """Which attempt at this event it is, from 1."""

    def emit(
        self,
        event: object,
        *,
        key: str | None = None,
        topic: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | uuid.UUID | None = None,  # noqa: A002  # CloudEvents calls it so
        time: datetime | None = None,
        source: str | None = None,
        actor: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
        dataschema: str | None = None,
    ) -> Envelope:
        """Emit an event in the handler's transaction, with its cause; see `outbox.emit`."""
        from outbox.emitter import emit  # noqa: PLC0415  # the emitter reads `cause` from here

        return emit(
            self.session,
            event,
            key=key,
            topic=topic,
            subject=subject,
            headers=headers,
            id=id,
            time=time,
            source=source,
            actor=actor,
            correlation_id=correlation_id,
            causation_id=causation_id,
            traceparent=traceparent,
            tracestate=tracestate,
            dataschema=dataschema,
        )
