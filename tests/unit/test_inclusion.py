"""Inclusion of JSON Schemas, held to JSON Schema's own semantics."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument, Unsatisfiable
from jsonschema.exceptions import SchemaError

from outbox.schema.inclusion import Gap, Kind, included
from tests.schemas import POOL, changed, documents, instances, is_schema, is_valid, validity

INTEGER = {"type": "integer"}
NUMBER = {"type": "number"}
STRING = {"type": "string"}
NULL = {"type": "null"}
BOOLEAN = {"type": "boolean"}


def an_object(required: str = "", others: Any = None, **properties: Any) -> dict[str, Any]:
    found = {"type": "object", "properties": properties, "required": required.split()}
    return found if others is None else found | {"additionalProperties": others}


def any_of(*schemas: Any) -> dict[str, Any]:
    return {"anyOf": list(schemas)}


def an_array(items: Any = None, **keywords: Any) -> dict[str, Any]:
    found = {} if items is None else {"items": items}
    return {"type": "array", **found, **keywords}


TREE = {
    "$ref": "#/$defs/Tree",
    "$defs": {"Tree": an_object("name", name=STRING, below=an_array({"$ref": "#/$defs/Tree"}))},
}
WIDER_TREE = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": an_object("", name=any_of(STRING, NULL), below=an_array({"$ref": "#/$defs/Node"}))
    },
}
CARD = an_object("kind", kind={"const": "card"}, number=STRING)
CASH = an_object("kind", kind={"const": "cash"})
PAID = {"oneOf": [CARD, CASH]}

INCLUDED: list[tuple[Any, Any]] = [
    (INTEGER, NUMBER),
    (INTEGER, True),
    (False, STRING),
    (STRING | {"minLength": 3, "maxLength": 2}, INTEGER),
    (NUMBER | {"minimum": 1, "exclusiveMaximum": 1}, STRING),
    ({"enum": ["a", 1, None]}, any_of(STRING, INTEGER, NULL)),
    ({"enum": [1.0]}, INTEGER),
    ({"const": 3}, NUMBER | {"multipleOf": 1.5}),
    (BOOLEAN, {"enum": [True, False, "x"]}),
    (any_of(STRING, NULL), {"type": ["null", "string", "integer"]}),
    (INTEGER | {"exclusiveMinimum": 0}, INTEGER | {"minimum": 1}),
    (INTEGER | {"minimum": 1, "maximum": 5}, NUMBER | {"exclusiveMinimum": 0, "maximum": 5}),
    (INTEGER | {"multipleOf": 6}, NUMBER | {"multipleOf": 3}),
    (STRING | {"minLength": 2, "maxLength": 3}, STRING | {"minLength": 1}),
    (STRING | {"pattern": "^a", "format": "date"}, STRING | {"pattern": "^a"}),
    ({"enum": ["ab"]}, STRING | {"pattern": "^a", "maxLength": 2}),
    (an_array(INTEGER), an_array(NUMBER)),
    (an_array(INTEGER, maxItems=2, minItems=1), an_array(maxItems=3)),
    (an_array(False, prefixItems=[INTEGER, STRING]), an_array(any_of(INTEGER, STRING))),
    (an_array(False, prefixItems=[INTEGER]), {"type": "array", "maxItems": 1}),
    (an_array(INTEGER, maxItems=1), an_array(uniqueItems=True)),
    (an_object("a b", a=INTEGER, b=STRING), an_object("a", a=NUMBER)),
    (an_object(others=False, a=INTEGER), an_object(a=INTEGER, b=STRING)),
    (an_object(others=INTEGER), {"type": "object", "additionalProperties": NUMBER}),
    (an_object(others=False, a=INTEGER), an_object(others=INTEGER)),
    (
        {"type": "object", "patternProperties": {"^x": INTEGER}, "additionalProperties": False},
        {"type": "object", "patternProperties": {"^x": NUMBER}},
    ),
    (an_object(others=False, xa=INTEGER), {"patternProperties": {"^x": INTEGER}}),
    (an_object(others=False, a=STRING, b=STRING), {"type": "object", "maxProperties": 2}),
    (an_object("a b"), {"minProperties": 2}),
    (an_object(others=False, a=STRING), {"propertyNames": {"pattern": "^a"}}),
    (TREE, WIDER_TREE),
    (PAID, PAID | {"title": "Paid"}),
    (CASH, PAID),
    (PAID, any_of(CASH, CARD, an_object("kind", kind={"const": "voucher"}))),
    (
        an_object("kind", kind={"enum": ["card", "cash"]}),
        any_of(CASH, an_object("kind", kind={"const": "card"})),
    ),
    ({"allOf": [INTEGER, {"minimum": 3}]}, {"minimum": 2}),
    (INTEGER, {"allOf": [NUMBER, {"multipleOf": 1}]}),
    ({"not": STRING}, {"not": STRING, "title": "Others"}),
    ({"$ref": "#/$defs/N", "maximum": 5, "$defs": {"N": INTEGER}}, INTEGER | {"maximum": 9}),
]

NOT_INCLUDED: list[tuple[Any, Any, Kind, tuple[str, ...]]] = [
    (NUMBER, INTEGER, Kind.TYPE, ()),
    (STRING, INTEGER, Kind.TYPE, ()),
    (True, STRING, Kind.TYPE, ()),
    (any_of(STRING, NULL), STRING, Kind.TYPE, ()),
    ({"enum": ["a", "b"]}, {"enum": ["a"]}, Kind.VALUES, ()),
    ({"enum": [1, True]}, {"enum": [1]}, Kind.VALUES, ()),
    (STRING, {"enum": ["a"]}, Kind.VALUES, ()),
    (BOOLEAN, {"const": True}, Kind.VALUES, ()),
    (BOOLEAN, STRING, Kind.TYPE, ()),
    (INTEGER | {"minimum": 1, "maximum": 5}, INTEGER | {"maximum": 4}, Kind.RANGE, ()),
    ({"enum": [1, 2, 3]}, NUMBER | {"exclusiveMinimum": 1}, Kind.VALUES, ()),
    (INTEGER, INTEGER | {"multipleOf": 2}, Kind.RANGE, ()),
    (STRING, STRING | {"maxLength": 2}, Kind.LENGTH, ()),
    (STRING, STRING | {"pattern": "^a"}, Kind.PATTERN, ()),
    (STRING, STRING | {"format": "date"}, Kind.FORMAT, ()),
    (an_array(NUMBER), an_array(INTEGER), Kind.TYPE, ("*",)),
    (an_array(), an_array(minItems=1), Kind.LENGTH, ()),
    (an_array(), an_array(uniqueItems=True), Kind.UNIQUE, ()),
    (an_array(prefixItems=[STRING]), an_array(prefixItems=[INTEGER]), Kind.TYPE, ("0",)),
    (an_array(False, prefixItems=[STRING]), an_array(False), Kind.EXTRA, ("0",)),
    (an_object(a=INTEGER), an_object("a", a=INTEGER), Kind.MISSING, ("a",)),
    (an_object(others=False, a=INTEGER), an_object("b"), Kind.MISSING, ("b",)),
    (an_object(others=False, a=INTEGER), an_object(others=False), Kind.EXTRA, ("a",)),
    (an_object(), an_object(others=False), Kind.EXTRA, ("*",)),
    (an_object(others=STRING), an_object(others=INTEGER), Kind.TYPE, ("*",)),
    (an_object(), {"type": "object", "maxProperties": 1}, Kind.LENGTH, ()),
    (an_object(), {"type": "object", "propertyNames": {"pattern": "^a"}}, Kind.NAME, ("*",)),
    (an_object(others=False, b=STRING), {"propertyNames": {"pattern": "^a"}}, Kind.NAME, ("b",)),
    (
        {"type": "object", "patternProperties": {"^x": STRING}},
        {"type": "object", "patternProperties": {"^x": INTEGER}},
        Kind.TYPE,
        ("*",),
    ),
    (PAID, CARD, Kind.VALUES, ("kind",)),
    (PAID, {"oneOf": [CARD | {"required": ["kind", "number"]}, CASH]}, Kind.MISSING, ("number",)),
]

UNKNOWN: list[tuple[Any, Any]] = [
    (STRING, {"not": INTEGER}),
    (an_array(), {"contains": INTEGER}),
    (an_object(), {"dependentRequired": {"a": ["b"]}}),
    (an_array(contains=INTEGER, minContains=0), an_array(contains=INTEGER)),
    (
        an_object(others=None, a=INTEGER, b=STRING) | {"unevaluatedProperties": False},
        an_object(others=None, a=INTEGER) | {"unevaluatedProperties": False},
    ),
    (an_object(), {"if": {"required": ["a"]}, "then": {"required": ["b"]}}),
    (INTEGER, {"oneOf": [NUMBER, INTEGER]}),
    (STRING | {"pattern": "^aa"}, STRING | {"pattern": "^a"}),
    (STRING | {"format": "date"}, STRING | {"format": "date-time"}),
    ({"enum": ["2026-01-01"]}, STRING | {"format": "date"}),
    (STRING, {"$ref": "https://example.com/other.json"}),
    (STRING, {"anyOf": [{"$ref": "#"}, INTEGER]}),
    (an_object(others=False, a=INTEGER), {"patternProperties": {"(": INTEGER}}),
    (INTEGER | {"minimum": 0}, any_of(INTEGER | {"maximum": 5}, INTEGER | {"minimum": 3})),
]


@pytest.mark.parametrize(("first", "second"), INCLUDED)
def test_what_is_included_has_no_gap(first: Any, second: Any) -> None:
    assert included(first, second) == []


@pytest.mark.parametrize(("first", "second", "kind", "path"), NOT_INCLUDED)
def test_what_is_not_included_has_a_gap_and_an_instance_that_shows_it(
    first: Any, second: Any, kind: Kind, path: tuple[str, ...]
) -> None:
    (gap,) = included(first, second)
    assert (gap.kind, gap.path, gap.is_certain) == (kind, path, True)
    assert not is_valid(witness(first, second), second)


def test_an_open_object_may_have_any_property() -> None:
    first, second = an_object(), an_object(a=STRING)
    assert [(gap.kind, gap.path) for gap in included(first, second)] == [(Kind.TYPE, ("a",))]
    assert is_valid({"a": 1}, first)
    assert not is_valid({"a": 1}, second)


def witness(first: Any, second: Any) -> Any:
    return find(
        instances(first),
        lambda instance: is_valid(instance, first) and not is_valid(instance, second),
        settings=settings(
            max_examples=2_000, derandomize=True, database=None, phases=[Phase.generate]
        ),
    )


@pytest.mark.parametrize(("first", "second"), UNKNOWN)
def test_what_cannot_be_told_is_a_gap_that_says_so(first: Any, second: Any) -> None:
    gaps = included(first, second)
    assert gaps
    assert not any(gap.is_certain for gap in gaps)


@pytest.mark.parametrize("schema", [5, [], {"type": "text"}, {"enum": 5}, {"minimum": "x"}])
def test_what_is_no_schema_raises(schema: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        included({"properties": {"a": INTEGER}, **INTEGER}, schema)


def test_a_reference_leads_to_what_it_names_in_its_own_document() -> None:
    first = {"$ref": "#/$defs/A~1B", "$defs": {"A/B": INTEGER, "C": STRING}}
    second = {"$ref": "#/$defs/A~1B", "$defs": {"A/B": STRING, "C": STRING}}
    assert [gap.kind for gap in included(first, second)] == [Kind.TYPE]
    assert included(first, first) == []


def test_pointers_lead_into_both_documents() -> None:
    first = {"properties": {"a/b": {"$ref": "#/$defs/A"}}, "$defs": {"A": an_array(INTEGER)}}
    second = {"properties": {"a/b": an_array(STRING)}}
    (gap,) = included(first, second)
    assert gap == Gap(
        Kind.TYPE,
        ("a/b", "*"),
        ("/$defs/A/items", "/properties/a~1b/items"),
        "integer",
        "string",
    )


FEW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],
)


def hold(data: st.DataObject) -> None:
    """Draw two schemas and hold what is said of them to JSON Schema's own semantics."""
    first = data.draw(documents())
    second = data.draw(changed(first))
    assume(first != second and is_schema(first) and is_schema(second))
    assume(included(first, second) == [])
    is_first, is_second = validity(first), validity(second)
    assert not [each for each in POOL if is_first(each) and not is_second(each)]
    try:
        instance = data.draw(instances(first))
    except (InvalidArgument, Unsatisfiable):  # there is none
        return
    except SchemaError:  # the library makes `items` of no schema of a tuple that has to be empty
        return
    assert is_second(instance) or not is_first(instance)


@FEW
@given(st.data())
def test_where_no_gap_is_found_every_instance_is_valid(data: st.DataObject) -> None:
    hold(data)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@settings(FEW, max_examples=600)
@given(st.data())
def test_where_no_gap_is_found_every_instance_of_many_schemas_is_valid(
    data: st.DataObject,
) -> None:
    hold(data)
