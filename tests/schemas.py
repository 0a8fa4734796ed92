"""Random JSON Schemas, changed copies of them, and instances."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import jsonschema
from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    Draw = Callable[[st.SearchStrategy[Any]], Any]

NAMES = ["a", "b", "c", "xa"]
SCALARS = [None, True, False, 0, 1, 2, 7, 1.5, "", "a", "b", "ab", "xa"]
PATTERNS = ["^x", "^a", "b$", "^[ab]*$"]
FORMATS = ["date", "time", "ipv4", "uuid"]


def small() -> st.SearchStrategy[int]:
    return st.integers(-1, 4)


def _some(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keywords)


@st.composite
def numbers(draw: Draw) -> dict[str, Any]:
    bounds = _some(
        minimum=small(),
        maximum=small(),
        exclusiveMinimum=small(),
        exclusiveMaximum=small(),
        multipleOf=st.integers(1, 4),
    )
    made: dict[str, Any] = draw(bounds)
    return made | {"type": draw(st.sampled_from(["integer", "number"]))}


@st.composite
def strings(draw: Draw) -> dict[str, Any]:
    length = st.integers(0, 3)
    kinds = [
        _some(minLength=length, maxLength=length),
        _some(pattern=st.sampled_from(PATTERNS)),
        _some(format=st.sampled_from(FORMATS)),
    ]
    made: dict[str, Any] = draw(st.one_of(kinds))
    return made | {"type": "string"}


@st.composite
def arrays(draw: Draw, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    count = st.integers(0, 3)
    keywords = _some(
        items=inner,
        prefixItems=st.lists(inner, min_size=1, max_size=2),
        minItems=count,
        maxItems=count,
        uniqueItems=st.booleans(),
    )
    made: dict[str, Any] = draw(keywords)
    return made | {"type": "array"}


@st.composite
def objects(draw: Draw, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    keywords = _some(
        properties=st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=3),
        required=st.lists(st.sampled_from(NAMES[:2]), unique=True),
        additionalProperties=st.one_of(st.booleans(), inner),
        patternProperties=st.dictionaries(st.sampled_from(PATTERNS[:2]), inner, min_size=1),
        minProperties=st.integers(0, 2),
        maxProperties=st.integers(1, 4),
    )
    made: dict[str, Any] = draw(keywords)
    return made | {"type": "object"}


def leaves() -> st.SearchStrategy[Any]:
    return st.one_of(
        numbers(),
        strings(),
        st.sampled_from([True, {}, {"type": "null"}, {"type": "boolean"}]),
        st.builds(
            lambda values: {"enum": values},
            st.lists(st.sampled_from(SCALARS), min_size=1, max_size=4, unique_by=repr),
        ),
        st.sampled_from([{"$ref": "#/$defs/One"}, {"$ref": "#/$defs/Two"}]),
    )


def _above(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        arrays(inner),
        objects(inner),
        st.builds(lambda each: {"anyOf": each}, several),
        st.builds(lambda each: {"oneOf": each}, several),
        st.builds(lambda each: {"allOf": each}, several),
        st.builds(_tagged, st.lists(objects(inner), min_size=1, max_size=3)),
        st.builds(lambda one, other: one | {"anyOf": [other, {"type": "null"}]}, numbers(), inner),
        st.builds(lambda each: {"not": each}, leaves()),
    )


def _tagged(each: list[dict[str, Any]]) -> dict[str, Any]:
    """A discriminated union, as pydantic writes it."""
    found = []
    for number, one in enumerate(each):
        required = sorted({*one.get("required", []), "kind"})
        properties = one.get("properties", {}) | {"kind": {"const": f"k{number}"}}
        found.append(one | {"properties": properties, "required": required})
    return {"oneOf": found}


def schemas() -> st.SearchStrategy[Any]:
    return st.recursive(leaves(), _above, max_leaves=5)


# Made once: to make them takes longer than to draw from them.
SCHEMAS = schemas()
LEAVES = leaves()
REFERRED = st.recursive(LEAVES.filter(lambda each: "$ref" not in str(each)), arrays, max_leaves=2)


@st.composite
def documents(draw: Draw) -> dict[str, Any]:
    found = draw(SCHEMAS)
    document = found if isinstance(found, dict) else {"allOf": [found]}
    return {**document, "$defs": {"One": draw(REFERRED), "Two": draw(REFERRED)}}


@st.composite
def unions(draw: Draw) -> dict[str, Any]:
    """A union whose members may contain it, written out at each place, as pydantic does it."""
    names = [f"k{number}" for number in range(draw(st.integers(1, 3)))]
    is_tag_in_class = draw(st.booleans())  # or in the union alone, where it has a default
    members = [{"$ref": f"#/$defs/{name}"} for name in names]
    tagged = [each if is_tag_in_class else {**each, "required": ["kind"]} for each in members]
    union: dict[str, Any] = {draw(st.sampled_from(["oneOf", "anyOf"])): tagged}
    inner = st.one_of(
        LEAVES.filter(lambda each: "$ref" not in str(each)),
        st.just(union),
        st.just({"anyOf": [union, {"type": "null"}]}),
        st.just({"type": "array", "items": union}),
    )
    definitions: dict[str, Any] = {"One": {"type": "integer"}, "Two": {"type": "string"}}
    for name in names:
        own = draw(st.dictionaries(st.sampled_from(NAMES), inner, max_size=2))
        required = ["kind"] if is_tag_in_class else []
        required += draw(st.lists(st.sampled_from(NAMES[:2]), max_size=1))
        properties = {"kind": {"const": name, "default": name}, **own}
        definitions[name] = {"type": "object", "properties": properties, "required": required}
    return {"type": "object", "properties": {"a": union, "b": union}, "$defs": definitions}


@st.composite
def changed(draw: Draw, document: dict[str, Any]) -> dict[str, Any]:
    """Change a few places of a document."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(found))
        _change(draw, draw(st.sampled_from(places)))
    return found


def _places(schema: Any) -> Any:
    """Every object and list inside of a schema that is not a map of schemas."""
    if isinstance(schema, dict):
        yield schema
        for each in schema.values():
            yield from _places(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _places(each)


def _change(draw: Draw, place: dict[str, Any]) -> None:
    keywords = sorted(place.keys() - {"$defs", "One", "Two", "kind", "k0", "k1", "k2", "$ref"})
    change = draw(st.sampled_from([_drop, _add, _swap, _count, _shorten]))
    if keywords:
        change(draw, place, keywords)


def _drop(draw: Draw, place: dict[str, Any], keywords: list[str]) -> None:
    del place[draw(st.sampled_from(keywords))]


def _add(draw: Draw, place: dict[str, Any], _keywords: list[str]) -> None:
    made = {
        "integer": numbers(),
        "number": numbers(),
        "string": strings(),
        "array": arrays(LEAVES),
        "object": objects(LEAVES),
    }.get(str(place.get("type")))
    if made is not None:
        place.update(draw(made))


def _swap(draw: Draw, place: dict[str, Any], keywords: list[str]) -> None:
    schemas = [name for name in keywords if isinstance(place[name], dict | bool)]
    if schemas:
        place[draw(st.sampled_from(schemas))] = draw(LEAVES)


def _count(draw: Draw, place: dict[str, Any], keywords: list[str]) -> None:
    counts = [name for name in keywords if isinstance(place[name], int) and place[name] > 1]
    if counts:
        place[draw(st.sampled_from(counts))] += draw(st.sampled_from([-1, 1]))


def _shorten(draw: Draw, place: dict[str, Any], keywords: list[str]) -> None:
    lists = [place[name] for name in keywords if isinstance(place[name], list)]
    if lists:
        members = draw(st.sampled_from(lists))
        if len(members) > 1:
            members.pop(draw(st.integers(0, len(members) - 1)))


def _pool() -> list[Any]:
    """Values of every kind, small enough to be hit by the schemas above."""
    scalars = [*SCALARS, -1, 3, 0.5, "bb", "2026-01-02", "10.0.0.1"]
    few = [None, True, 0, 1, 1.5, "a", "xa"]
    found: list[Any] = [*scalars, [], {}]
    found += [[one] for one in scalars]
    found += [list(pair) for pair in itertools.product(few, repeat=2)]
    found += [{name: value} for name in [*NAMES, "kind", "z"] for value in few]
    found += [
        {one: value, other: own}
        for one, other in itertools.combinations([*NAMES, "z"], 2)
        for value, own in [(1, "a"), (True, 1), ("a", None), ("xa", 0)]
    ]
    found += [{"kind": tag, name: 1} for tag in ("k0", "k1") for name in NAMES]
    tagged = [{"kind": tag, name: value} for tag in ("k0", "k1") for name in "abc" for value in few]
    found += [{name: each} for each in tagged for name in "ab"]
    found += [{"a": {"kind": "k0", "a": each}} for each in tagged]
    found += [{"a": {"a": 1}}, {"a": {"b": 1}}, {"a": [1]}, [[1]], [{"a": 1}], {"b": {}}]
    found += [dict.fromkeys(NAMES, value) for value in few]
    return found


POOL = _pool()


def is_schema(schema: Any) -> bool:
    return bool(META.is_valid(schema))


META = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA)


def is_valid(instance: Any, schema: Any) -> bool:
    return validity(schema)(instance)


def validity(schema: Any) -> Callable[[Any], bool]:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    return lambda instance: bool(validator.is_valid(instance))


def instances(schema: Any) -> st.SearchStrategy[Any]:
    """Instances of a schema, by a library that knows draft 7."""
    return from_schema(_draft_7(schema))


def _draft_7(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_draft_7(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _draft_7(each) for name, each in schema.items()}
    if isinstance(found.get("prefixItems"), list):
        rest = found.pop("items", True)
        found["items"], found["additionalItems"] = found.pop("prefixItems"), rest
    reference = found.pop("$ref", None) if len(found) > 1 else None
    if isinstance(reference, str):
        found["allOf"] = [*found.get("allOf", []), {"$ref": reference}]
    return found
