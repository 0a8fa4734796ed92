"""What outbox.track makes of a class, and what it refuses."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003  # the mapping reads it
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    column_property,
    composite,
    mapped_column,
    relationship,
)

import outbox
from outbox.event import catalogue
from outbox.tracking import Change, tracking_of
from tests.tracking import Cat, CatChanged, Dog, Order, forget_tracking

if TYPE_CHECKING:
    from collections.abc import Iterator


class Base(DeclarativeBase):
    """Classes of these tests alone."""


class Point:
    def __init__(self, x: int, y: int) -> None: ...


class Money(sa.TypeDecorator[Decimal]):
    impl = sa.BigInteger
    cache_ok = True

    @property
    def python_type(self) -> type[Decimal]:
        return Decimal


class Secret(sa.TypeDecorator[Any]):
    impl = sa.String
    cache_ok = True


class Thing(Base):
    __tablename__ = "thing"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    at: Mapped[datetime | None]
    price: Mapped[Decimal] = mapped_column(Money)
    secret: Mapped[str] = mapped_column(Secret)
    weight: Mapped[float] = mapped_column(sa.Float)
    x: Mapped[int] = mapped_column()
    y: Mapped[int]
    place: Mapped[Point] = composite("x", "y")
    twice = column_property(x + x)
    later = relationship("NotYetDeclared")


@pytest.fixture
def tracked() -> Iterator[type]:
    """A class that is tracked no longer when the test ends."""
    yield Thing
    forget_tracking(Thing)
    for event_type in list(catalogue):
        if event_type.name.startswith("thing"):
            catalogue._by_name.pop((event_type.name, event_type.version))


def test_the_event_is_in_the_catalogue(tracked: type) -> None:
    made = outbox.track(tracked, fields=["name"], version=3)
    event_type = catalogue.of(made)
    assert (event_type.name, event_type.version, event_type.key) == ("thing.changed", 3, "key")
    assert issubclass(made, Change)
    assert (made.__name__, made.__module__) == ("ThingChanged", __name__)


def test_a_class_may_be_tracked_before_those_that_it_refers_to_are_there(tracked: type) -> None:
    outbox.track(tracked, fields="name")


def test_fields_have_the_types_of_their_columns(tracked: type) -> None:
    made = outbox.track(tracked, fields=["name", "at", "price", "secret", "weight"])
    fields = made.model_json_schema()["$defs"]["ThingFields"]
    assert "required" not in fields
    kinds = {
        name: kind.get("type") or kind.get("anyOf") for name, kind in fields["properties"].items()
    }
    assert kinds["name"] == "string"
    assert kinds["at"] == [{"format": "date-time", "type": "string"}, {"type": "null"}]
    assert {"type": "number"} in kinds["price"]
    assert kinds["secret"] is None  # anything
    assert kinds["weight"] == "number"


def test_subclasses_are_tracked_by_their_nearest_tracked_parent() -> None:
    for cls, name in {Cat: "zoo.cat.changed", Dog: "tracked_animal.changed"}.items():
        tracking = tracking_of(sa.inspect(cls))
        assert tracking is not None
        assert tracking.name == name
    assert tracking_of(sa.inspect(Thing)) is None


@pytest.mark.parametrize("personal", ["name", ["name"]])
def test_personal_fields_are_personal_before_and_after(tracked: type, personal: Any) -> None:
    event = outbox.track(tracked, fields=["name", "x"], personal=personal)
    found = catalogue.of(event).personal
    assert {(str(field), field.subject) for field in found} == {
        ("/before/name", ("key",)),
        ("/after/name", ("key",)),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": []}, "name the fields of Thing"),
        ({"fields": ["nam"]}, "Thing has no column attribute 'nam'; it has at, id, name"),
        ({"fields": ["later"]}, "of a relationship, name the foreign key"),
        ({"fields": ["place"]}, "no column attribute 'place'"),
        ({"fields": ["twice"]}, "no column attribute 'twice'"),
        ({"fields": ["name"], "key": ["id", "ab"]}, "no column attribute 'ab'"),
        ({"fields": ["name"], "personal": ["x"]}, "'x' is personal, but none of"),
        ({"fields": ["id"], "personal": ["id"]}, "'id' is personal, but it is in the key"),
        (
            {"fields": ["name"], "key": "name", "personal": ["name"]},
            "'name' is personal, but it is in the key",
        ),
        (
            {"fields": ["name"], "key": ["x", "at"], "personal": ["name"]},
            "'at' says whose the personal fields of Thing are, and it may be NULL",
        ),
        ({"fields": ["name"], "key": []}, "the key of Thing names no attribute"),
        ({"fields": ["name"], "type": "no type"}, "cannot be an event type"),
        ({"fields": ["name"], "version": 0}, "versions are counted from 1"),
        ({"fields": ["name"], "on_bulk": "never"}, "on_bulk is one of raise, warn, ignore"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(outbox.EventDefinitionError, match=message):
        outbox.track(Thing, **options)
    assert tracking_of(sa.inspect(Thing)) is None


@pytest.mark.parametrize("cls", [int, Thing.__table__, Thing.name, None])
def test_what_is_no_mapped_class_is_refused(cls: Any) -> None:
    with pytest.raises(outbox.EventDefinitionError, match="no mapped class"):
        outbox.track(cls, fields=["name"])


def test_a_class_is_tracked_once() -> None:
    with pytest.raises(outbox.EventDefinitionError, match="Order is tracked already"):
        outbox.track(Order, fields=["seen"], type="shop.seen")


def test_an_event_reads_back_what_it_says() -> None:
    text = b'{"operation":"updated","key":"1","identity":{"id":1},"before":{},"after":{"lives":8}}'
    event = catalogue.of(CatChanged).load(text)
    assert event.after == {"lives": 8}  # `name` did not change, so it is not there
    assert catalogue.of(CatChanged).dump(event) == text
