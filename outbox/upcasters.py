"""Upcasters: functions that lift the data of an old version to the next one, for consumers.

Emitting and relaying never use them: bytes are stored and forwarded as they were written.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import from_json, to_json

from outbox.declaration import Site, site
from outbox.errors import DecodeError, EventDefinitionError, PermanentError, UsageError
from outbox.event import catalogue, place

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from outbox.event import EventType

Function = TypeVar("Function", bound="Callable[[dict[str, Any]], dict[str, Any]]")


@dataclass(frozen=True, slots=True)
class Upcaster:
    """One function, from one version of a type to the next."""

    event_type: EventType
    """Of the class that it was declared for: the end of the chain that it is part of."""
    from_version: int
    function: Callable[[dict[str, Any]], dict[str, Any]]
    site: Site
    """Where it was declared."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the data of the next version; raises `UsageError` where there is none."""
        lifted: object = self.function(data)  # what is written may return anything
        if not isinstance(lifted, dict):
            raise UsageError(f"{self} returned {type(lifted).__name__}, and no dict")
        return lifted

    @property
    def place(self) -> str:
        """Where the function is, as people find it."""
        code = getattr(self.function, "__code__", None)
        name = _name(self.function)
        return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"

    def __str__(self) -> str:
        """Name it as people do."""
        start = f"{self.event_type.name} from version {self.from_version}"
        return f"{_name(self.function)}, the upcaster of {start},"


class Upcasters:
    """The upcasters of one process, by type and the version that they start from."""

    def __init__(self) -> None:
        """Start empty."""
        self._steps: dict[tuple[str, int], Upcaster] = {}

    def add(self, upcaster: Upcaster) -> None:
        """Register one; raises `EventDefinitionError` where its version has one already."""
        step = (upcaster.event_type.name, upcaster.from_version)
        known = self._steps.get(step)
        # The same function again is a reload of its module, not a clash.
        if known is not None and (
            _name(known.function) != _name(upcaster.function) or known.site.is_beside(upcaster.site)
        ):
            raise EventDefinitionError(
                f"{step[0]} has two upcasters from version {step[1]}: {known.place} and"
                f" {upcaster.place}; remove one of them"
            )
        self._steps[step] = upcaster

    def chain(self, name: str, start: int, end: int) -> Sequence[Upcaster] | None:
        """Return the upcasters from one version of a type to another; None where one is missing."""
        steps = [self._steps.get((name, version)) for version in range(start, end)]
        found = [step for step in steps if step is not None]
        return found if len(found) == len(steps) else None

    def check(self, names: Collection[str]) -> None:
        """Raise `EventDefinitionError` where a chain of these types has a gap.

        Call it when all is imported.
        """
        for (name, start), upcaster in sorted(self._steps.items(), key=lambda item: item[0]):
            if name not in names:
                continue
            end = upcaster.event_type.version
            for version in range(start + 1, end):
                if (name, version) not in self._steps:
                    raise EventDefinitionError(
                        f"{name} has an upcaster from version {start}, {upcaster.place}, and none"
                        f" from version {version} on the way to {place(upcaster.event_type.cls)},"
                        f" version {end}: write one with @outbox.upcast("
                        f"{upcaster.event_type.cls.__name__}, from_version={version})"
                    )


upcasters = Upcasters()


def upcast(cls: type, *, from_version: int) -> Callable[[Function], Function]:
    """Register the decorated function to lift events from one version to the next.

    `cls` is the class of the newest version, or of any later than `from_version`; classes of
    older versions need not exist any more. The function is given the parsed JSON of an event of
    `from_version`, to change or to replace, and returns that of `from_version + 1`. Chains are
    followed: with upcasters from 1 and from 2, a handler of version 3 gets all three. It is
    called by consumers alone, each time that such an event is handled.

    Raises `EventDefinitionError` at import for a version that is not below the class's, a second
    upcaster from the same version and a function that cannot be called so;
    `UnregisteredEventError` for a class that is no event. A gap in a chain is an error when
    everything is imported: `outbox consume`, `outbox schema` and `open_worker` look for it.
    """
    event_type = catalogue.of(cls)
    number: object = from_version  # what is written may be anything
    is_number = isinstance(number, int) and not isinstance(number, bool)
    if not is_number or not 1 <= from_version < event_type.version:
        raise EventDefinitionError(
            f"an upcaster of {place(cls)}, which is {event_type}, starts from version"
            f" {from_version!r}: it lifts from a version below {event_type.version}, 1 or more"
        )

    here = site()

    def register(function: Function) -> Function:
        _check_function(function)
        upcasters.add(Upcaster(event_type, from_version, function, here))
        return function

    return register


def lift(data: bytes, steps: Sequence[Upcaster]) -> bytes:
    """Return the data that a chain of upcasters makes of old data.

    Raises `DecodeError` where it is no JSON, `PermanentError` where it is no object, and whatever
    an upcaster raises.
    """
    try:
        lifted = from_json(data)
    except ValueError as exc:
        raise DecodeError(f"its data is not JSON: {exc}") from exc
    if not isinstance(lifted, dict):
        raise PermanentError(f"its data is no object, which {steps[0]} could lift")
    for step in steps:
        lifted = step(lifted)
    return to_json(lifted)


def check_declarations(event_types: Collection[EventType]) -> None:
    """Check what only shows when all is imported: chains of upcasters, and classes that came late.

    Raises `EventDefinitionError`.
    """
    for each in event_types:
        each.check()
    upcasters.check({each.name for each in event_types})


def _check_function(function: Callable[..., Any]) -> None:
    problem = None
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        problem = "is async; an upcaster has nothing to wait for"
    elif inspect.isgeneratorfunction(function):
        problem = "contains a yield, so calling it runs nothing; an upcaster returns"
    else:
        try:
            inspect.signature(function).bind(None)
        except (TypeError, ValueError) as exc:
            problem = f"cannot be called as upcaster(data): {exc}"
    if problem is not None:
        raise EventDefinitionError(f"{_name(function)} {problem}")


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None) or repr(function)
    return f"{getattr(function, '__module__', None) or type(function).__module__}.{name}"
