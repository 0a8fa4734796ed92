"""What a declaration says for people, attrs classes, and where personal data stands."""

from __future__ import annotations

import dataclasses
import typing
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import attrs
import pytest
import typing_extensions
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    SerializeAsAny,
    WithJsonSchema,
    WrapSerializer,
    computed_field,
    create_model,
    field_serializer,
    model_serializer,
)

import outbox
from outbox.errors import EventDefinitionError, InvalidEventError
from outbox.event import catalogue
from outbox.marked import marked
from outbox.personal import PersonalField
from outbox.sealing import Collector


@attrs.define
class Line:
    sku: str
    count: int = attrs.field(default=1, validator=attrs.validators.instance_of(int))


@attrs.frozen
class Node:
    name: str
    children: list[Node] = attrs.field(factory=list)


@outbox.event("catalogue.attrs", key="order_id")
@attrs.define
class Placed:
    """An order was placed.

    It may still be cancelled.
    """

    order_id: str
    lines: list[Line]
    at: datetime
    tree: Node | None = None
    by_name: dict[str, tuple[Line | None, ...]] = attrs.field(factory=dict)
    total: Annotated[Decimal, Field(ge=0)] = attrs.field(default=Decimal("0.10"), converter=Decimal)
    _hidden: str = "x"
    later: Later | None = None
    label: str = attrs.field(init=False, default="made")


@attrs.define
class Later:
    number: int


PLACED = Placed(
    "o-1",
    [Line("a", 2), Line("b")],
    datetime(2026, 1, 2, tzinfo=UTC),
    Node("root", [Node("leaf")]),
    {"x": (Line("c"), None)},
    hidden="y",
    later=Later(1),
)


def test_an_attrs_class_comes_back_as_it_was() -> None:
    event_type = catalogue.of(Placed)
    assert event_type.load(event_type.dump(PLACED)) == PLACED
    assert event_type.key_of(PLACED) == "o-1"


def test_an_attrs_class_has_a_json_schema_of_its_constructor() -> None:
    schema = catalogue.of(Placed).json_schema
    assert schema["required"] == ["order_id", "lines", "at"]
    assert schema["properties"]["hidden"] == {"default": "x", "title": "Hidden", "type": "string"}
    assert "label" not in schema["properties"]
    assert schema["$defs"]["Node"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert schema["title"] == "Placed"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"order_id": 5}, "order_id"),
        ({"lines": [Line("a"), 7]}, "lines"),
        ({"lines": [object()]}, "lines"),
        ({"total": Decimal(-1)}, "total: Input should be greater than or equal to 0"),
    ],
)
def test_an_attrs_object_that_does_not_fit_is_refused_by_field(
    changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidEventError, match=message):
        catalogue.of(Placed).dump(attrs.evolve(PLACED, **changed))


def test_a_validator_of_attrs_is_held_to_and_not_quoted() -> None:
    event_type = catalogue.of(Placed)
    line = Line("a")
    object.__setattr__(line, "count", "4711")
    with pytest.raises(InvalidEventError, match="lines") as caught:
        event_type.dump(attrs.evolve(PLACED, lines=[line]))
    assert "4711" not in str(caught.value)

    @outbox.event("catalogue.attrs.validated")
    @attrs.frozen
    class Validated:
        name: Any = attrs.field(validator=attrs.validators.instance_of(str))

    event = Validated("x")
    object.__setattr__(event, "name", 4711)
    with pytest.raises(InvalidEventError, match="does not pass its validator") as caught:
        catalogue.of(Validated).dump(event)
    assert "4711" not in str(caught.value)


def test_an_attrs_class_that_nothing_can_read_is_refused() -> None:
    class Socket:
        pass

    odd = attrs.make_class("odd", {"socket": attrs.field(type=Socket)})
    with pytest.raises(EventDefinitionError, match="has a field that pydantic cannot read"):
        outbox.event("catalogue.attrs.odd")(odd)


def test_a_description_is_the_first_paragraph_unless_it_is_given() -> None:
    assert catalogue.of(Placed).description == "An order was placed."

    @dataclasses.dataclass
    class Plain:
        """Has two
        lines.
        """

        x: int

    outbox.event("catalogue.described")(Plain)
    outbox.event("catalogue.described", version=2, description="Given.", owner="team-a")(
        dataclasses.make_dataclass("Silent", [("x", int)])
    )
    found = {str(each): each for each in catalogue}
    assert found["catalogue.described v1"].description == "Has two lines."
    assert found["catalogue.described v2"].description == "Given."
    assert found["catalogue.described v2"].owner == "team-a"
    assert found["catalogue.described v1"].owner is None


def test_a_class_that_says_nothing_has_no_description() -> None:
    silent = dataclasses.make_dataclass("Silent", [("x", int)])
    outbox.event("catalogue.silent")(silent)
    assert catalogue.of(silent).description is None


class Money(BaseModel):
    amount: Decimal
    currency: str = "EUR"


def test_examples_are_instances_or_dicts_as_they_stand_in_json() -> None:
    outbox.event(
        "catalogue.examples",
        examples=[Money(amount=Decimal("1.50")), {"amount": "2", "currency": "USD"}],
    )(Money)
    assert catalogue.of(Money).examples == [
        {"amount": "1.50", "currency": "EUR"},
        {"amount": "2", "currency": "USD"},
    ]


def test_an_example_that_does_not_fit_is_an_error_at_import() -> None:
    with pytest.raises(EventDefinitionError, match=r"example 2 .*\.Wrong .*amount: Field required"):

        @outbox.event(
            "catalogue.examples.wrong", examples=[{"amount": "1"}, {"currency": "secret"}]
        )
        class Wrong(Money):
            pass

    assert "catalogue.examples.wrong v1" not in [str(each) for each in catalogue]


@pytest.mark.parametrize("examples", ["text", {"amount": "1"}])
def test_examples_are_a_list(examples: Any) -> None:
    with pytest.raises(EventDefinitionError, match="no list of events"):
        outbox.event("catalogue.examples.none", examples=examples)


@pytest.mark.parametrize("given", [{"owner": ""}, {"owner": 5}, {"description": " "}])
def test_texts_are_texts(given: Any) -> None:
    with pytest.raises(EventDefinitionError, match="is no text"):
        outbox.event("catalogue.texts", **given)


class Address(BaseModel):
    street: Annotated[str, outbox.Personal]
    city: str


@outbox.event("catalogue.personal", key="customer_id")
class Registered(BaseModel):
    customer_id: str
    referred_by: str | None = None
    name: Annotated[str, outbox.Personal, Field(alias="full name")]
    friend: Annotated[str | None, outbox.Personal(subject="referred_by")] = None
    home: Address
    others: list[Address] = []
    by_kind: dict[str, Annotated[Address | None, outbox.Personal]] = {}
    note: Annotated[str, outbox.Personal] | None = None
    pair: tuple[int, Annotated[str, outbox.Personal]] | Address = (1, "x")


def test_personal_fields_are_listed_with_their_subject_wherever_they_stand() -> None:
    assert catalogue.of(Registered).personal == tuple(
        PersonalField(path, (subject,))
        for path, subject in [
            (("full name",), "customer_id"),
            (("friend",), "referred_by"),
            (("home", "street"), "customer_id"),
            (("others", "*", "street"), "customer_id"),
            (("by_kind", "*"), "customer_id"),
            (("note",), "customer_id"),
            (("pair", "*"), "customer_id"),
            (("pair", "street"), "customer_id"),
        ]
    )
    assert str(catalogue.of(Registered).personal[3]) == "/others/*/street"


def test_every_kind_of_class_has_personal_fields() -> None:
    @dataclasses.dataclass
    class Data:
        id: str
        name: Annotated[str, outbox.Personal]

    @attrs.define
    class Attrs:
        id: str
        name: Annotated[str, outbox.Personal]

    class Dict(typing.TypedDict):
        id: str
        name: Annotated[str, outbox.Personal]

    kinds: list[type] = [Data, Attrs, Dict]
    for number, kind in enumerate(kinds, 1):
        made = outbox.event("catalogue.personal.kinds", version=number, key="id")(kind)
        assert catalogue.of(made).personal == (PersonalField(("name",), ("id",)),)


def test_a_personal_field_needs_a_subject_that_is_there() -> None:
    with pytest.raises(EventDefinitionError, match=r"personal field /home/street, and no key"):

        @outbox.event("catalogue.personal.nobody")
        class Nobody(BaseModel):
            home: Address

    with pytest.raises(EventDefinitionError, match=r"no field 'who' to be the subject of /name"):

        @outbox.event("catalogue.personal.wrong", key="id")
        class Wrong(BaseModel):
            id: str
            name: Annotated[str, outbox.Personal(subject="who")]

    with pytest.raises(EventDefinitionError, match=r"personal field /email as its key, which ev"):

        @outbox.event("catalogue.personal.key", key="email")
        class Keyed(BaseModel):
            id: str
            email: Annotated[str, outbox.Personal(subject="id")]


def test_what_says_whose_a_field_is_stays_in_clear_so_it_is_not_personal() -> None:
    message = r"has the personal field /email, which says whose /name is: that stays in clear"
    with pytest.raises(EventDefinitionError, match=message):

        @outbox.event("catalogue.personal.subject", key="id")
        class Chained(BaseModel):
            id: str
            email: Annotated[str, outbox.Personal]
            name: Annotated[str, outbox.Personal(subject="email")]

    message = r"personal field /home/street, which says whose /name is"
    with pytest.raises(EventDefinitionError, match=message):

        @outbox.event("catalogue.personal.subject", key="id")
        class Inside(BaseModel):
            id: str
            home: Address
            name: Annotated[str, outbox.Personal(subject="home")]


class Guest(BaseModel):
    name: Annotated[str, outbox.Personal(subject="guest_id")]


class Passenger(BaseModel):
    customer_id: str = Field(alias="customer")
    name: Annotated[str, outbox.Personal(subject="customer_id")]
    nicknames: list[Annotated[str, outbox.Personal(subject="customer_id")]] = []
    guest: Guest | None = None


def test_a_field_belongs_to_whom_its_own_object_names_or_else_the_event() -> None:
    @outbox.event("catalogue.personal.booking", key="booking_id")
    class Booking(BaseModel):
        booking_id: str
        customer_id: str
        guest_id: str
        passengers: list[Passenger]

    assert {str(each): "/".join(each.subject) for each in catalogue.of(Booking).personal} == {
        "/passengers/*/name": "passengers/*/customer",
        "/passengers/*/nicknames/*": "passengers/*/customer",
        "/passengers/*/guest/name": "guest_id",
    }


class MaybePassenger(typing_extensions.TypedDict):
    id: typing_extensions.NotRequired[str]
    name: Annotated[str, outbox.Personal(subject="id")]


class PersonalPassenger(BaseModel):
    email: Annotated[str, outbox.Personal]
    name: Annotated[str, outbox.Personal(subject="email")]


class ComputedPassenger(BaseModel):
    id: str

    @computed_field
    def full(self) -> Annotated[str, outbox.Personal(subject="id")]:
        return "Ada Lovelace"


class Party(BaseModel):
    guest_id: str
    guests: list[Guest]


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (
            Party,
            r"/inner/guests/\*/name, whose subject 'guest_id' is a field of the object /inner:",
        ),
        (ComputedPassenger, r"/inner/full, whose subject 'id' is a field of the object /inner:"),
        (MaybePassenger, r"/inner/name, whose subject 'id' may be absent"),
        (PersonalPassenger, r"/inner/email, which says whose /inner/name is"),
    ],
)
def test_a_subject_that_could_be_missed_is_refused(inner: Any, message: str) -> None:
    made = create_model("Made", id=(str, ...), guest_id=(str, ...), inner=(inner, ...))
    with pytest.raises(EventDefinitionError, match=message):
        outbox.event("catalogue.personal.missed", key="id")(made)


class Person(BaseModel):
    name: Annotated[str, outbox.Personal]
    children: list[Person] = []


def test_a_personal_field_in_a_class_that_contains_itself_is_refused() -> None:
    with pytest.raises(EventDefinitionError, match=r"inside Person, which contains itself"):

        @outbox.event("catalogue.personal.endless", key="id")
        class Endless(BaseModel):
            id: str
            person: Person


Name = Annotated[str, outbox.Personal]


def strip(text: str) -> str:
    return text.strip()


def street(address: Address) -> str:
    return address.street


class WrittenByField(BaseModel):
    id: str
    name: Name = ""

    @field_serializer("name")
    def name_in_json(self, text: str) -> str:
        return text.strip()


class WrittenByWholeModel(BaseModel):
    id: str
    name: Name

    @model_serializer
    def in_json(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name}


class Base(BaseModel):
    pass


class Derived(Base):
    name: Name


class WrapsWhole(Address):
    @model_serializer(mode="wrap")
    def in_json(self, handler: Any) -> Any:
        return {**handler(self), "kind": "address"}


class WithoutProperties(BaseModel):
    model_config = ConfigDict(json_schema_extra=lambda schema: schema.clear())
    id: str
    held: Name


class Pair(typing.NamedTuple):
    name: Name
    number: int


AFTER = "personal field /{} and a serializer that comes after its marker: write the marker last"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (WrittenByField, "at or below /name: a serializer writes all of it by itself"),
        (WrittenByWholeModel, "at or below /: a serializer writes all of it by itself"),
        (Annotated[str, outbox.Personal, PlainSerializer(strip)], AFTER.format("held")),
        (Annotated[str, outbox.Personal, WrapSerializer(lambda v, h: h(v))], AFTER.format("held")),
        (Annotated[Name | None, WrapSerializer(lambda v, h: h(v))], AFTER.format("held")),
        (Annotated[Address, PlainSerializer(street)], "at or below /held: a serializer writes"),
        (SerializeAsAny[list[Name]], "at or below /held: a serializer writes all of it"),
        (dict[Name, int], "at or below /held: the keys of a dict stay in clear"),
        (list[dict[Annotated[str, outbox.Personal], int]], r"below /held/\*: the keys of a dict"),
    ],
)
def test_a_personal_field_that_would_stay_in_clear_is_refused(made: Any, message: str) -> None:
    if not isinstance(made, type) or not issubclass(made, BaseModel):
        made = create_model("Made", id=(str, ...), held=(made, ...))
    with pytest.raises(EventDefinitionError, match=message):
        outbox.event("catalogue.personal.clear", key="id")(made)


@pytest.mark.parametrize(
    ("kind", "value", "paths"),
    [
        (Annotated[str, PlainSerializer(strip), outbox.Personal], "Ada", ["/held"]),
        (
            Annotated[Annotated[Address, PlainSerializer(street)] | None, outbox.Personal],
            None,
            ["/held"],
        ),
        (Annotated[str, outbox.Personal, WithJsonSchema({"type": "string"})], "Ada", ["/held"]),
        (Annotated[str, outbox.Personal, Field(min_length=1)], "Ada", ["/held"]),
        (Sequence[Name], ["Ada"], ["/held/*"]),
        (deque[Name], deque(["Ada"]), ["/held/*"]),
        (set[Name], {"Ada"}, ["/held/*"]),
        (dict[str, list[Name]], {"a": ["Ada"]}, ["/held/*/*"]),
        (Mapping[str, Name], {"a": "Ada"}, ["/held/*"]),
        (int | Name, "Ada", ["/held"]),
        (Pair, Pair("Ada", 1), ["/held/*"]),
        (RootModel[Name], RootModel[Name]("Ada"), ["/held"]),
        (WrapsWhole, WrapsWhole(street="Ada", city="London"), ["/held/street"]),
        (SerializeAsAny[Address], WrapsWhole(street="Ada", city="London"), ["/held/street"]),
        (SerializeAsAny[Base], Derived(name="Ada"), []),
        (Any, [Address(street="Ada", city="London")], []),
    ],
)
def test_a_personal_value_is_taken_out_wherever_it_stands(
    kind: Any, value: Any, paths: list[str]
) -> None:
    cls: Any = create_model("Made", id=(str, ...), held=(kind, ...))
    check_taken(cls, cls.model_construct(id="1", held=value), paths)


def check_taken(cls: Any, event: Any, paths: list[str]) -> None:
    made = outbox.event(f"catalogue.personal.taken.{cls.__name__}", key="id")(cls)
    event_type = catalogue.of(made)
    assert [str(each) for each in event_type.personal] == paths
    collector = Collector()
    data = event_type.dump(event, collector)
    assert (b"Ada" in event_type.dump(event)) == bool(collector)
    assert b"Ada" not in data


@outbox.event("catalogue.personal.greeting", key="id")
class Greeting(BaseModel):
    id: str
    name: Name

    @model_serializer(mode="wrap")
    def in_json(self, handler: Any) -> Any:
        found = handler(self)
        return {**found, "text": f"Hello {found['name']}"}


def test_a_serializer_that_uses_a_personal_value_elsewhere_is_told() -> None:
    with pytest.raises(InvalidEventError, match=r"Greeting: a serializer has made") as caught:
        catalogue.of(Greeting).dump(Greeting(id="1", name="Ada"), Collector())
    assert "Ada" not in str(caught.value)


def test_a_class_that_hides_its_json_schema_does_not_hide_its_personal_fields() -> None:
    check_taken(WithoutProperties, WithoutProperties(id="1", held="Ada"), ["/held"])


def test_a_class_that_names_a_later_one_is_checked_when_all_is_imported() -> None:
    @outbox.event("catalogue.late", examples=[{"later": {"amount": "much"}}])
    class Late(BaseModel):
        later: LateComer

    with pytest.raises(EventDefinitionError, match="cannot read"):
        catalogue.of(Late).check()
    globals()["LateComer"] = type("LateComer", (Money,), {"__module__": __name__})
    try:
        with pytest.raises(EventDefinitionError, match=r"example 1 .* later\.amount"):
            catalogue.of(Late).check()
    finally:
        del globals()["LateComer"]


if typing.TYPE_CHECKING:
    LateComer = Later


@pytest.mark.timeout(60)  # by every path it would be years
def test_a_union_that_recurs_is_not_searched_by_every_path() -> None:
    names = [f"Rule{number}" for number in range(20)]
    union = {
        "type": "union",
        "choices": [{"type": "definition-ref", "schema_ref": name} for name in names],
    }
    fields = {side: {"type": "model-field", "schema": union} for side in ("left", "right")}
    rules = [{"type": "model-fields", "fields": fields, "ref": name} for name in names]
    assert marked({"type": "definitions", "schema": union, "definitions": rules}) == []
