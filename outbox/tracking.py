"""`track`: which mapped classes are tracked, and the events that their changes become.

track ─▶ the class's event type, and hooks on its mapper
flush ─▶ outbox.changes: what a row was before and is after ─▶ emit
other statements ─▶ outbox.bulk: changes that pass the unit of work by
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import sqlalchemy as sa
import typing_extensions
from pydantic import BaseModel, BeforeValidator, ConfigDict, create_model
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper

from outbox.errors import EventDefinitionError
from outbox.event import event
from outbox.personal import Personal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from enum import Enum

OnBulk = Literal["raise", "warn", "ignore"]

CONFIG: Final = ConfigDict(
    ser_json_bytes="base64",
    val_json_bytes="base64",
    ser_json_inf_nan="strings",
    coerce_numbers_to_str=True,
)
"""Whatever a column may hold has to become JSON that reads back as the same."""


class Change(BaseModel):
    """What became of one row: the data of every `….changed` event that `track` declares."""

    model_config = CONFIG

    operation: Literal["created", "updated", "deleted"]
    key: str | None
    """The partition key: events of one key are delivered in order."""
    identity: dict[str, Any]
    """The primary key of the row, by attribute."""
    before: dict[str, Any] | None
    """Updated: the old values of the fields that changed. Deleted: of all tracked fields. Created:
    null."""
    after: dict[str, Any] | None
    """Updated: the new values of the fields that changed. Created: of all tracked fields. Deleted:
    null."""


@dataclass(frozen=True, eq=False)
class Tracking:
    """One tracked class."""

    name: str
    """The type of its events."""
    cls: type
    mapper: Mapper[Any]
    fields: Mapping[str, sa.Column[Any]]
    """The tracked attributes."""
    key: Mapping[str, sa.Column[Any]]
    """The attributes whose values are the partition key."""
    identity: Mapping[str, sa.Column[Any]]
    """The primary key."""
    event: type[Change]
    on_bulk: OnBulk

    @cached_property
    def place(self) -> Mapping[str, sa.Column[Any]]:
        """The attributes by which an event names its row."""
        return {**self.key, **self.identity}

    @cached_property
    def columns(self) -> Mapping[str, sa.Column[Any]]:
        """All of the attributes above."""
        return {**self.fields, **self.place}

    @cached_property
    def automatic(self) -> frozenset[str]:
        """Those of them that an UPDATE may change though nobody sets them."""
        return frozenset(
            name
            for name, column in self.columns.items()
            if column is self.mapper.version_id_col
            or column.onupdate is not None
            or column.server_onupdate is not None  # a computed column has it as well
        )


_trackings: Final[dict[type, Tracking]] = {}
_lock: Final = threading.Lock()


def trackings() -> Iterator[Tracking]:
    """Yield what is tracked."""
    return iter(list(_trackings.values()))


def tracking_of(mapper: Mapper[Any]) -> Tracking | None:
    """Return how instances of a class are tracked: as itself, or as its nearest tracked parent."""
    return next((_trackings[at.class_] for at in lineage(mapper) if at.class_ in _trackings), None)


def lineage(mapper: Mapper[Any]) -> Iterator[Mapper[Any]]:
    """Yield a mapper and its parents, as far as its instances have rows in their tables."""
    at: Mapper[Any] | None = mapper
    while at is not None:
        yield at
        at = None if at.concrete else at.inherits


def track(
    cls: type,
    *,
    fields: str | Sequence[str],
    type: str | None = None,  # noqa: A002  # CloudEvents calls it so
    key: str | Sequence[str] | None = None,
    version: int = 1,
    on_bulk: OnBulk = "raise",
    personal: str | Sequence[str] = (),
) -> type[Change]:
    """Emit an event for each change of a mapped class's rows, in the transaction that makes it.

        OrderChanged = outbox.track(Order, fields=["status", "total_cents"], type="shop.order")

    declares the event type `shop.order.changed` and returns its class, for `@consumer.on(…)`. From
    then on each flush of any Session emits one for every instance that it inserts, deletes, or
    updates with another value in one of the `fields`. It is an event like any other: written after
    the state, gone with a rollback, with the actor of `outbox.actor`.

    `fields` are attributes of the class that are columns; subclasses are tracked with it, but for
    concrete ones, whose tables are others. `type` is
    what the events are called before `.changed`, by default the name of the table. `key` names the
    attributes that make the partition key, by default the primary key; a change of either is told
    as a deletion and a creation. Raise `version` when a field goes or changes its type.

    Statements that change tracked rows without the unit of work emit nothing. What is seen of
    them, an `update()` for instance, raises `UntrackedChangeError` before it is sent;
    `on_bulk="warn"` lets it pass with an `UntrackedChangeWarning`, `"ignore"` in silence, and the
    execution option `outbox_on_bulk` says the same for one statement.

    `personal` lists those of the fields that hold personal data of whom the event's key identifies:
    they are encrypted as `outbox.Personal` says. The key and the primary key stay in clear, so they
    cannot be personal, and the key must not be nullable.

    Raises `EventDefinitionError` where the declaration cannot work.
    """
    from outbox import bulk, changes  # noqa: PLC0415  # they ask this module what is tracked

    mapper = _mapper(cls)
    mapped: Iterable[tuple[str, object]] = mapper.columns.items()  # SQL expressions among them
    columns = {name: column for name, column in mapped if isinstance(column, sa.Column)}
    names = _listed(fields)
    if not names:
        raise EventDefinitionError(f"name the fields of {cls.__qualname__} that are to be tracked")
    keys = None if key is None else _listed(key)
    if keys is not None and not keys:
        raise EventDefinitionError(
            f"the key of {cls.__qualname__} names no attribute: name one, or leave key out for the"
            " primary key"
        )
    if on_bulk not in ON_BULK:
        raise EventDefinitionError(f"on_bulk is one of {', '.join(ON_BULK)}, and not {on_bulk!r}")
    chosen = _choose(cls, columns, names)
    primary: Any = mapper.primary_key
    identity = {mapper.get_property_by_column(column).key: column for column in primary}
    key_columns = identity if keys is None else _choose(cls, columns, keys)
    secret = _listed(personal)
    _check_personal(cls, chosen, key_columns, identity, secret)
    name = f"{type or _table_name(mapper)}.changed"
    with _lock:
        if cls in _trackings:
            raise EventDefinitionError(
                f"{cls.__qualname__} is tracked already: name all of its fields in one call"
            )
        tracking = Tracking(
            name=name,
            cls=cls,
            mapper=mapper,
            fields=chosen,
            key=key_columns,
            identity=identity,
            event=_event_class(cls, identity, chosen, name, version, secret),
            on_bulk=on_bulk,
        )
        _trackings[cls] = tracking
    changes.listen(cls)
    if on_bulk != "ignore":
        bulk.watch()
    return tracking.event


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


ON_BULK: Final[tuple[OnBulk, ...]] = ("raise", "warn", "ignore")


def _mapper(cls: object) -> Mapper[Any]:
    try:
        mapper = sa.inspect(cls)
    except NoInspectionAvailable:
        mapper = None
    if not isinstance(mapper, Mapper):
        raise EventDefinitionError(f"{cls!r} is no mapped class, so it has no rows to track")
    return mapper


def _table_name(mapper: Mapper[Any]) -> str:
    return str(getattr(mapper.local_table, "name", mapper.class_.__name__.lower()))


def _choose(
    cls: type, columns: Mapping[str, sa.Column[Any]], names: Sequence[str]
) -> dict[str, sa.Column[Any]]:
    for name in names:
        if name not in columns:
            raise EventDefinitionError(
                f"{cls.__qualname__} has no column attribute {name!r}; it has"
                f" {', '.join(sorted(columns))} (of a relationship, name the foreign key)"
            )
    return {name: columns[name] for name in names}


def _check_personal(
    cls: type,
    fields: Mapping[str, sa.Column[Any]],
    key: Mapping[str, sa.Column[Any]],
    identity: Mapping[str, sa.Column[Any]],
    personal: Sequence[str],
) -> None:
    clear = {*key.values(), *identity.values()}
    for name in personal:
        if name not in fields:
            raise EventDefinitionError(f"{name!r} is personal, but none of the tracked fields")
        if fields[name] in clear:
            raise EventDefinitionError(
                f"{name!r} is personal, but it is in the key or the primary key of"
                f" {cls.__qualname__}, which stays in clear: let a number or another name that"
                " nobody else knows identify the person"
            )
    for name, column in key.items():
        if personal and column.nullable:
            raise EventDefinitionError(
                f"{name!r} says whose the personal fields of {cls.__qualname__} are, and it may be"
                " NULL: make it nullable=False, or choose another key"
            )


def _event_class(
    cls: type,
    identity: Mapping[str, sa.Column[Any]],
    fields: Mapping[str, sa.Column[Any]],
    name: str,
    version: int,
    personal: Sequence[str],
) -> type[Change]:
    """Make and register the event class: `Change`, with the types of the columns."""
    values = _values(f"{cls.__name__}Fields", fields, personal, is_whole=False)
    made: type[Change] = create_model(
        f"{cls.__name__}Changed",
        __base__=Change,
        __module__=cls.__module__,
        __doc__=f"A row of {cls.__qualname__} was created, updated or deleted.",
        identity=(_values(f"{cls.__name__}Identity", identity, (), is_whole=True), ...),
        before=(values | None, ...),
        after=(values | None, ...),
    )
    return event(name, version=version, key="key")(made)


def _values(
    name: str, columns: Mapping[str, sa.Column[Any]], personal: Sequence[str], *, is_whole: bool
) -> Any:
    """Make a dict class of columns; a `TypedDict`, because what did not change is not in it."""
    make: Any = typing_extensions.TypedDict  # at run time
    types = {key: _annotation(column) for key, column in columns.items()}
    # None is what is read of one who was forgotten.
    types |= {key: Annotated[types[key] | None, Personal] for key in personal}
    made = make(name, types, total=is_whole)
    made.__pydantic_config__ = CONFIG
    return made


def _annotation(column: sa.Column[Any]) -> Any:
    """Return the Python type of a column's values; `Any` where only the application knows it."""
    kind = column.type
    found: Any = Any
    if isinstance(kind, sa.Enum) and kind.enum_class is not None:
        found = Annotated[kind.enum_class, BeforeValidator(_member_of(kind.enum_class))]
    elif not isinstance(kind, (sa.JSON, sa.TypeDecorator)) or _says_its_type(kind):
        try:
            found = kind.python_type
        except NotImplementedError:
            found = Any
    return found | None if column.nullable and found is not Any else found


def _says_its_type(kind: Any) -> bool:
    return (
        isinstance(kind, sa.TypeDecorator)
        and type(kind).python_type is not sa.TypeDecorator.python_type
    )


def _member_of(enum: type[Enum]) -> Any:
    def member(value: object) -> object:
        """SQLAlchemy takes the name of a member for the member."""
        return enum[value] if isinstance(value, str) and value in enum.__members__ else value

    return member
