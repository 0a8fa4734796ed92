"""What a JSON Schema admits, as a list of alternatives that are simple to compare.

A *part* is a schema with the document that its references are looked up in. Several parts mean
all of them at once. `shapes` resolves references and combinators, and returns alternatives: an
instance is valid when it fits one of them. Keywords are those of JSON Schema draft 2020-12,
Core and Validation; `format` counts as an assertion, since readers here check it. What cannot be
expressed is kept as the *riddles* of a shape: constraints that are there, and not understood.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from outbox.schema.generator import CONSTRAINTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NAMED: Final = frozenset({"$defs", "definitions", "properties", "patternProperties"})
"""Keywords whose value has schemas by names; `definitions` was that of draft 07."""


@dataclass(frozen=True, slots=True)
class Part:
    """A schema, the document that it is in, and its JSON Pointer there."""

    schema: Any
    root: Any
    pointer: str = ""
    memo: dict[Any, tuple[Parts, list[Shape]]] = field(
        default_factory=dict, compare=False, repr=False
    )
    """Shapes that were made of the document's parts; they are asked for again and again."""

    @property
    def document(self) -> Part:
        """The whole document."""
        return Part(self.root, self.root, memo=self.memo)

    def at(self, *names: str | int) -> Part:
        """Return the schema below, by its names."""
        found, pointer = self.schema, self.pointer
        for name in names:
            found, pointer = found[name], f"{pointer}/{escaped(str(name))}"
        return Part(found, self.root, pointer, self.memo)


Parts: TypeAlias = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Riddle:
    """A constraint that is not understood."""

    says: str = field(compare=False)
    key: object = field(default_factory=object)
    """Equal for two constraints that are surely the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    riddles: frozenset[Riddle] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Value(_Shape):
    """One value, of any type; true, false and null are always such."""

    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers(_Shape):
    """Numbers in a range. Bounds are inclusive where they are not open."""

    is_integer: bool = False
    low: Fraction | None = None
    is_low_open: bool = False
    high: Fraction | None = None
    is_high_open: bool = False
    factors: frozenset[Fraction] = frozenset()
    """Each is a `multipleOf`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strings(_Shape):
    """Strings."""

    low: int = 0
    high: int | None = None
    patterns: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()
    """Formats and encodings."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one schema says of the items of an array."""

    prefix: Parts = ()
    rest: Part | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays(_Shape):
    """Arrays."""

    low: int = 0
    high: int | None = None
    is_unique: bool = False
    rows: tuple[Row, ...] = ()

    def item(self, index: int) -> Parts:
        """Return what is said of one item."""
        found: list[Part] = []
        for row in self.rows:
            if index < len(row.prefix):
                found.append(row.prefix[index])
            elif row.rest is not None:
                found.append(row.rest)
        return tuple(found)

    @property
    def prefix_length(self) -> int:
        """From this index on all items are alike."""
        return max((len(row.prefix) for row in self.rows), default=0)


@dataclass(frozen=True, slots=True)
class Layer:
    """What one schema says of the properties of an object."""

    properties: dict[str, Part] = field(default_factory=dict, hash=False)
    patterns: dict[str, Part] = field(default_factory=dict, hash=False)
    rest: Part | None = None
    """Of all other properties."""

    def of(self, name: str) -> Parts:
        """Return what is said of one property."""
        found = [self.properties[name]] if name in self.properties else []
        found += [part for pattern, part in self.patterns.items() if re.search(pattern, name)]
        if not found and self.rest is not None:
            found.append(self.rest)
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects(_Shape):
    """Objects."""

    low: int = 0
    high: int | None = None
    required: frozenset[str] = frozenset()
    layers: tuple[Layer, ...] = ()
    names: Parts = ()
    """What is said of the names of properties."""

    def about(self, name: str) -> Parts:
        """Return what is said of one property."""
        return tuple(part for layer in self.layers for part in layer.of(name))

    @property
    def known(self) -> list[str]:
        """Names that are spoken of, in the order of the schema."""
        return list(dict.fromkeys(name for layer in self.layers for name in layer.properties))

    @property
    def rest(self) -> Parts:
        """What is said of properties that nothing else speaks of."""
        return tuple(layer.rest for layer in self.layers if layer.rest is not None)


Shape: TypeAlias = Value | Numbers | Strings | Arrays | Objects

_RIDDLES: Final[dict[type | None, tuple[str, ...]]] = {
    None: ("not", "if", "then", "else", "$dynamicRef", "$id", CONSTRAINTS),
    Arrays: ("contains", "minContains", "maxContains", "unevaluatedItems"),
    Objects: ("dependentRequired", "dependentSchemas", "unevaluatedProperties"),
}
"""Keywords that are constraints and not understood here, of all types and of one."""
_BESIDE: Final = frozenset({"unevaluatedItems", "unevaluatedProperties", "$id"})
"""Of these, what they mean depends on all keywords beside them."""


SAID: Final = frozenset({"title", "description", "default", "examples", "deprecated", "$comment"})
"""Keywords that say something to people alone."""


def shapes(parts: Parts) -> list[Shape]:
    """Return the alternatives of what fulfils all parts."""
    if not parts:
        return list(_ANYTHING)
    place = tuple((id(part.schema), id(part.root), part.pointer) for part in parts)
    memo = parts[0].memo
    if place not in memo:  # which holds the parts, so that no others come in their place
        memo[place] = (parts, _made(parts))
    return memo[place][1]


def _made(parts: Parts) -> list[Shape]:
    found: list[Shape] = list(_ANYTHING)
    for part in parts:
        found = _both(found, _shapes(part, frozenset()))
    return [shape for shape in found if not _is_empty(shape)]


def _is_empty(shape: Shape) -> bool:
    """Tell whether its limits leave nothing; False where that is not plain to see."""
    if isinstance(shape, Value) or shape.low is None or shape.high is None:
        return False
    is_open = isinstance(shape, Numbers) and (shape.is_low_open or shape.is_high_open)
    return shape.low > shape.high or (shape.low == shape.high and is_open)


def admits(parts: Parts, value: Any) -> bool | None:
    """Tell whether a value fulfils all parts; None where that cannot be told."""
    return any_of(fits(shape, value) for shape in shapes(parts))


def any_of(answers: Iterable[bool | None]) -> bool | None:
    """Tell whether one of several answers is yes; None where that cannot be told."""
    found = list(answers)
    return True if True in found else None if None in found else False


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal in JSON: 1 is 1.0, and true is not 1."""
    return canonical(one) == canonical(other)


def canonical(value: Any) -> str:
    """Return a JSON value as a text that is equal for equal values alone."""
    return text(_with_whole_numbers(value))


def _with_whole_numbers(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_with_whole_numbers(each) for each in value]
        case dict():
            return {name: _with_whole_numbers(each) for name, each in value.items()}
        case _:
            return value


def text(value: Any) -> str:
    """Return a JSON value as a text that is equal for equal schemas alone."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def spelled(part: Part) -> str:
    """Return a part as a text that is equal only for parts that mean the same.

    All that it refers to is in the text, since a name may mean something else in another document.
    """
    found: dict[str, Any] = {}
    unread = [part.schema]
    while unread:
        for reference in _references(unread.pop()):
            if reference not in found:
                target = _target(part, reference)
                # What cannot be looked up may depend on anything in the document.
                found[reference] = part.root if target is None else target.schema
                unread.append(found[reference])
    return text([part.schema, found])


class Digests:
    """Short texts that are equal only for parts that admit the same, and mean the same below."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[Part, str]] = {}

    def of(self, parts: Parts) -> tuple[str, ...]:
        """Return the digests of some parts."""
        return tuple(map(self._of, parts))

    def _of(self, part: Part) -> str:
        place = (id(part.schema), id(part.root))
        if place not in self._known:  # which holds the part, so that no other comes in its place
            schema = part.schema
            if isinstance(schema, dict):
                schema = {name: each for name, each in schema.items() if name not in SAID}
            written = spelled(replace(part, schema=schema))
            self._known[place] = (part, hashlib.sha256(written.encode()).hexdigest())
        return self._known[place][1]


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, each in schema.items():
            if name in {"$ref", "$dynamicRef"} and isinstance(each, str):
                yield each if name == "$ref" else f"{name} {each}"
            yield from _references(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _references(each)


def escaped(name: str) -> str:
    """Return a name as a token of a JSON Pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def is_disjoint(one: Shape, other: Shape) -> bool:
    """Tell whether no value fits both; False where that is not plain to see."""
    if isinstance(one, Value):
        return fits(other, one.value) is False
    if isinstance(other, Value):
        return fits(one, other.value) is False
    if type(one) is not type(other):
        return True
    if isinstance(one, Objects) and isinstance(other, Objects):
        for name in one.required & other.required:
            left, right = one.about(name), other.about(name)
            # Nothing else is a tag; to look into all would be to look into what recurs.
            if (
                _is_listed(left)
                and _is_listed(right)
                and _are_disjoint(shapes(left), shapes(right))
            ):
                return True
    return False


def _is_listed(parts: Parts) -> bool:
    """Tell whether a schema lists its values, itself or by references alone."""
    for part in parts:
        found: Part | None = part
        seen: set[int] = set()
        while found is not None and isinstance(found.schema, dict) and id(found.schema) not in seen:
            if "const" in found.schema or "enum" in found.schema:
                return True
            seen.add(id(found.schema))
            reference = found.schema.get("$ref")
            found = None if reference is None else _target(found, reference)
    return False


def _are_disjoint(left: list[Shape], right: list[Shape]) -> bool:
    return all(is_disjoint(one, other) for one in left for other in right)


_BOOLEANS: Final[tuple[Shape, ...]] = (Value(value=False), Value(value=True))
_ANYTHING: Final[tuple[Shape, ...]] = (
    Value(value=None),
    *_BOOLEANS,
    Numbers(),
    Strings(),
    Arrays(),
    Objects(),
)


def _shapes(part: Part, open_: frozenset[int]) -> list[Shape]:
    schema = part.schema
    if isinstance(schema, bool):
        return list(_ANYTHING) if schema else []
    if not isinstance(schema, dict):
        raise TypeError(f"{part.pointer or 'it'} is no schema")
    if id(schema) in open_:
        riddle = Riddle("a reference that leads back to itself")
        return _riddled(list(_ANYTHING), frozenset({riddle}))
    open_ |= {id(schema)}
    found = _typed(part)
    for values in (schema.get("enum"), [schema["const"]] if "const" in schema else None):
        if values is not None:
            found = _both(_distinct(values), found)
    for each in _combined(part, open_):
        found = _both(found, each)
    return _riddled(found, _riddles(part, None))


def _combined(part: Part, open_: frozenset[int]) -> Iterator[list[Shape]]:
    """Yield the alternatives of each schema that applies as well."""
    schema = part.schema
    if "$ref" in schema:
        yield _referred(part, open_)
    for index in range(len(schema.get("allOf", ()))):
        yield _shapes(part.at("allOf", index), open_)
    if "anyOf" in schema:
        each = range(len(schema["anyOf"]))
        yield [shape for index in each for shape in _shapes(part.at("anyOf", index), open_)]
    if "oneOf" in schema:
        yield _one_of(part, open_)


def _typed(part: Part) -> list[Shape]:
    """Return the alternatives by type, with the constraints of each type."""
    schema = part.schema
    given = schema.get("type", ["null", "boolean", "number", "string", "array", "object"])
    found: list[Shape] = []
    for name in [given] if isinstance(given, str) else given:
        match name:
            case "null":
                found.append(Value(value=None))
            case "boolean":
                found += _BOOLEANS
            case "number" | "integer":
                found.append(_numbers(schema, is_integer=name == "integer"))
            case "string":
                found.append(_strings(part))
            case "array":
                found.append(_arrays(part))
            case "object":
                found.append(_objects(part))
            case _:
                raise TypeError(f"{part.pointer or 'it'} has the type {name!r}")
    return found


def _numbers(schema: dict[str, Any], *, is_integer: bool) -> Numbers:
    factors = frozenset([_fraction(schema["multipleOf"])] if "multipleOf" in schema else [])
    found = Numbers(is_integer=is_integer, factors=factors)
    for keyword in ("minimum", "exclusiveMinimum"):
        if keyword in schema:
            bound = Numbers(low=_fraction(schema[keyword]), is_low_open=keyword != "minimum")
            found = _both_numbers(found, bound)
    for keyword in ("maximum", "exclusiveMaximum"):
        if keyword in schema:
            bound = Numbers(high=_fraction(schema[keyword]), is_high_open=keyword != "maximum")
            found = _both_numbers(found, bound)
    return _whole(found)


def _fraction(number: float) -> Fraction:
    return Fraction(str(number))


def _whole(found: Numbers) -> Numbers:
    """Return integers with bounds that are integers, and not open."""
    if not found.is_integer:
        return found
    low, high = found.low, found.high
    if low is not None:
        low = Fraction(math.floor(low) + 1 if found.is_low_open else math.ceil(low))
    if high is not None:
        high = Fraction(math.ceil(high) - 1 if found.is_high_open else math.floor(high))
    return replace(found, low=low, high=high, is_low_open=False, is_high_open=False)


def _strings(part: Part) -> Strings:
    schema = part.schema
    formats = {str(schema["format"])} if "format" in schema else set()
    for keyword in ("contentEncoding", "contentMediaType", "contentSchema"):
        if keyword in schema:
            formats.add(f"{keyword} {text(schema[keyword])}")
    return Strings(
        low=schema.get("minLength", 0),
        high=schema.get("maxLength"),
        patterns=frozenset([schema["pattern"]] if "pattern" in schema else []),
        formats=frozenset(formats),
    )


def _arrays(part: Part) -> Arrays:
    schema = part.schema
    prefix = tuple(
        part.at("prefixItems", index) for index in range(len(schema.get("prefixItems", ())))
    )
    row = Row(prefix, part.at("items") if "items" in schema else None)
    return Arrays(
        low=schema.get("minItems", 0),
        high=schema.get("maxItems"),
        is_unique=schema.get("uniqueItems", False),
        rows=(row,) if prefix or row.rest is not None else (),
        riddles=_riddles(part, Arrays),
    )


def _objects(part: Part) -> Objects:
    schema = part.schema
    riddles = _riddles(part, Objects)
    rest = part.at("additionalProperties") if "additionalProperties" in schema else None
    patterns = {
        pattern: part.at("patternProperties", pattern)
        for pattern in schema.get("patternProperties", {})
    }
    unreadable = [pattern for pattern in patterns if not _is_readable(pattern)]
    if unreadable:
        # Whom they speak of is unknown, and so is whom the rest is.
        patterns = {name: each for name, each in patterns.items() if name not in unreadable}
        riddles |= {Riddle(f"the pattern {name}") for name in unreadable}
        rest = None
    properties = {name: part.at("properties", name) for name in schema.get("properties", {})}
    layer = Layer(properties, patterns, rest)
    is_spoken_of = properties or patterns or rest is not None
    return Objects(
        low=schema.get("minProperties", 0),
        high=schema.get("maxProperties"),
        required=frozenset(schema.get("required", ())),
        layers=(layer,) if is_spoken_of else (),
        names=(part.at("propertyNames"),) if "propertyNames" in schema else (),
        riddles=riddles,
    )


def _is_readable(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _riddles(part: Part, kind: type | None) -> frozenset[Riddle]:
    present = [
        each
        for each in _RIDDLES[kind]
        if each in part.schema and (each != "$id" or part.pointer)  # a document's own is its name
    ]
    # They speak of each other, as `then` does of `if`; some of whatever stands beside them.
    about = (
        part.schema
        if _BESIDE.intersection(present)
        else {each: part.schema[each] for each in present}
    )
    key = spelled(replace(part, schema=about)) if present else ""
    return frozenset(Riddle(each, (each, key)) for each in present)


def alternatives(part: Part) -> Iterator[Part]:
    """Yield the schemas that speak of the same value, as its keywords and references name them."""
    target = _target(part, part.schema["$ref"]) if "$ref" in part.schema else None
    if target is not None:
        yield target
    for keyword in ("allOf", "anyOf", "oneOf"):
        for index in range(len(part.schema.get(keyword, ()))):
            yield part.at(keyword, index)


def _referred(part: Part, open_: frozenset[int]) -> list[Shape]:
    reference = part.schema["$ref"]
    found = _target(part, reference)
    if found is None:
        riddle = Riddle(f"the reference {reference}", (reference, text(part.root)))
        return _riddled(list(_ANYTHING), frozenset({riddle}))
    return _shapes(found, open_)


def _target(part: Part, reference: str) -> Part | None:
    """Return the schema that a reference leads to; None where that is not in its document."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    found = part.document
    for token in reference.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if not isinstance(found.schema, dict) or name not in found.schema:
            return None
        found = found.at(name)
    return found


def _one_of(part: Part, open_: frozenset[int]) -> list[Shape]:
    """Return its alternatives; where two may overlap, exactly one is more than one of them."""
    each = [_shapes(part.at("oneOf", index), open_) for index in range(len(part.schema["oneOf"]))]
    flat = [shape for found in each for shape in found]
    is_exact = all(
        _are_disjoint(left, right) for index, left in enumerate(each) for right in each[:index]
    )
    if is_exact:
        return flat
    riddle = Riddle("oneOf", ("oneOf", spelled(part.at("oneOf"))))
    return _riddled(flat, frozenset({riddle}))


def _riddled(found: list[Shape], riddles: frozenset[Riddle]) -> list[Shape]:
    return (
        [replace(shape, riddles=shape.riddles | riddles) for shape in found] if riddles else found
    )


def _distinct(values: list[Any]) -> list[Shape]:
    found: dict[str, Shape] = {}
    for value in values:
        found.setdefault(canonical(value), Value(value=value))
    return list(found.values())


def _both(left: list[Shape], right: list[Shape]) -> list[Shape]:
    """Return what fits an alternative of either list."""
    found = [_meet(one, other) for one in left for other in right]
    return [shape for shape in found if shape is not None]


def _meet(one: Shape, other: Shape) -> Shape | None:
    """Return what fits both; None where nothing does."""
    riddles = one.riddles | other.riddles
    if isinstance(other, Value):
        one, other = other, one
    if isinstance(one, Value):
        answer = fits(plain(other), one.value)
        if answer is None:
            riddles |= {Riddle(f"what {text(one.value)} has to be like")}
        return None if answer is False else replace(one, riddles=riddles)
    if type(one) is not type(other):
        return None
    return replace(_met(one, other), riddles=riddles)


def _met(one: Shape, other: Shape) -> Shape:
    match one, other:
        case Numbers(), Numbers():
            return _whole(_both_numbers(one, other))
        case Strings(), Strings():
            return Strings(
                low=max(one.low, other.low),
                high=_least(one.high, other.high),
                patterns=one.patterns | other.patterns,
                formats=one.formats | other.formats,
            )
        case Arrays(), Arrays():
            return Arrays(
                low=max(one.low, other.low),
                high=_least(one.high, other.high),
                is_unique=one.is_unique or other.is_unique,
                rows=one.rows + other.rows,
            )
        case Objects(), Objects():
            return Objects(
                low=max(one.low, other.low),
                high=_least(one.high, other.high),
                required=one.required | other.required,
                layers=one.layers + other.layers,
                names=one.names + other.names,
            )
        case _:
            raise TypeError(one, other)


def _least(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _both_numbers(one: Numbers, other: Numbers) -> Numbers:
    low, is_low_open = one.low, one.is_low_open
    if other.low is not None and (
        low is None or (other.low, other.is_low_open) > (low, is_low_open)
    ):
        low, is_low_open = other.low, other.is_low_open
    high, is_high_open = one.high, one.is_high_open
    if other.high is not None and (
        high is None or (other.high, not other.is_high_open) < (high, not is_high_open)
    ):
        high, is_high_open = other.high, other.is_high_open
    return Numbers(
        is_integer=one.is_integer or other.is_integer,
        low=low,
        is_low_open=is_low_open,
        high=high,
        is_high_open=is_high_open,
        factors=one.factors | other.factors,
    )


def plain(shape: Shape) -> Shape:
    """Return a shape without its riddles."""
    return replace(shape, riddles=frozenset())


def fits(shape: Shape, value: Any) -> bool | None:
    """Tell whether a value fits one alternative; None where that cannot be told."""
    found = _understood(shape, value)
    return None if found and shape.riddles else found


def _understood(shape: Shape, value: Any) -> bool | None:
    match shape:
        case Value():
            return same(shape.value, value)
        case Numbers():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return is_number and math.isfinite(value) and _is_in(shape, _fraction(value))
        case Strings():
            return isinstance(value, str) and _is_like(shape, value)
        case Arrays():
            return isinstance(value, list) and _is_made_of(shape, value)
        case Objects():
            return isinstance(value, dict) and _is_built_as(shape, value)


def _is_in(shape: Numbers, number: Fraction) -> bool:
    low, high = shape.low, shape.high
    return (
        (not shape.is_integer or number.denominator == 1)
        and (low is None or number > low or (number == low and not shape.is_low_open))
        and (high is None or number < high or (number == high and not shape.is_high_open))
        and all((number / factor).denominator == 1 for factor in shape.factors)
    )


def _is_like(shape: Strings, value: str) -> bool | None:
    if len(value) < shape.low or (shape.high is not None and len(value) > shape.high):
        return False
    matches: list[bool | None] = [
        bool(re.search(pattern, value)) if _is_readable(pattern) else None
        for pattern in shape.patterns
    ]
    return _all([*matches, None if shape.formats else True])


def _is_made_of(shape: Arrays, value: list[Any]) -> bool | None:
    if len(value) < shape.low or (shape.high is not None and len(value) > shape.high):
        return False
    if shape.is_unique and any(
        same(one, other) for index, one in enumerate(value) for other in value[:index]
    ):
        return False
    return _all([admits(shape.item(index), each) for index, each in enumerate(value)])


def _is_built_as(shape: Objects, value: dict[str, Any]) -> bool | None:
    if len(value) < shape.low or (shape.high is not None and len(value) > shape.high):
        return False
    if not shape.required <= value.keys():
        return False
    return _all(
        [admits(shape.names, name) for name in value]
        + [admits(shape.about(name), each) for name, each in value.items()]
    )


def _all(answers: list[bool | None]) -> bool | None:
    return False if False in answers else None if None in answers else True
