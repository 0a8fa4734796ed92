"""Typed events: the type name, version and key of a class, and its data as bytes.

Pydantic models, dataclasses, TypedDicts and attrs classes serve alike; pydantic validates all of
them.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typing_extensions
from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import PydanticSerializationError, ValidationError, from_json, to_json

from outbox import attrs_class
from outbox.declaration import Site, site
from outbox.envelope import MAX_VERSION
from outbox.errors import EventDefinitionError, InvalidEventError, UnregisteredEventError
from outbox.marked import MisplacedError, marked
from outbox.names import lost_fields, read_names
from outbox.personal import PersonalField, reading
from outbox.problems import without_values
from outbox.schema.generator import Generator
from outbox.sealing import has_token, has_tokens, is_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from outbox.marked import Mark
    from outbox.sealing import Collector

Class = TypeVar("Class", bound=type)

MAX_TYPE_LENGTH: Final = 200
"""The longest name of a type: its topic and the file of its schema are called by it."""
TYPE_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True)
class EventType:
    """One registered class: what its events are called and how they become bytes."""

    name: str
    """The CloudEvents `type`, for instance `shop.order.placed`."""
    version: int
    key: str | None
    """The field whose value is the partition key; None where events have no order."""
    cls: type
    adapter: TypeAdapter[Any]
    description: str | None = None
    owner: str | None = None
    """Who answers for it, for instance a team."""
    given_examples: tuple[Any, ...] = dataclasses.field(default=(), compare=False)
    site: Site | None = dataclasses.field(default=None, compare=False)
    """Where it was declared."""

    @cached_property
    def examples(self) -> Sequence[Any]:
        """The examples as parsed JSON; raises `EventDefinitionError` where one does not fit."""
        return [self._example(number, each) for number, each in enumerate(self.given_examples, 1)]

    def _example(self, number: int, example: object) -> Any:
        try:
            if not isinstance(example, self.cls):
                example = self.load(to_json(example, by_alias=True))
            return from_json(self.dump(example))
        except ValidationError as exc:
            found = self.problems(exc)
        except PydanticSerializationError:
            found = "it has a value that cannot become JSON"
        except InvalidEventError as exc:
            found = str(exc)
        raise EventDefinitionError(
            f"{self}: example {number} of {place(self.cls)} does not fit: {found}"
        )

    @cached_property
    def json_schema(self) -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) of the data as `dump` writes it.

        A field with a default is not required: older events, and other writers, may lack it.
        Raises `EventDefinitionError` where a field has none, or a class is not complete by now.
        """
        try:
            return self.adapter.json_schema(
                by_alias=True, schema_generator=Generator, mode="serialization"
            )
        except PydanticInvalidForJsonSchema as exc:
            raise EventDefinitionError(
                f"{place(self.cls)} has a field that JSON Schema cannot describe: {exc.message}"
            ) from exc
        except PydanticUserError as exc:
            raise EventDefinitionError(_unreadable(self.cls, exc)) from exc

    @cached_property
    def personal(self) -> tuple[PersonalField, ...]:
        """The fields marked by `outbox.Personal`, nested ones included.

        Raises `EventDefinitionError` where one has no subject or is one, would not be encrypted,
        could be in endless places, or has a type that nothing can stand for.
        """
        try:
            found = marked(self.adapter.core_schema)
        except MisplacedError as exc:
            raise EventDefinitionError(f"{self}: {place(self.cls)} has {exc}") from None
        except PydanticUserError as exc:
            raise EventDefinitionError(_unreadable(self.cls, exc)) from exc
        fields = tuple(PersonalField(each.path, self._subject(each)) for each in found)
        for each in fields:
            self._check_clear(each, fields)
        return fields

    def _subject(self, found: Mark) -> tuple[str, ...]:
        if found.sibling is not None:
            return found.sibling
        name = found.subject or self.key
        if name is None:
            raise EventDefinitionError(
                f"{self}: {place(self.cls)} has the personal field {found}, and no key that says"
                ' whose it is: name the field by outbox.Personal(subject="…")'
            )
        if name not in _fields(self.cls):
            raise EventDefinitionError(
                f"{self}: {place(self.cls)} has no field {name!r} to be the subject of {found};"
                f" it has {', '.join(sorted(_fields(self.cls)))}"
            )
        return (self.json_name(name),)

    def _check_clear(self, found: PersonalField, others: Sequence[PersonalField]) -> None:
        """Raise where a field is personal that has to be in clear."""
        for other in others:
            if found.path[: len(other.subject)] == other.subject:
                raise EventDefinitionError(
                    f"{self}: {place(self.cls)} has the personal field {found}, which says whose"
                    f" {other} is: that stays in clear, so let it be a number or another name that"
                    " nobody else knows, and do not mark it"
                )
        if self.key is not None and found.path[:1] == (self.json_name(self.key),):
            raise EventDefinitionError(
                f"{self}: {place(self.cls)} has the personal field {found} as its key, which every"
                " broker has in clear: let the key be a number or another name that nobody else"
                " knows"
            )

    def json_name(self, field: str) -> str:
        """Return the name that a field of the class has in its JSON."""
        if attrs_class.is_attrs(self.cls):
            return attrs_class.names(self.cls).get(field, field)
        known = getattr(self.cls, "__pydantic_fields__", {}).get(field)
        return field if known is None else known.serialization_alias or known.alias or field

    @property
    def is_complete(self) -> bool:
        """Whether every class that its own one names is there by now."""
        try:
            _ = self.adapter.validator.title  # of whatever is complete
        except PydanticUserError:
            return False
        return True

    def check(self) -> None:
        """Raise `EventDefinitionError` where the declaration is wrong, or not complete by now."""
        lost = "; ".join(lost_fields(self.cls))
        if lost:
            raise EventDefinitionError(
                f"{self}: {place(self.cls)} could not read what it writes: {lost}"
            )
        _ = self.json_schema, self.personal, self.examples

    def dump(self, event: object, collector: Collector | None = None) -> bytes:
        """Serialise an event to JSON that its own class reads back.

        A collector takes the personal values out of it; without one they are in clear.

        Raises `InvalidEventError` where it does not: the consumer could not read it either. The
        message names fields and rules, and no value, because those may be personal data. Raises
        `EventDefinitionError` where the class is not complete by now.
        """
        try:
            # By the adapter's own parts: its methods take longer than what they call.
            data = clear = self.adapter.serializer.to_json(
                event, by_alias=True, warnings="error", context=collector
            )
            if collector:
                data, clear = self._taken(data, collector)
            if has_token(clear):
                raise self._misfit(_impostor(clear))
            self.adapter.validator.validate_json(clear)
        except ValidationError as exc:
            raise self._misfit(self.problems(exc)) from None
        except PydanticSerializationError:
            raise self._misfit(self._find_problems(event)) from None
        except PydanticUserError as exc:  # a name in its annotations that was never defined
            raise EventDefinitionError(_unreadable(self.cls, exc)) from exc
        return data

    def _taken(self, data: bytes, collector: Collector) -> tuple[bytes, bytes]:
        try:
            return collector.take(data)
        except ValueError as exc:
            raise self._misfit(str(exc)) from None

    def problems(self, error: ValidationError) -> str:
        """Say which fields break which rule, and nothing that stands in the data."""
        return without_values(error, self._names)

    @cached_property
    def _names(self) -> frozenset[str]:
        """The names of all fields that it reads, nested ones included."""
        return frozenset(read_names(self.adapter.core_schema))

    def _misfit(self, found: str) -> InvalidEventError:
        return InvalidEventError(f"{self} does not fit its own type {place(self.cls)}: {found}")

    def _find_problems(self, event: object) -> str:
        """Name the fields that cannot be serialised; the serialiser quotes their values."""
        try:
            data = self.adapter.dump_json(event, by_alias=True, warnings=False)
            self.adapter.validate_json(data, strict=True)
        except ValidationError as exc:
            return self.problems(exc)
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
        if not has_tokens(data):
            return self.adapter.validator.validate_json(data)
        with reading(is_token):
            return self.adapter.validator.validate_json(data)

    def load_lifted(self, data: bytes) -> Any:
        """Parse what upcasters made of an event that has values which they got as null.

        What is null still, and marked, is read as any value that cannot be. Raises as `load` does.
        """
        with reading(_is_null):
            return self.adapter.validator.validate_json(data)

    def key_of(self, event: object) -> str | None:
        """Return the partition key of an event as text; None where the class has no key."""
        return None if self.key is None else self.text_of(event, self.key)

    def text_of(self, event: object, field: str) -> str | None:
        """Return the value of a field of an event as text; None where it has none."""
        value = event.get(field) if isinstance(event, dict) else getattr(event, field, None)
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
        """Register a type.

        Raises `EventDefinitionError` where its name and version are taken, or it is wrong.
        """
        name = (event_type.name, event_type.version)
        known = self._by_name.get(name)
        # The same class again is a reload of its module, not a clash.
        if known is not None and (
            place(known.cls) != place(event_type.cls) or _are_beside(known.site, event_type.site)
        ):
            msg = (
                f"{event_type} is declared twice: by {_declared(known)} and by"
                f" {_declared(event_type)}; {_advice(known.cls, event_type.cls)}"
            )
            raise EventDefinitionError(msg)
        if event_type.is_complete:
            event_type.check()
        self._by_name[name] = event_type
        self._by_class[event_type.cls] = event_type

    def of(self, cls: type) -> EventType:
        """Return the type of a registered class, or raise `UnregisteredEventError`."""
        try:
            return self._by_class[cls]
        except (KeyError, TypeError):  # TypeError: it is no class, and has no hash
            raise UnregisteredEventError(_unregistered(cls)) from None

    def __iter__(self) -> Iterator[EventType]:
        """Yield every type, by name and version."""
        return iter([self._by_name[name] for name in sorted(self._by_name)])


catalogue = Catalogue()


def event(
    type: str,  # noqa: A002  # CloudEvents calls it so
    *,
    version: int = 1,
    key: str | None = None,
    description: str | None = None,
    examples: Sequence[Any] = (),
    owner: str | None = None,
) -> Callable[[Class], Class]:
    """Register the decorated class as an event type.

    The class is a pydantic model, a dataclass, a TypedDict or an attrs class. `type` is the
    CloudEvents type, parts of letters, digits, `_` and `-` with dots between, 200 characters at
    most; `version` is 1 or more; `key` names the field whose value keeps events in order: those of
    one key are delivered in the order in which their writers committed. Without a key there is no
    order.

    For people: `description` is by default the first paragraph of the class's docstring,
    `examples` are instances or dicts that fit the class, `owner` says who answers for the type.

    Raises `EventDefinitionError` at import where the declaration cannot work.
    """
    here = site()
    _check_name(type, here)
    _check_version(type, version)
    if isinstance(examples, str | bytes | dict):
        raise EventDefinitionError(f"the examples of {type} v{version} are no list of events")
    texts: dict[str, object] = {"description": description, "owner": owner}  # the same
    for name, text in texts.items():
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise EventDefinitionError(f"the {name} of {type} v{version} is no text")

    def register(cls: Class) -> Class:
        fields = _fields(cls)
        if key is not None and key not in fields:
            msg = (
                f"{type} v{version}: {_place_in_file(cls)} has no field {key!r} to be its key;"
                f" it has {', '.join(sorted(fields)) or 'no field'}"
            )
            raise EventDefinitionError(msg)
        adapter = _adapter(cls)
        text = description or _first_paragraph(cls)
        if typing_extensions.is_typeddict(cls):
            cls = _dict_class(cls)
        given = tuple(examples)
        catalogue.add(EventType(type, version, key, cls, adapter, text, owner, given, here))
        return cls

    return register


def _is_null(value: object) -> bool:
    return value is None


def _check_name(name: object, here: Site) -> None:
    if not isinstance(name, str):
        msg = 'name the event type: @outbox.event("shop.order.placed")'
        raise EventDefinitionError(msg)
    if not TYPE_NAME.fullmatch(name):
        msg = (
            f"{name!r} in {here} cannot be an event type: use parts of letters, digits, '_'"
            " and '-' with dots between, for instance 'shop.order.placed'"
        )
        raise EventDefinitionError(msg)
    if len(name) > MAX_TYPE_LENGTH:
        msg = f"the type {name[:40]}… in {here} has more than {MAX_TYPE_LENGTH} characters"
        raise EventDefinitionError(msg)


def _check_version(name: str, version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        msg = f"the version of {name} is {version!r}; versions are counted from 1"
        raise EventDefinitionError(msg)
    if version > MAX_VERSION:
        raise EventDefinitionError(f"the version of {name} is above {MAX_VERSION:,}")


def _impostor(data: bytes) -> str:
    """Say where a text stands that would be read as an encrypted value."""
    parsed = from_json(data)
    values = parsed.items() if isinstance(parsed, dict) else [("the event", parsed)]
    name = next(name for name, value in values if has_token(to_json(value)))
    return f"{name}: has a text in the form of an encrypted value"


def _fields(cls: type) -> set[str]:
    kind: object = cls  # what is decorated may be anything
    if not isinstance(kind, type):
        raise EventDefinitionError(f"{kind!r} is no class, so it can be no event")
    if issubclass(cls, BaseModel):
        return set(cls.model_fields)
    if dataclasses.is_dataclass(cls):
        return {field.name for field in dataclasses.fields(cls)}
    if typing_extensions.is_typeddict(cls) or issubclass(cls, _TypedDict):
        return set(cls.__annotations__)
    if attrs_class.is_attrs(cls):
        return set(attrs_class.names(cls))
    msg = (
        f"{place(cls)} is no event class: use a pydantic model, a dataclass, a TypedDict or an"
        " attrs class"
    )
    raise EventDefinitionError(msg)


def has_field(instance: object, name: str) -> bool:
    """Tell whether an object of a class, of whichever kind, has a field of a name."""
    if isinstance(instance, dict):
        return name in instance
    cls = type(instance)
    return (issubclass(cls, BaseModel) or dataclasses.is_dataclass(cls)) and name in _fields(cls)


def _field_names(event: object) -> list[str]:
    return sorted(event if isinstance(event, dict) else _fields(type(event)))


def _adapter(cls: type) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(_readable(cls))
    except (PydanticSchemaGenerationError, PydanticUserError) as exc:
        raise EventDefinitionError(_unreadable(cls, exc)) from exc


def _readable(cls: type) -> Any:
    """Return an attrs class, or a TypedDict before Python 3.12, in a form that pydantic accepts."""
    if attrs_class.is_attrs(cls):
        return attrs_class.readable(cls)
    if sys.version_info >= (3, 12) or not typing.is_typeddict(cls):
        return cls
    hints = typing_extensions.get_type_hints(cls, include_extras=True)
    required: frozenset[str] = cls.__required_keys__  # type: ignore[attr-defined]  # of every TypedDict
    fields = {
        name: hint if name in required else typing_extensions.NotRequired[hint]
        for name, hint in hints.items()
    }
    return typing_extensions.TypedDict(cls.__name__, fields)  # type: ignore[operator]  # at run time


class _TypedDict(dict[str, Any]):
    """Of the classes that stand in the place of TypedDicts."""


def _dict_class(cls: Class) -> Class:
    """Return a dict class in the place of a TypedDict, whose instances forget their class."""
    namespace = {"__annotations__": cls.__annotations__, "__doc__": cls.__doc__}
    made = type(cls.__name__, (_TypedDict,), namespace)
    made.__module__, made.__qualname__ = cls.__module__, cls.__qualname__
    return typing.cast("Class", made)


def _unreadable(cls: type, error: Exception) -> str:
    return f"{place(cls)} has a field that pydantic cannot read: {error}"


def _first_paragraph(cls: type) -> str | None:
    """Return the first paragraph of a docstring in one line; None where nobody wrote one."""
    text = inspect.cleandoc(cls.__doc__ or "")
    if text.startswith(f"{cls.__name__}("):  # what `dataclass` writes by itself
        return None
    return " ".join(text.partition("\n\n")[0].split()) or None


def place(cls: type) -> str:
    """Name a class by its module."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _declared(event_type: EventType) -> str:
    """Name a class by its module and by where it was declared."""
    if event_type.site is None:
        return _place_in_file(event_type.cls)
    return f"{place(event_type.cls)} ({event_type.site})"


def _advice(one: type, other: type) -> str:
    names = {each.__module__: each.__qualname__ for each in (one, other)}
    main = names.pop("__main__", None)
    if main is not None and main in names.values():
        return (
            "one module is imported under two names, because it is also the script that runs: start"
            " another module, which imports it"
        )
    return "give one of them another type or version"


def _are_beside(one: Site | None, other: Site | None) -> bool:
    return one is not None and other is not None and one.is_beside(other)


def _place_in_file(cls: type) -> str:
    """Name a class by its module and, where that is known, its file and line."""
    try:
        _, line = inspect.findsource(cls)
        return f"{place(cls)} ({inspect.getsourcefile(cls)}:{line + 1})"
    except (OSError, TypeError):
        return place(cls)


def _unregistered(cls: object) -> str:
    if not isinstance(cls, type):
        return f"{cls!r} is no class: give the one that is decorated with @outbox.event(...)"
    if issubclass(cls, type):
        return "a class is no event: make an instance of it"
    hint = "decorate its class with @outbox.event(...)"
    if cls is dict:
        hint = "a plain dict has no type; call the TypedDict decorated with @outbox.event(...)"
    return f"{place(cls)} is not a registered event type: {hint}"
