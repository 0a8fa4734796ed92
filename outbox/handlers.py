"""Handlers: the functions that a consumer runs, by the type of the event."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
from pydantic import ValidationError

from outbox.codec import is_json
from outbox.errors import DecodeError, EventDefinitionError, MisfitError, PermanentError
from outbox.event import catalogue
from outbox.problems import in_full
from outbox.sealing import without_tokens
from outbox.upcasters import check_declarations, lift, upcasters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from outbox.context import Context
    from outbox.envelope import Envelope
    from outbox.event import EventType
    from outbox.upcasters import Upcaster


@dataclass(frozen=True, slots=True)
class Handler:
    """One function and what it wants to be given."""

    function: Callable[[Any, Context], Any]
    is_async: bool
    event_type: EventType | None
    """Whose instances it takes; None for one that takes the parsed JSON, or bytes."""


class Call(NamedTuple):
    """One handler with the event that it is to be called with."""

    handler: Handler
    event: Any


call_of: Final[Callable[[tuple[Handler, Any]], Call]] = partial(tuple.__new__, Call)
"""Makes one in C, which a named tuple's own constructor does not."""


class Handlers:
    """The handlers of one consumer, by event type and in the order of their registration."""

    def __init__(self) -> None:
        """Start empty."""
        self._by_type: dict[str, list[Handler]] = {}
        self._versions: dict[str, set[int]] = {}

    def add(self, event: type | str, function: Callable[..., Any]) -> None:
        """Register a function for a registered class, or by name for any version of a type.

        Raises `EventDefinitionError` where it could never be called, and
        `UnregisteredEventError` for a class that is no event.
        """
        check(function)
        event_type = None if isinstance(event, str) else catalogue.of(event)
        name = event if isinstance(event, str) else catalogue.of(event).name
        handler = Handler(function, is_async(function), event_type)
        self._by_type.setdefault(name, []).append(handler)
        versions = self._versions.setdefault(name, set())
        if event_type is not None:
            versions.add(event_type.version)

    def check(self) -> None:
        """Check the event classes and upcasters that they need, when all is imported.

        Raises `EventDefinitionError`.
        """
        handlers = [handler for each in self._by_type.values() for handler in each]
        check_declarations([each.event_type for each in handlers if each.event_type is not None])

    @property
    def types(self) -> Sequence[str]:
        """The event types that have a handler, by name."""
        return sorted(self._by_type)

    def takes(self, name: str, version: int) -> bool:
        """Tell whether an event of a version has a handler, or can be lifted to one that has."""
        if any(handler.event_type is None for handler in self._by_type.get(name, ())):
            return True
        versions = self._versions.get(name, set())
        return version in versions or bool(_lifting(name, version, versions)[1])

    def __contains__(self, event_type: object) -> bool:
        return event_type in self._by_type

    def load(self, envelope: Envelope) -> list[Call]:
        """Parse an event for each of its handlers, anew each time.

        An event of a version that no class here has is lifted by upcasters to the next version
        that one has. Raises `PermanentError` where no attempt could ever read it: its data does
        not fit its class, or no handler takes its version. What else a validator or an upcaster
        raises, its handler will.
        """
        calls: list[Call] = []
        name, version, steps = envelope.type, envelope.version, _NO_STEPS
        versions = self._versions[name]
        if version not in versions and versions:
            version, steps = _lifting(name, version, versions)
        for handler in self._by_type[name]:
            event_type = handler.event_type
            if event_type is None:
                calls.append(call_of((handler, _plain(envelope))))
            elif event_type.version == version:
                try:
                    data = envelope.data
                    event = _lifted(event_type, data, steps) if steps else event_type.load(data)
                    calls.append(call_of((handler, event)))
                except ValidationError as exc:
                    raise _misfit(event_type, envelope, exc) from exc
                except PermanentError:
                    raise
                except Exception as exc:  # noqa: BLE001  # code of the application raised it
                    calls.append(Call(_raising(exc), None))
        return calls or _refuse_version(envelope, versions)


def _lifted(event_type: EventType, data: bytes, steps: Sequence[Upcaster]) -> Any:
    """Return the object of an event; upcasters get null for what cannot be read."""
    readable = without_tokens(data)
    lifted = lift(readable, steps)
    return event_type.load(lifted) if readable == data else event_type.load_lifted(lifted)


_NO_STEPS: Final[Sequence[Upcaster]] = ()


def _lifting(name: str, version: int, versions: set[int]) -> tuple[int, Sequence[Upcaster]]:
    """Return the next of some versions that a version can be lifted to, and how."""
    for each in sorted(versions):
        steps = upcasters.chain(name, version, each) if each > version else None
        if steps:
            return each, steps
    return version, _NO_STEPS


def is_async(function: Callable[..., Any]) -> bool:
    """Tell whether calling it gives a coroutine; an object with an async `__call__` counts."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # it asks what it is, not whether it is
    )


def check(function: Callable[..., Any]) -> None:
    """Raise `EventDefinitionError` where `function(event, context)` could not handle an event."""
    module = getattr(function, "__module__", type(function).__module__)
    place = f"{module}.{getattr(function, '__qualname__', function)}"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise EventDefinitionError(
            f"{place} contains a yield, so calling it runs nothing; a handler returns"
        )
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError) as exc:
        raise EventDefinitionError(
            f"{place} cannot be called as handler(event, context): {exc}"
        ) from None


def _raising(error: Exception) -> Handler:
    """Return a handler that fails, in its turn."""

    def fail(_event: object, _context: Context) -> None:
        raise error

    return Handler(fail, is_async=False, event_type=None)


def _misfit(event_type: EventType, envelope: Envelope, error: ValidationError) -> MisfitError:
    lifted = envelope.version != event_type.version
    origin = f", lifted from v{envelope.version}," if lifted else ""
    fact = f"its data{origin} does not fit {event_type}"
    told = f"{fact}: {event_type.problems(error)}"
    return MisfitError(f"{fact}: {in_full(error)}", told)


def _plain(envelope: Envelope) -> Any:
    return _json(envelope) if is_json(envelope.content_type) else envelope.data


def _json(envelope: Envelope) -> Any:
    try:
        return orjson.loads(without_tokens(envelope.data))
    except orjson.JSONDecodeError as exc:
        raise DecodeError(f"its data is not {envelope.content_type}: {exc}") from exc


def _refuse_version(envelope: Envelope, versions: set[int]) -> list[Call]:
    known = ", ".join(f"v{version}" for version in sorted(versions))
    older = envelope.version < max(versions)
    upcaster = f", or @outbox.upcast(…, from_version={envelope.version})" if older else ""
    raise PermanentError(
        f"{envelope.type} v{envelope.version}: this consumer handles {known} alone; add a handler"
        f" for the class of that version{upcaster}, then replay the dead letter"
    )
