"""Typed events: what can be declared, and what comes back as it was."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import typing
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
import typing_extensions
from pydantic import (
    AliasChoices,
    AliasGenerator,
    AliasPath,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

import outbox
from outbox.emitter import Attributes
from outbox.errors import EventDefinitionError, InvalidEventError, UnregisteredEventError
from outbox.event import Catalogue, EventType, catalogue


class Color(enum.Enum):
    RED = "red"


class Part(BaseModel):
    number: int


@outbox.event("unit.model", version=2, key="id")
class Model(BaseModel):
    id: uuid.UUID
    at: datetime
    on: date
    price: Decimal
    color: Color
    parts: list[Part]
    by_name: dict[str, tuple[int, str]] = {}
    note: str | None = Field(default=None, alias="remark")


@outbox.event("unit.derived", key="id")
class Derived(Model):
    extra: frozenset[int] = frozenset()


@outbox.event("unit.dataclass", key="color")
@dataclasses.dataclass(frozen=True)
class Data:
    color: Color
    price: Decimal
    at: datetime
    parts: list[Part] = dataclasses.field(default_factory=list)


@outbox.event("unit.dict", key="name")
class Old(typing.TypedDict):
    name: str
    price: Decimal
    note: typing.NotRequired[str]


@outbox.event("unit.dict.extension")
class New(typing_extensions.TypedDict, total=False):
    name: str
    at: datetime


@outbox.event("unit.dict.derived", key="name")
class DerivedDict(typing.TypedDict):
    name: typing.Required[str]
    count: int


VALUES: dict[str, Any] = {
    "id": uuid.UUID(int=7),
    "at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "on": date(2026, 1, 2),
    "price": Decimal("0.10"),
    "color": Color.RED,
    "parts": [Part(number=1)],
}
EVENTS: list[Any] = [
    Model(**VALUES, by_name={"x": (1, "ü")}, remark="r"),
    Derived(**VALUES, extra=frozenset({1, 2})),
    Data(Color.RED, Decimal("0.10"), VALUES["at"], [Part(number=2)]),
    Old(name="x", price=Decimal("1.50")),
    Old(name="x", price=Decimal("1.50"), note="n"),
    New(at=VALUES["at"]),
    DerivedDict(name="x", count=1),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_as_it_was(event: Any) -> None:
    event_type = catalogue.of(type(event))
    assert event_type.load(event_type.dump(event)) == event


def test_the_key_is_the_text_that_stands_in_the_data() -> None:
    keys = [catalogue.of(type(event)).key_of(event) for event in EVENTS]
    assert keys == [str(VALUES["id"])] * 2 + ["red", "x", "x", None, "x"]


def test_a_class_has_the_type_of_its_own_declaration() -> None:
    assert str(catalogue.of(Model)) == "unit.model v2"
    assert str(catalogue.of(Derived)) == "unit.derived v1"
    with pytest.raises(UnregisteredEventError, match="call the TypedDict"):
        catalogue.of(dict)


def test_one_type_may_have_several_versions() -> None:
    own = Catalogue()
    for version, cls in ((2, Model), (1, Derived)):
        own.add(EventType("unit.versions", version, None, cls, catalogue.of(cls).adapter))
    assert [str(each) for each in own] == ["unit.versions v1", "unit.versions v2"]


def test_a_name_that_is_taken_is_refused_with_both_places() -> None:
    both = r"test_event\.Model \(.*test_event\.py:\d+\) and by .*Second \(.*test_event\.py:\d+\)"
    with pytest.raises(EventDefinitionError, match=both):

        @outbox.event("unit.model", version=2)
        class Second(BaseModel):
            pass


def test_a_class_may_be_declared_again_when_its_module_is_reloaded() -> None:
    for _ in range(2):

        @outbox.event("unit.reloaded")
        class Reloaded(BaseModel):
            pass

        assert catalogue.of(Reloaded).cls is Reloaded


def test_two_classes_of_one_name_in_one_module_are_a_clash() -> None:
    @outbox.event("unit.beside")
    class Beside(BaseModel):
        pass

    with pytest.raises(EventDefinitionError, match=r"declared twice.*:\d+\) and by .*:\d+\)"):

        @outbox.event("unit.beside")
        class Beside(BaseModel):  # type: ignore[no-redef]  # a slip
            number: int


def test_a_module_may_run_again_with_its_classes_on_other_lines() -> None:
    source = "import outbox, pydantic\n{}@outbox.event('unit.again')\n"
    source += "class Again(pydantic.BaseModel): number: int\n"
    for start in ("", "\n\n"):
        exec(compile(source.format(start), "again.py", "exec"), {"__name__": "again"})  # noqa: S102


@pytest.mark.parametrize("name", ["", "a b", ".a", "a.", "a..b", "ä", "a/b", "a\n", "\0"])
def test_a_type_is_made_of_plain_parts(name: str) -> None:
    with pytest.raises(EventDefinitionError, match="cannot be an event type"):
        outbox.event(name)


@pytest.mark.parametrize("version", [0, -1, True])
def test_versions_are_counted_from_one(version: int) -> None:
    with pytest.raises(EventDefinitionError, match="counted from 1"):
        outbox.event("unit.version", version=version)


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("unit.version", 10**30, "the version of unit.version is above 2,147,483,647"),
        ("unit." + "x" * 196, 1, r"the type unit\.x+… in .*:\d+ has more than 200 characters"),
    ],
)
def test_a_type_fits_what_stores_it(name: str, version: int, message: str) -> None:
    with pytest.raises(EventDefinitionError, match=message):
        outbox.event(name, version=version)


def test_a_script_that_is_imported_as_well_is_told_so() -> None:
    source = "import outbox, pydantic\n@outbox.event('unit.script')\n"
    source += "class Script(pydantic.BaseModel): number: int\n"
    code = compile(source, "script.py", "exec")
    exec(code, {"__name__": "shop.script"})  # noqa: S102
    with pytest.raises(EventDefinitionError, match=r"the script that runs: start another module"):
        exec(code, {"__name__": "__main__"})  # noqa: S102


def test_the_key_has_to_be_a_field() -> None:
    with pytest.raises(EventDefinitionError, match=r"no field 'missing'.*it has number"):
        outbox.event("unit.key", key="missing")(Part)


@pytest.mark.parametrize("thing", [inspect.signature, 5, None])
def test_what_is_no_class_is_refused(thing: Any) -> None:
    with pytest.raises(EventDefinitionError, match="is no class, so it can be no event"):
        outbox.event("unit.kind")(thing)


@pytest.mark.parametrize(
    ("cls", "message"), [("unit.model", "'unit.model' is no class"), ([Model], "is no class")]
)
def test_an_event_is_asked_for_by_its_class(cls: Any, message: str) -> None:
    with pytest.raises(UnregisteredEventError, match=message):
        outbox.upcast(cls, from_version=1)


def test_a_class_of_another_kind_is_refused() -> None:
    with pytest.raises(EventDefinitionError, match="a TypedDict or an attrs class"):
        outbox.event("unit.kind")(int)


def test_a_field_that_nothing_can_read_is_refused() -> None:
    class Socket:
        pass

    odd = dataclasses.make_dataclass("odd", [("socket", Socket)])
    with pytest.raises(EventDefinitionError, match="has a field that pydantic cannot read"):
        outbox.event("unit.odd")(odd)


def test_a_class_may_name_another_that_comes_later_but_not_never() -> None:
    outbox.event("unit.early")(Early)
    event = Early(later=Later(name="x"))
    assert catalogue.of(Early).load(catalogue.of(Early).dump(event)) == event

    @outbox.event("unit.never")
    @dataclasses.dataclass
    class Never:
        later: Missing  # type: ignore[name-defined]  # noqa: F821  # that is the point

    with pytest.raises(EventDefinitionError, match="has a field that pydantic cannot read"):
        catalogue.of(Never).dump(Never(later=1))


class Early(BaseModel):
    later: Later


class Later(BaseModel):
    name: str


def test_a_validator_of_the_application_is_not_quoted() -> None:
    @outbox.event("unit.validated")
    class Validated(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def _refuse(cls, value: str) -> str:
            raise ValueError(f"{value} is not liked")

    event = Validated.model_construct(name="secret")
    with pytest.raises(InvalidEventError, match="name: does not pass its validator") as caught:
        catalogue.of(Validated).dump(event)
    assert "secret" not in str(caught.value)


def model(**settings: Any) -> Any:
    return create_model("Aliased", id=(str, ...), **settings)


CAMEL = ConfigDict(alias_generator=AliasGenerator(serialization_alias=str.upper))


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (model(x=(int, Field(serialization_alias="y"))), "x is written as 'y' and read as 'x'"),
        (model(x=(int, Field(3, validation_alias="v"))), "x is written as 'x' and read as 'v'"),
        (model(x=(int, Field(exclude=True))), "x is required, and left out of the JSON"),
        (create_model("Camel", id=(str, ...), __config__=CAMEL), "id is written as 'ID' and read"),
        (
            model(x=(int, Field(validation_alias=AliasChoices("v", AliasPath("w", 0))))),
            "x is written as 'x' and read as 'v'",
        ),
    ],
)
def test_a_class_that_could_not_read_what_it_writes_is_refused(cls: type, message: str) -> None:
    with pytest.raises(EventDefinitionError, match=f"unit.aliased v1: .*{message}"):
        outbox.event("unit.aliased", key="id")(cls)


class Converted(BaseModel):
    x: int = Field(serialization_alias="y")

    @model_validator(mode="before")
    @classmethod
    def _convert(cls, value: Any) -> Any:
        return {"x": value["y"]} if isinstance(value, dict) and "y" in value else value


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (model(x=(int, Field(alias="y"))), {"id": "1", "y": 2}),
        (model(x=(int, Field(validation_alias=AliasChoices("v", "x")))), {"id": "1", "v": 2}),
        (model(x=(int, Field(0, exclude=True))), {"id": "1"}),
        (
            create_model(
                "Named",
                x=(int, Field(validation_alias="v")),
                __config__=ConfigDict(populate_by_name=True),
            ),
            {"x": 2},
        ),
        (Converted, {"x": 2}),
    ],
)
def test_a_class_may_have_aliases_by_which_it_reads_what_it_writes(
    cls: Any, values: dict[str, Any]
) -> None:
    event_type = catalogue.of(outbox.event(f"unit.aliases.n{id(cls)}")(cls))
    event = cls(**values)
    assert event_type.load(event_type.dump(event)) == event


def test_a_nested_field_that_is_not_read_back_is_named() -> None:
    @outbox.event("unit.aliased.inside")
    class Outside(BaseModel):
        inner: list[model(x=(int, Field(serialization_alias="y")))]  # type: ignore[valid-type]  # at run time

    inner = Outside.model_fields["inner"].annotation.__args__[0]  # type: ignore[union-attr]  # a list
    with pytest.raises(InvalidEventError, match=r"inner\.0\.x: Field required"):
        catalogue.of(Outside).dump(Outside(inner=[inner(id="1", x=2)]))


class Card(BaseModel):
    kind: Literal["card"]


class Cash(BaseModel):
    kind: Literal["cash"]


@pytest.mark.parametrize(
    ("cls", "value", "message"),
    [
        (uuid.UUID, "secret", "value: is no UUID"),
        (AnyUrl, "secret", "value: is no URL"),
        (
            Annotated[Card | Cash, Field(discriminator="kind")],
            {"kind": "secret"},
            "value: has a tag that no member of its union has",
        ),
    ],
)
def test_a_rule_whose_words_quote_the_data_is_told_in_others(
    cls: Any, value: Any, message: str
) -> None:
    made: Any = create_model("Quoting", value=(cls, ...))
    event_type = EventType("unit.quoting", 1, None, made, TypeAdapter(made))
    with pytest.raises(ValidationError) as caught:
        event_type.load(json.dumps({"value": value}).encode())
    assert event_type.problems(caught.value) == message


def test_the_decorator_needs_its_parentheses() -> None:
    with pytest.raises(EventDefinitionError, match=r"@outbox\.event\("):
        outbox.event(Part)  # type: ignore[arg-type]  # what `@outbox.event` alone does


def test_a_version_is_a_number() -> None:
    with pytest.raises(EventDefinitionError, match="'1'"):
        outbox.event("unit.version", version="1")  # type: ignore[arg-type]  # that is the mistake


def test_what_is_passed_on_to_emit_is_what_emit_takes() -> None:
    taken = {
        name: parameter.annotation
        for name, parameter in inspect.signature(outbox.emit).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "size_limit"
    }
    assert {
        name: hint.__forward_arg__ for name, hint in Attributes.__annotations__.items()
    } == taken
