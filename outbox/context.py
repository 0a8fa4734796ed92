"""What a handler knows of the event that it handles, and what it passes on to those it emits."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from typing import Unpack

    from outbox.emitter import Attributes
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

    def emit(self, event: object, **attributes: Unpack[Attributes]) -> Envelope:
        """Emit an event in the handler's transaction, with its cause; see `outbox.emit`."""
        from outbox.emitter import emit  # noqa: PLC0415  # the emitter reads `cause` from here

        return emit(self.session, event, **attributes)


class _Draft(Context):
    """One that is still to be filled: a frozen dataclass sets its fields by a call each."""

    __slots__ = ()

    # Both, because Python has one slot for them.
    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__


_new: Final[Any] = object.__new__


def context_of(envelope: Envelope, session: Any, attempt: int) -> Context:
    """Return a context, where they are made by the thousand."""
    draft = _new(_Draft)
    draft.envelope = envelope
    draft.session = session
    draft.attempt = attempt
    draft.__class__ = Context
    made: Context = draft
    return made
