"""What a handler knows of the event that it handles, and what it passes on to those it emits."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outbox.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Unpack

    from outbox.emitter import Attributes
    from outbox.envelope import Envelope

cause: ContextVar[Envelope | None] = ContextVar("outbox_cause", default=None)
"""The event that is being handled here; `emit` takes correlation, causation, actor and trace
context from it."""


@dataclass(frozen=True, slots=True)
class Acting:
    """Who acts here, and in which handler that was said; None outside of any."""

    name: str
    cause: Envelope | None


acting: ContextVar[Acting | None] = ContextVar("outbox_actor", default=None)
"""Whom `emit` names as actor where the call does not."""


@contextmanager
def actor(name: str) -> Iterator[None]:
    """Name who acts: `with outbox.actor("user:42"):` is the `actor` of every event emitted inside.

    That includes the events of `outbox.track`. It holds for this thread or asyncio task and the
    tasks that it starts; a block inside another one counts until its end. `actor=` of a call goes
    before it. In a handler, the event's own actor is passed on unless the block is in the handler.

    An event has the actor of the moment at which it is emitted; a tracked change is emitted by the
    flush, so the block has to reach around the commit.

    Raises `UsageError` where the name is not a text, or empty.
    """
    given: object = name  # what is written may be anything
    if not given or not isinstance(given, str):
        raise UsageError(f"an actor is a text such as 'user:42', and not {name!r}")
    token = acting.set(Acting(name, cause.get()))
    try:
        yield
    finally:
        acting.reset(token)


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
