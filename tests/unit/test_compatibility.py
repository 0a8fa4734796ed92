"""What a change of an event's class breaks, by a table and by generated schemas."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import operator
import re
from collections import OrderedDict
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, assume, find, given, settings
from hypothesis import strategies as st
from pydantic import (
    AnyUrl,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FtpUrl,
    HttpUrl,
    Json,
    PastDatetime,
    PlainSerializer,
    StringConstraints,
    Tag,
    TypeAdapter,
    computed_field,
    create_model,
)
from typing_extensions import TypeAliasType

import outbox
from outbox.schema.compatibility import as_written, compare
from outbox.schema.finding import Finding, Mode
from outbox.schema.generator import Generator
from tests.schemas import POOL, changed, documents, instances, is_schema, is_valid, unions, validity

B, F = Mode.BACKWARD, Mode.FORWARD


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class MoreColor(enum.Enum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


class Number(enum.IntEnum):
    ONE = 1
    TWO = 2


class Line(BaseModel):
    sku: str


class LineWithCount(BaseModel):
    sku: str
    count: int


class LineWithNote(BaseModel):
    sku: str
    note: str = ""


class LineCount(BaseModel):
    number: int
    of: str


class Card(BaseModel):
    kind: Literal["card"]
    number: str


class Cash(BaseModel):
    kind: Literal["cash"]


class Voucher(BaseModel):
    kind: Literal["voucher"]


class Post(BaseModel):
    kind: Literal["post"] = "post"
    to: str


class PostWithNote(BaseModel):
    kind: Literal["post"] = "post"
    to: str
    note: str = ""


class Pickup(BaseModel):
    kind: Literal["pickup"] = "pickup"


class Total(BaseModel):
    net: int

    @computed_field
    def gross(self) -> int:
        return self.net * 2


make: Any = create_model  # its types know no fields by name


def one(cls: Any, default: Any = ..., **more: Any) -> Any:
    """A class with one field, `a`, and what else is given."""
    fields: dict[str, Any] = {
        name: each if isinstance(each, tuple) else (each, ...) for name, each in more.items()
    }
    return make("Event", a=(cls, default), **fields)


def strict(**fields: Any) -> Any:
    typed: dict[str, Any] = {name: (cls, ...) for name, cls in fields.items()}
    return make("Event", __config__=ConfigDict(extra="forbid"), **typed)


def schema(cls: Any) -> Any:
    return TypeAdapter(cls).json_schema(mode="serialization", schema_generator=Generator)


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


Text = Annotated[str, Field(min_length=1)]
Price = TypeAliasType("Price", Decimal)
Positive = TypeAliasType("Positive", Annotated[Decimal, Field(gt=0)])
Short = Annotated[str, Field(max_length=3)]
Union = Annotated[Card | Cash, Field(discriminator="kind")]
WiderUnion = Annotated[Card | Cash | Voucher, Field(discriminator="kind")]

DefaultTags = Annotated[Post | Pickup, Field(discriminator="kind")]
DefaultTagsGrown = Annotated[PostWithNote | Pickup, Field(discriminator="kind")]


def told_apart(*classes: Any) -> Any:
    """A union whose members a function tells apart."""
    tagged = [Annotated[cls, Tag(str(number))] for number, cls in enumerate(classes)]
    return Annotated[functools.reduce(operator.or_, tagged), Discriminator(str)]


COMPATIBLE: list[tuple[Any, Any]] = [
    (one(int), one(int, b=(str, ""))),
    (one(int, b=(str, "")), one(int)),
    (one(int, b=(list[str], [])), one(int)),
    (one(int), one(Annotated[int, Field(description="New words.", title="T")])),
    (one(Color), one(Literal["blue", "red"])),
    (one(str | None, None), one(str | None, None, b=(int | None, None))),
    (one(list[Line]), one(list[LineWithNote])),
    (one(Union), one(Annotated[Cash | Card, Field(discriminator="kind")])),
    (one(DefaultTags), one(DefaultTags, b=(int, 0))),
    (one(list[DefaultTags]), one(list[DefaultTagsGrown])),
    (one(told_apart(Line, Card)), one(told_apart(LineWithNote, Card))),
    (one(Annotated[float, Field(lt=float("inf"))]), one(float)),
    (one(dict[int, int]), one(dict[int, int], b=(int, 0))),
]

BREAKING: list[tuple[Any, Any, list[tuple[str, str, tuple[Mode, ...]]]]] = [
    (one(int, b=str), one(int), [("/b", "removed", (F,))]),
    (one(int), one(int, b=str), [("/b", "newly required", (B,))]),
    (one(int, 1), one(int), [("/a", "newly required", (B,))]),
    (one(int), one(int, 1), [("/a", "no longer required", (F,))]),
    (one(int, b=str), one(int, c=str), [("/b", "renamed", (B, F))]),
    (one(int), one(str), [("/a", "type changed", (B, F))]),
    (one(float), one(int), [("/a", "type changed", (B,))]),
    (one(int), one(float), [("/a", "type changed", (F,))]),
    (one(int | None), one(int), [("/a", "type changed", (B,))]),
    (one(int), one(int | None), [("/a", "type changed", (F,))]),
    (one(MoreColor), one(Color), [("/a", "values removed", (B,))]),
    (one(Color), one(MoreColor), [("/a", "values added", (F,))]),
    (one(str), one(Color), [("/a", "narrowed", (B,))]),
    (one(Color), one(str), [("/a", "widened", (F,))]),
    (one(str), one(Short), [("/a", "narrowed", (B,))]),
    (one(Short), one(str), [("/a", "widened", (F,))]),
    (
        one(Annotated[int, Field(ge=0, le=9)]),
        one(Annotated[int, Field(ge=0, lt=9)]),
        [("/a", "narrowed", (B,))],
    ),
    (one(str), one(Annotated[str, Field(pattern="^a")]), [("/a", "pattern changed", (B,))]),
    (one(str), one(date), [("/a", "format changed", (B,))]),
    (one(list[int]), one(list[str]), [("/a/*", "type changed", (B, F))]),
    (one(list[int]), one(set[int]), [("/a", "narrowed", (B,))]),
    (one(dict[str, int]), one(dict[str, str]), [("/a/*", "type changed", (B, F))]),
    (one(list[Line]), one(list[LineWithCount]), [("/a/*/count", "newly required", (B,))]),
    (one(tuple[int, str]), one(tuple[int, int]), [("/a/1", "type changed", (B, F))]),
    (one(Union), one(WiderUnion), [("/a/kind", "values added", (F,))]),
    (one(WiderUnion), one(Union), [("/a/kind", "values removed", (B,))]),
    (one(Line), one(Line | Cash), [("/a", "values added", (F,))]),
    (one(Line | Cash), one(Line), [("/a", "values removed", (B,))]),
    (one(str), one(HttpUrl), [("/a", "format changed", (B,))]),
    (
        strict(a=int),
        strict(a=int, b=str),
        [("/b", "newly required", (B,)), ("/b", "not allowed", (F,))],
    ),
    (
        strict(a=int, b=str),
        strict(a=int),
        [("/b", "not allowed", (B,)), ("/b", "removed", (F,))],
    ),
    (one(int), strict(a=int), []),
    (one(dict[str, int]), one(dict[int, int]), [("/a/*", "not allowed", (B,))]),
    (one(dict[str, int]), one(dict[bool, int]), [("/a/*", "not allowed", (B,))]),
    (one(dict[str, int]), one(dict[Number, int]), [("/a/*", "not allowed", (B,))]),
    (one(OrderedDict[str, int]), one(OrderedDict[int, int]), [("/a/*", "not allowed", (B,))]),
    (one(str), one(Decimal), [("/a", "pattern changed", (B,))]),
    (one(list[str]), one(list[Decimal]), [("/a/*", "pattern changed", (B,))]),
    (one(Decimal), one(Decimal | str), [("/a", "pattern changed", (F,))]),
    (one(int | Decimal), one(int | str), [("/a", "pattern changed", (F,))]),
]

UNSAID: list[tuple[Any, Any]] = [
    (Decimal, Annotated[Decimal, Field(gt=0)]),
    (Decimal, Annotated[Decimal, Field(max_digits=4, decimal_places=2)]),
    (datetime, AwareDatetime),
    (datetime, PastDatetime),
    (date, Annotated[date, Field(gt=date(2026, 1, 1))]),
    (timedelta, Annotated[timedelta, Field(gt=timedelta(0))]),
    (dict[int, int], dict[Annotated[int, Field(gt=0)], int]),
    (dict[str, int], dict[float, int]),
    (Text, Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]),
    (str, Annotated[str, Field(pattern=re.compile("^a", re.IGNORECASE))]),
    (AnyUrl, FtpUrl),
    (int, Right),
    (int, Json[int]),
    (str, Annotated[int, PlainSerializer(str, return_type=str)]),
    (float, Annotated[datetime, PlainSerializer(datetime.timestamp, return_type=float)]),
]


ALIKE: list[tuple[Any, Any]] = [
    (str, complex),
    (dict[str, int], dict[Decimal, int]),
    (Annotated[Decimal, Field(allow_inf_nan=True)], Decimal),
    (Annotated[str | None, outbox.Personal], Annotated[Decimal | None, outbox.Personal]),
]


@pytest.mark.parametrize(("wide", "narrow"), ALIKE)
def test_two_kinds_of_text_are_told_apart(wide: Any, narrow: Any) -> None:
    assert compare(schema(one(wide)), schema(one(narrow)), B) != []
    assert compare(schema(one(wide)), schema(one(narrow)), F) == []
    assert compare(schema(one(narrow)), schema(one(wide)), B) == []


@pytest.mark.parametrize(
    "text", ["0", "-1.50", "1E+3", "0E-7", "1E+1000", "NaN", "-sNaN12", "Infinity"]
)
def test_every_decimal_that_is_written_is_valid(text: str) -> None:
    number = Decimal(text)
    cls = one(Annotated[Decimal, Field(allow_inf_nan=not number.is_finite())])
    written = cls(a=number).model_dump_json()
    assert is_valid(json.loads(written), schema(cls)), written


@pytest.mark.parametrize("keys", [bool, Number, int, float, Decimal])
def test_a_dict_is_valid_whatever_its_keys_are(keys: Any) -> None:
    cls = one(dict[keys, int])
    written = cls.model_validate({"a": {"1": 1}}).model_dump_json()
    assert is_valid(json.loads(written), schema(cls)), written


@pytest.mark.parametrize(("wide", "narrow"), UNSAID)
def test_what_a_class_refuses_and_json_schema_cannot_say_is_not_told(
    wide: Any, narrow: Any
) -> None:
    for old, new, mode in ((wide, narrow, B), (narrow, wide, F)):
        (found,) = compare(schema(one(old)), schema(one(new)))
        assert (found.field, found.kind, found.breaks) == ("/a", "cannot tell", (mode,))
    assert compare(schema(one(narrow)), schema(one(narrow, b=(int, 0)))) == []


def test_what_is_not_told_of_a_named_type_is_so_wherever_it_is_named() -> None:
    old, new = one(list[Price], b=list[Price]), one(list[Positive], b=list[Positive])
    found = compare(schema(old), schema(new))
    assert [(each.field, each.kind, each.breaks) for each in found] == [
        ("/a/*", "cannot tell", (B,)),
        ("/b/*", "cannot tell", (B,)),
    ]


@pytest.mark.parametrize(
    ("cls", "config"),
    [(timedelta, {"ser_json_timedelta": "float"}), (bytes, {"ser_json_bytes": "hex"})],
)
def test_another_way_to_write_is_another_type(cls: Any, config: Any) -> None:
    plain, other = one(cls), make("Event", __config__=config, a=(cls, ...))
    assert [each.breaks for each in compare(schema(plain), schema(other))] == [(B, F)]
    wide = float if cls is timedelta else str
    assert compare(schema(one(wide)), schema(other), B) != []
    assert compare(schema(other), schema(one(wide)), B) == []


def test_flags_are_valid_when_they_are_added_up() -> None:
    cls = one(Right)
    assert is_valid(json.loads(cls(a=Right.READ | Right.WRITE).model_dump_json()), schema(cls))


def test_a_dict_takes_no_key_but_those_of_its_pattern() -> None:
    old, new = dict[str, int], dict[Annotated[str, Field(pattern="^[0-9]+$")], int]
    (found,) = compare(schema(one(old)), schema(one(new)))
    assert (found.field, found.kind, found.breaks) == ("/a/*", "not allowed", (B,))


def test_a_computed_field_is_read_by_others_and_not_by_its_class() -> None:
    plain = make("Total", net=(int, ...))
    assert compare(schema(plain), schema(Total)) == []
    assert [(each.kind, each.breaks) for each in compare(schema(Total), schema(plain))] == [
        ("removed", (F,))
    ]


@pytest.mark.parametrize(("old", "new"), COMPATIBLE)
def test_what_breaks_nobody_has_no_finding(old: Any, new: Any) -> None:
    assert compare(schema(old), schema(new)) == []


@pytest.mark.parametrize(("old", "new", "expected"), BREAKING)
def test_what_breaks_is_named_with_whom_it_breaks(old: Any, new: Any, expected: Any) -> None:
    found = compare(schema(old), schema(new))
    assert [(each.field, each.kind, each.breaks) for each in found] == expected
    assert all(each.is_certain and each.says and each.advice for each in found)
    broken = {mode for each in found for mode in each.breaks}
    for mode, writer, reader in ((B, schema(old), schema(new)), (F, schema(new), schema(old))):
        assert (compare(schema(old), schema(new), mode) != []) is (mode in broken)
        if mode in broken and "renamed" not in {each.kind for each in found}:
            assert witness(as_written(writer), reader) is not None


def witness(writer: Any, reader: Any) -> Any:
    return find(
        instances(writer),
        lambda instance: is_valid(instance, writer) and not is_valid(instance, reader),
        settings=settings(
            max_examples=2_000, derandomize=True, database=None, phases=[Phase.generate]
        ),
    )


def test_a_renamed_field_is_lost_though_everything_is_valid() -> None:
    old, new = one(int, b=(str, "")), one(int, c=(str, ""))
    (found,) = compare(schema(old), schema(new))
    assert (found.field, found.kind, found.breaks) == ("/b", "renamed", (B, F))
    stored = old(a=1, b="kept").model_dump_json()
    assert is_valid({"a": 1, "b": "kept"}, schema(new))
    assert new.model_validate_json(stored).c == ""


def test_two_fields_that_go_for_one_that_comes_are_no_renaming() -> None:
    old, new = one(int, b=(str, ""), c=(str, "")), one(int, d=(str, ""))
    assert compare(schema(old), schema(new)) == []


def test_a_changed_default_is_another_meaning_of_events_that_lack_the_field() -> None:
    old, new = one(str, "EUR"), one(str, "USD")
    (found,) = compare(schema(old), schema(new))
    assert (found.field, found.kind, found.breaks) == ("/a", "default changed", (B, F))
    assert found.says == 'meant "EUR" where it is absent and means "USD"'
    assert compare(schema(one(int, 1)), schema(one(float, 1.0)), B) == []


def test_a_changed_default_is_found_in_nested_classes_and_in_unions() -> None:
    old = create_model("Line", sku=(str, "x"))
    new = create_model("Line", sku=(str, "y"))
    for wrap in ("list[{}]", "{} | None", "dict[str, {}]"):
        kinds = [eval(wrap.format("cls"), {"cls": cls}) for cls in (old, new)]  # noqa: S307  # types
        found = compare(*[schema(one(kind)) for kind in kinds])
        assert [each.kind for each in found] == ["default changed"]


def test_another_key_is_another_order() -> None:
    (found,) = compare({"x-key": "a"}, {"x-key": "b"})
    assert (found.kind, found.breaks) == ("key changed", (B, F))
    (found,) = compare({}, {"x-key": "b"})
    assert found.says == "had no key and has the key b: events of one key lose their order"
    assert compare({"x-key": "a"}, {"x-key": "a", "x-owner": "b"}) == []


def test_a_field_that_became_personal_or_anothers_has_another_meaning() -> None:
    def marked(subject: Any, **others: Any) -> Any:
        name = {"type": "string", **({} if subject is None else {"x-personal": subject})}
        either = {"anyOf": [name, {"type": "null"}]}
        properties = {"a": name, "b": either, "c": {"type": "array", "items": name}, **others}
        return {"type": "object", "properties": properties}

    places = ["/a", "/b", "/c/*"]
    for was, now in ((None, "id"), ("id", None), ("id", "customer")):
        found = compare(marked(was), marked(now))
        assert [(each.field, each.kind, each.breaks) for each in found] == [
            (place, "personal changed", (B, F)) for place in places
        ]
    assert compare(marked("id"), marked("id", d={"type": "string", "x-personal": "id"})) == []


def test_a_default_that_was_changed_in_a_union_without_a_tag_is_found() -> None:
    old, new = (make("Line", sku=(str, default), b=(int, ...)) for default in ("x", "y"))
    (found,) = compare(schema(one(old | Card | Line)), schema(one(new | Card | Line)))
    assert (found.field, found.kind) == ("/a/sku", "default changed")
    assert compare(schema(one(old | Line)), schema(one(old | LineWithNote))) == []


def test_a_member_that_a_union_gets_or_loses_is_told_by_its_fields() -> None:
    few, many = schema(one(Line | Cash)), schema(one(Line | Cash | LineCount))
    for old, new, says in (
        (few, many, "may be an object with number, of now, which readers of before do not know"),
        (many, few, "does not take an object with number, of any more, and stored events may have"),
    ):
        (found,) = compare(old, new)
        assert (found.field, found.is_certain) == ("/a", False)
        assert found.says.startswith(says)


def test_what_is_not_understood_breaks_and_says_so() -> None:
    (found,) = compare({"type": "object"}, {"type": "object", "not": {"required": ["a"]}})
    assert (found.kind, found.breaks, found.is_certain) == ("cannot tell", (B,), False)


def test_a_class_that_takes_any_field_may_have_written_it() -> None:
    old = create_model("Event", __config__=ConfigDict(extra="allow"), a=(int, ...))
    assert [each.field for each in compare(schema(old), schema(one(int, b=(str, ""))), B)] == ["/b"]


def test_a_class_that_contains_itself_is_compared() -> None:
    class Node(BaseModel):
        name: str
        below: list[Node] = []

    class Changed(BaseModel):
        name: int
        below: list[Changed] = []

    same = create_model("Node", __base__=Node, note=(str, ""))
    assert compare(schema(Node), schema(Node)) == []
    assert "/name" in [each.field for each in compare(schema(Node), schema(Changed))]
    assert compare(schema(Node), schema(same)) == []


class Never(BaseModel):
    kind: Literal["never"]


class Not(BaseModel):
    kind: Literal["not"]
    rule: Rule


class Both(BaseModel):
    kind: Literal["both"]
    left: Rule
    right: Rule | None = None


class NotWithNote(BaseModel):
    kind: Literal["not"]
    rule: ChangedRule
    note: str = ""


class BothWithReason(BaseModel):
    kind: Literal["both"]
    left: ChangedRule
    right: ChangedRule | None = None
    reason: str


Rule = Annotated[Never | Not | Both, Field(discriminator="kind")]
ChangedRule = Annotated[Never | NotWithNote | BothWithReason, Field(discriminator="kind")]


@pytest.mark.timeout(60)  # by every path through the union it would be hours
def test_a_union_whose_members_contain_it_is_compared_once() -> None:
    assert compare(schema(one(Rule)), schema(one(Rule, b=(str, "")))) == []
    found = compare(schema(one(Rule)), schema(one(ChangedRule)), B)
    assert ("/a/reason", "newly required") in {(each.field, each.kind) for each in found}


@pytest.mark.timeout(60)
def test_a_long_enum_is_compared_as_fast_as_it_is_read() -> None:
    names = [f"v{number}" for number in range(2_000)]
    old, new = ({"enum": names[:count]} for count in (1_999, 2_000))
    (found,) = compare(old, new)
    assert (found.kind, found.breaks) == ("values added", (F,))


def test_a_schema_of_several_parts_for_one_object_is_not_closed() -> None:
    part = {"type": "object", "properties": {"a": {"type": "integer"}}}
    whole = {"allOf": [part, {"properties": {"b": {"type": "integer"}}}]}
    assert as_written(whole) == whole
    assert as_written(part) == part | {"additionalProperties": False}
    assert compare(whole, {"type": "object", "properties": {"b": {"type": "string"}}}, B)


@pytest.mark.parametrize("broken", [5, {"type": "text"}, {"properties": 5}, {"enum": 5}])
def test_what_is_no_schema_is_told(broken: Any) -> None:
    with pytest.raises(ValueError, match="no JSON Schema"):
        compare(broken, {"type": "object"})


def test_a_schema_that_is_too_deep_is_told() -> None:
    deep: Any = {"type": "integer"}
    for _ in range(2_000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(ValueError, match="too deep"):
        compare(deep, deep | {"minItems": 1})


def test_findings_say_the_same_of_both_directions_once() -> None:
    (found,) = compare(schema(one(int)), schema(one(datetime)))
    assert found == Finding(
        "/a",
        "type changed",
        "was integer and is string date-time",
        "leave it, and add a field with a default beside it",
        (B, F),
        old_pointer="/properties/a",
        new_pointer="/properties/a",
    )
    assert dataclasses.replace(found, breaks=(B,)) in compare(
        schema(one(int)), schema(one(datetime)), B
    )


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],
)
@given(st.data())
def test_what_is_compatible_is_valid_as_it_is_written(data: st.DataObject) -> None:
    hold(data, data.draw(documents()))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],
)
@given(st.data())
def test_what_is_compatible_is_valid_also_of_unions_that_recur(data: st.DataObject) -> None:
    hold(data, data.draw(unions()))


def hold(data: st.DataObject, old: Any) -> None:
    """Change a schema, and hold what is said of it to JSON Schema's own semantics."""
    new = data.draw(changed(old))
    assume(old != new and is_schema(old) and is_schema(new))
    for mode, writer, reader in ((B, old, new), (F, new, old)):
        if not compare(old, new, mode):
            is_written, is_read = validity(as_written(writer)), validity(reader)
            assert not [each for each in POOL if is_written(each) and not is_read(each)]
