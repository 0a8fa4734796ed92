"""Typed events: the type name, version and key of a class, and its data as bytes.

Pydantic models, dataclasses and TypedDicts serve alike; pydantic validates all of them.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import typing
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

import typing_extensions
from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
from pydantic_core import PydanticSerializationError, ValidationError

from outbox.errors import EventDefinitionError, InvalidEventError, UnregisteredEventError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic_core import ErrorDetails

Class = TypeVar("Class", bound=type)

TYPE_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class EventType:
    """One registered class: what its events are called and how they become bytes."""

    name: str
    """The CloudEvents `type`, for instance `shop.order.placed`."""
    version: int
    key: str | None
    """The field whose value is the partition key; None where events have no order."""
    cls: type
    adapter: TypeAdapter[Any]

    def dump(self, event: object) -> bytes:
        """Serialise an event to JSON that its own class reads back.

        Raises `InvalidEventError` where it does not: the consumer could not read it either. The
        message names fields and rules, and no value, because those may be personal data. Raises
        `EventDefinitionError` where the class is not complete by now.
        """
        try:
            # By the adapter's own parts: its methods take longer than what they call.
            data = self.adapter.serializer.to_json(event, by_alias=True, warnings="error")
            self.adapter.validator.validate_json(data)
        except ValidationError as exc:
            raise self._misfit(problems(exc)) from None
        except PydanticSerializationError:
            raise self._misfit(self._find_problems(event)) from None
        except PydanticUserError as exc:  # a name in its annotations that was never defined
            raise EventDefinitionError(_unreadable(self.cls, exc)) from exc
        return data

    def _misfit(self, found: str) -> InvalidEventError:
        return InvalidEventError(f"{self} does not fit its own type {_place(self.cls)}: {found}")

    def _find_problems(self, event: object) -> str:
        """Name the fields that cannot be serialised; the serialiser quotes their values."""
        try:
            data = self.adapter.dump_json(event, by_alias=True, warnings=False)
            self.adapter.validate_json(data, strict=True)
        except ValidationError as exc:
            return problems(exc)
        except PydanticSerializationError:
            names = [name for name in _field_names(event) if not self._can_dump(event, name)]
            return f"{', '.join(names) or 'a field'}: has a value that cannot become JSON"
        return "a field has a value of another type"

    def _can_dump(self, event: object, name: str) -> bool:
        try:
            self.adapter.dump_json(event, by_alias=True, warnings=False, include={name})
        except PydanticSerializationError:
            return False
        return True

    def load(self, data: bytes) -> Any:
        """Parse an event; raises pydantic's `ValidationError` where it does not fit."""
        return self.adapter.validator.validate_json(data)

    def key_of(self, event: object) -> str | None:
        """Return the partition key of an event as text; None where the class has no key."""
        if self.key is None:
            return None
        value = event[self.key] if isinstance(event, dict) else getattr(event, self.key)
        if isinstance(value, Enum):
            value = value.value  # as in its JSON
        return None if value is None else str(value)

    def __str__(self) -> str:
        """Name it as people do."""
        return f"{self.name} v{self.version}"


class Catalogue:
    """The registered event types of one process, by class and by name with version."""

    def __init__(self) -> None:
        """Start empty."""
        self._by_class: dict[type, EventType] = {}
        self._by_name: dict[tuple[str, int], EventType] = {}

    def add(self, event_type: EventType) -> None:
        """Register a type; raises `EventDefinitionError` where its name and version are taken."""
        name = (event_type.name, event_type.version)
        known = self._by_name.get(name)
        # The same class again is a reload of its module, not a clash.
        if known is not None and _place(known.cls) != _place(event_type.cls):
            msg = (
                f"{event_type} is declared twice: by {_place(known.cls)} and by"
                f" {_place(event_type.cls)}; give one of them another type or version"
            )
            raise EventDefinitionError(msg)
        self._by_name[name] = event_type
        self._by_class[event_type.cls] = event_type

    def of(self, cls: type) -> EventType:
        """Return the type of a registered class, or raise `UnregisteredEventError`."""
        try:
            return self._by_class[cls]
        except KeyError:
            raise UnregisteredEventError(_unregistered(cls)) from None

    def __iter__(self) -> Iterator[EventType]:
        """Yield every type, by name and version."""
        return iter([self._by_name[name] for name in sorted(self._by_name)])


catalogue = Catalogue()


def event(type: str, *, version: int = 1, key: str | None = None) -> Callable[[Class], Class]:  # noqa: A002  # CloudEvents calls it so
    """Register the decorated class as an event type.

    The class is a pydantic model, a dataclass or a TypedDict. `type` is the CloudEvents type,
    parts of letters, digits, `_` and `-` with dots between; `version` is 1 or more; `key` names
    the field whose value keeps events in order: those of one key are delivered in the order in
    which their writers committed. Without a key there is no order.

    Raises `EventDefinitionError` at import where the declaration cannot work.
    """
    if not isinstance(type, str):
        msg = 'name the event type: @outbox.event("shop.order.placed")'
        raise EventDefinitionError(msg)
    if not TYPE_NAME.fullmatch(type):
        msg = (
            f"{type!r} cannot be an event type: use parts of letters, digits, '_' and '-' with"
            " dots between, for instance 'shop.order.placed'"
        )
        raise EventDefinitionError(msg)
    number: object = version  # what is written may be anything
    if not isinstance(number, int) or number < 1:
        msg = f"the version of {type} is {version!r}; versions are counted from 1"
        raise EventDefinitionError(msg)

    def register(cls: Class) -> Class:
        fields = _fields(cls)
        if key is not None and key not in fields:
            msg = (
                f"{type} v{version}: {_place(cls)} has no field {key!r} to be its key;"
                f" it has {', '.join(sorted(fields)) or 'no field'}"
            )
            raise EventDefinitionError(msg)
        adapter = _adapter(cls)
        if typing_extensions.is_typeddict(cls):
            cls = _dict_class(cls)
        catalogue.add(EventType(type, version, key, cls, adapter))
        return cls

    return register


def problems(error: ValidationError) -> str:
    """Say which fields break which rule, without their values."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'the event'}: {_rule(problem)}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    )


def _rule(problem: ErrorDetails) -> str:
    # What an application's own validator says may quote the value.
    own = problem["type"] in {"value_error", "assertion_error"}
    return "does not pass its validator" if own else problem["msg"]


def _fields(cls: type) -> set[str]:
    if issubclass(cls, BaseModel):
        return set(cls.model_fields)
    if dataclasses.is_dataclass(cls):
        return {field.name for field in dataclasses.fields(cls)}
    if typing_extensions.is_typeddict(cls):
        return set(cls.__annotations__)
    msg = f"{_place(cls)} is no event class: use a pydantic model, a dataclass or a TypedDict"
    raise EventDefinitionError(msg)


def _field_names(event: object) -> list[str]:
    return sorted(event if isinstance(event, dict) else _fields(type(event)))


def _adapter(cls: type) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(_readable(cls))
    except (PydanticSchemaGenerationError, PydanticUserError) as exc:
        raise EventDefinitionError(_unreadable(cls, exc)) from exc


def _readable(cls: type) -> Any:
    """Return a TypedDict in the form that pydantic accepts before Python 3.12."""
    if sys.version_info >= (3, 12) or not typing.is_typeddict(cls):
        return cls
    hints = typing_extensions.get_type_hints(cls, include_extras=True)
    required: frozenset[str] = cls.__required_keys__  # type: ignore[attr-defined]  # of every TypedDict
    fields = {
        name: hint if name in required else typing_extensions.NotRequired[hint]
        for name, hint in hints.items()
    }
    return typing_extensions.TypedDict(cls.__name__, fields)  # type: ignore[operator]  # at run time


def _dict_class(cls: Class) -> Class:
    """Return a dict class in the place of a TypedDict, whose instances forget their class."""
    namespace = {"__annotations__": cls.__annotations__, "__doc__": cls.__doc__}
    made = type(cls.__name__, (dict,), namespace)
    made.__module__, made.__qualname__ = cls.__module__, cls.__qualname__
    return typing.cast("Class", made)


def _unreadable(cls: type, error: Exception) -> str:
    return f"{_place(cls)} has a field that pydantic cannot read: {error}"


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _unregistered(cls: type) -> str:
    hint = "decorate its class with @outbox.event(...)"
    if cls is dict:
        hint = "a plain dict has no type; call the TypedDict decorated with @outbox.event(...)"
    return f"{_place(cls)} is not a registered event type: {hint}"
