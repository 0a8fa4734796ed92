"""Whether every instance of one JSON Schema is valid under another, and where it is not.

No gap means yes, by the semantics of JSON Schema. A gap that is not certain means that it could
not be told; it counts as a no.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from outbox.schema.shape import (
    Arrays,
    Digests,
    Layer,
    Numbers,
    Objects,
    Part,
    Strings,
    Value,
    admits,
    any_of,
    canonical,
    fits,
    is_disjoint,
    plain,
    shapes,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from fractions import Fraction

    from outbox.schema.shape import Parts, Riddle, Shape

EACH: Final = "*"
"""Stands in a path for each item, and for each property that no name is known of."""


class Kind(Enum):
    """What one schema admits and the other does not."""

    TYPE = "type"
    VALUES = "values"
    RANGE = "range"
    LENGTH = "length"
    PATTERN = "pattern"
    FORMAT = "format"
    MISSING = "missing"
    """An object without this property."""
    EXTRA = "extra"
    """An object, or an array, with this one."""
    NAME = "name"
    """A property of this name."""
    MEMBER = "member"
    """An object that is another member of a union."""
    UNIQUE = "unique"
    UNKNOWN = "unknown"
    """Something about a constraint that is not understood."""


@dataclass(frozen=True, slots=True)
class Gap:
    """One way in which an instance of the first schema fails the second."""

    kind: Kind
    path: tuple[str, ...]
    """Where, in the instance: names of properties, indexes, `*` for each."""
    pointers: tuple[str, str]
    """JSON Pointers of what is compared, in both schemas."""
    given: str
    """What the first schema admits there."""
    wanted: str
    """What the second one does."""
    is_certain: bool = True
    values: tuple[Any, ...] = ()
    """Those that are not admitted, where the kind is VALUES."""


_Pair: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""Digests of the parts of both schemas."""


def included(first: Any, second: Any) -> list[Gap]:
    """Return where instances of the first schema are not valid under the second.

    Both are documents, whose references are looked up in themselves. Raises `TypeError`,
    `ValueError`, `KeyError`, `AttributeError` or `ZeroDivisionError` for what is no schema.
    """
    comparison = _Comparison()
    return comparison.parts((Part(first, first),), (Part(second, second),), ())


class _Comparison:
    """One comparison of two documents, whose schemas may recur.

    A pair that was shown, or is being shown, is not looked at again: it is taken as shown. That is
    sound, since what recurs is compared at a deeper place of the instance each time, and instances
    are finite; where a pair turns out to have gaps, all that was shown since it was begun is
    forgotten, as it may rest on that pair. (So are recursive types compared; see Gapeyev, Levin
    and Pierce, "Recursive Subtyping Revealed".) To take more as shown leads to fewer gaps, never
    to more, so gaps once found hold wherever the pair is met again.
    """

    def __init__(self) -> None:
        self._shown: dict[_Pair, None] = {}
        self._gaps: dict[tuple[_Pair, tuple[str, str]], list[Gap]] = {}
        self._digests = Digests()

    def parts(self, first: Parts, second: Parts, path: tuple[str, ...]) -> list[Gap]:
        """Compare what fulfils all of the first parts with what fulfils all of the second."""
        pair = (self._digests.of(first), self._digests.of(second))
        if pair[0] == pair[1] or pair in self._shown:
            return []
        pointers = (_pointer(first), _pointer(second))
        gaps = self._gaps.get((pair, pointers))
        if gaps is None:
            count = len(self._shown)
            self._shown[pair] = None
            gaps = self._compare(first, second, _Where((), pointers))
            if gaps:
                while len(self._shown) > count:
                    self._shown.popitem()
                self._gaps[pair, pointers] = gaps
        return [replace(gap, path=(*path, *gap.path)) for gap in gaps]

    def _compare(self, first: Parts, second: Parts, where: _Where) -> list[Gap]:
        given, wanted = shapes(first), shapes(second)
        where = replace(where, given=given, wanted=wanted)
        known = {
            canonical(each.value) for each in wanted if isinstance(each, Value) and not each.riddles
        }
        gaps: list[Gap] = []
        refused: list[Value] = []
        for shape in given:
            if not isinstance(shape, Value):
                gaps += self._covered(shape, where)
            elif canonical(shape.value) not in known:
                answer = any_of(fits(each, shape.value) for each in wanted)
                if answer is None and not _is_excused(shape, wanted):
                    gaps.append(where.riddle(_riddles_of(wanted)))
                elif answer is False:
                    refused.append(shape)
        return _once([*_refusals(refused, where), *gaps])

    def _covered(self, shape: Shape, where: _Where) -> list[Gap]:
        """Compare one alternative with all of the second schema's."""
        rivals = [each for each in where.wanted if type(each) is type(shape)]
        if not rivals:
            is_enumerated = any(_is_of(each, shape) for each in where.wanted)
            return [where.gap(Kind.VALUES if is_enumerated else Kind.TYPE, [shape])]
        near = [rival for rival in rivals if not is_disjoint(shape, rival)]
        found = [self._within(shape, rival, where) for rival in near or rivals]
        if [] in found:
            return []
        parts = _split(shape, rivals)
        if parts:
            return _once(gap for part in parts for gap in self._covered(part, where))
        best = min(found, key=len)
        if not near:  # what tells it from all of them says it all
            best = [gap for gap in best if gap.kind is Kind.VALUES] or best
        elif isinstance(shape, Objects) and _count(where.given) != _count(where.wanted):
            is_certain = len(near) <= 1 and any(gap.is_certain for gap in best)
            best = [where.gap(Kind.MEMBER, given=_described(shape), is_certain=is_certain)]
        # None of several holds it all, but together they might.
        return best if len(near) <= 1 else [_doubted(gap) for gap in best]

    def _within(self, shape: Shape, rival: Shape, where: _Where) -> list[Gap]:
        gaps: list[Gap] = []
        match shape, rival:
            case Numbers(), Numbers():
                gaps += _numbers(shape, rival, where)
            case Strings(), Strings():
                gaps += _strings(shape, rival, where)
            case Arrays(), Arrays():
                gaps += self._arrays(shape, rival, where)
            case Objects(), Objects():
                gaps += self._objects(shape, rival, where)
            case _:
                raise TypeError(shape, rival)
        if any(gap.kind in {Kind.FORMAT, Kind.PATTERN} and gap.path == where.path for gap in gaps):
            return gaps  # another kind of text, to which its constraints belong
        return [*(where.riddle([each]) for each in rival.riddles - shape.riddles), *gaps]

    def _arrays(self, shape: Arrays, rival: Arrays, where: _Where) -> Iterator[Gap]:
        count = max(shape.prefix_length, rival.prefix_length)
        room = _room(shape, count)
        yield from _lengths((shape.low, room), (rival.low, rival.high), "item", where)
        if rival.is_unique and not shape.is_unique and (room is None or room > 1):
            yield where.gap(Kind.UNIQUE, given="items that repeat", wanted="no two equal items")
        for index in range(count if room is None else min(count, room)):
            yield from self._member(shape.item(index), rival.item(index), where, str(index))
        if room is None or room > count:
            yield from self._member(shape.item(count), rival.item(count), where, EACH)

    def _objects(self, shape: Objects, rival: Objects, where: _Where) -> Iterator[Gap]:
        for name in sorted(rival.required - shape.required):
            given = "optional" if _is_possible(shape, name) else "absent"
            yield where.below(name).gap(Kind.MISSING, given=given, wanted="required")
        known = list(dict.fromkeys([*shape.known, *rival.known]))
        for name in known:
            if _is_possible(shape, name):
                yield from self._member(shape.about(name), rival.about(name), where, name)
        yield from self._others(shape, rival, where)
        yield from self._names(shape, rival, known, where)
        is_closed = not shapes(shape.rest) and not any(each.patterns for each in shape.layers)
        room = sum(_is_possible(shape, name) for name in known) if is_closed else shape.high
        if shape.high is not None and room is not None:
            room = min(room, shape.high)
        low = max(shape.low, len(shape.required))
        yield from _lengths((low, room), (rival.low, rival.high), "property", where)

    def _member(self, first: Parts, second: Parts, where: _Where, name: str) -> Iterator[Gap]:
        """Compare an item or a property, saying plainly where the second has none."""
        below = where.below(name, first, second)
        if not shapes(second) and shapes(first):
            yield below.gap(Kind.EXTRA, shapes(first))
        else:
            yield from self.parts(first, second, below.path)

    def _others(self, shape: Objects, rival: Objects, where: _Where) -> Iterator[Gap]:
        """Compare properties whose names are not known.

        In the first schema such a name matches some pattern, or is one of the rest. In the second
        each layer has a say, by the patterns that the name matches, or by its rest.
        """
        patterns = {
            pattern: part for layer in shape.layers for pattern, part in layer.patterns.items()
        }
        classes: list[tuple[str | None, Parts]] = [
            (None, shape.rest),
            *((pattern, (part,)) for pattern, part in patterns.items()),
        ]
        found: list[Gap] = []
        for pattern, given in classes:
            for layer in rival.layers:
                for wanted, is_certain in _says(layer, pattern, patterns):
                    gaps = self._member(given, (wanted,), where, EACH)
                    found += gaps if is_certain else map(_doubted, gaps)
        yield from _once(found)

    def _names(
        self, shape: Objects, rival: Objects, known: Sequence[str], where: _Where
    ) -> Iterator[Gap]:
        for part in rival.names:
            for name in known:
                if _is_possible(shape, name):
                    answer = admits((part,), name)
                    if answer is False:
                        yield where.below(name).gap(Kind.NAME, shapes(shape.about(name)))
                    elif answer is None:
                        yield where.below(name).riddle([])
            if shapes(shape.rest) or any(layer.patterns for layer in shape.layers):
                strings = Part({"type": "string"}, {})
                for gap in self.parts((*shape.names, strings), (part,), where.path):
                    yield replace(gap, path=(*where.path, EACH), kind=Kind.NAME)


@dataclass(frozen=True, slots=True)
class _Where:
    """The place that is being compared."""

    path: tuple[str, ...]
    pointers: tuple[str, str]
    given: Sequence[Shape] = ()
    wanted: Sequence[Shape] = ()

    def below(self, name: str, first: Parts = (), second: Parts = ()) -> _Where:
        own = self.pointers
        pointers = (_pointer(first) or own[0], _pointer(second) or own[1])
        return _Where((*self.path, name), pointers)

    def gap(
        self,
        kind: Kind,
        shapes: Sequence[Shape] = (),
        *,
        given: str | None = None,
        wanted: str | None = None,
        is_certain: bool = True,
    ) -> Gap:
        if kind is Kind.TYPE:
            shapes = self.given
        given, wanted = given or names(shapes), wanted or names(self.wanted)
        return Gap(kind, self.path, self.pointers, given, wanted, is_certain)

    def riddle(self, riddles: Sequence[Riddle]) -> Gap:
        says = sorted({each.says for each in riddles})
        return self.gap(
            Kind.UNKNOWN, wanted=", ".join(says) or "a pattern or a format", is_certain=False
        )


def names(alternatives: Sequence[Shape]) -> str:
    """Name the types of some alternatives, and single values of types that have others as well."""
    found = []
    for shape in alternatives:
        match shape:
            case Value(value=None):
                found.append("null")
            case Value(value=bool()):
                found.append("boolean")
            case Value(value=value):
                found.append(text(value))
            case Numbers(is_integer=is_integer):
                found.append("integer" if is_integer else "number")
            case Strings(formats=formats):
                found.append(" ".join(["string", *sorted(formats)]))
            case Arrays():
                found.append("array")
            case Objects():
                found.append("object")
    return " or ".join(sorted(dict.fromkeys(found), key="null".__eq__)) or "nothing"


def _described(shape: Objects) -> str:
    fields = ", ".join(shape.known)
    return f"an object with {fields}" if fields else "an object"


def _count(alternatives: Sequence[Shape]) -> int:
    """Count the objects among some alternatives."""
    return sum(isinstance(each, Objects) for each in alternatives)


def _numbers(shape: Numbers, rival: Numbers, where: _Where) -> Iterator[Gap]:
    if rival.is_integer and not shape.is_integer:
        yield where.gap(Kind.TYPE)
    is_low = rival.low is None or (
        shape.low is not None and (shape.low, shape.is_low_open) >= (rival.low, rival.is_low_open)
    )
    is_high = rival.high is None or (
        shape.high is not None
        and (shape.high, not shape.is_high_open) <= (rival.high, not rival.is_high_open)
    )
    if not (is_low and is_high):
        yield where.gap(Kind.RANGE, given=_range(shape), wanted=_range(rival))
    for factor in sorted(rival.factors):
        if not any((own / factor).denominator == 1 for own in shape.factors) and not (
            shape.is_integer and (1 / factor).denominator == 1
        ):
            given = " and ".join(f"multiples of {_number(each)}" for each in sorted(shape.factors))
            yield where.gap(
                Kind.RANGE,
                given=given or "any",
                wanted=f"multiples of {_number(factor)}",
                is_certain=not shape.factors,
            )


def _range(shape: Numbers) -> str:
    parts = []
    if shape.low is not None:
        parts.append(f"{'above' if shape.is_low_open else 'at least'} {_number(shape.low)}")
    if shape.high is not None:
        parts.append(f"{'below' if shape.is_high_open else 'at most'} {_number(shape.high)}")
    return " and ".join(parts) or "any"


def _number(number: Fraction) -> str:
    return str(number.numerator) if number.denominator == 1 else str(float(number))


def _strings(shape: Strings, rival: Strings, where: _Where) -> Iterator[Gap]:
    if rival.formats - shape.formats:  # which says it all: it comes with limits of its own
        yield where.gap(
            Kind.FORMAT,
            given=" and ".join(sorted(shape.formats)) or "any text",
            wanted=" and ".join(sorted(rival.formats)),
            is_certain=not (shape.patterns or shape.formats),
        )
        return
    yield from _lengths((shape.low, shape.high), (rival.low, rival.high), "character", where)
    missing = sorted(rival.patterns - shape.patterns)
    if missing:
        yield where.gap(
            Kind.PATTERN,
            given=" and ".join(sorted(shape.patterns)) or "any text",
            wanted=" and ".join(sorted(rival.patterns)),
            is_certain=not (shape.patterns or shape.formats),
        )


def _lengths(
    own: tuple[int, int | None], other: tuple[int, int | None], noun: str, where: _Where
) -> Iterator[Gap]:
    is_low = other[0] <= own[0]
    is_high = other[1] is None or (own[1] is not None and own[1] <= other[1])
    is_empty = own[1] is not None and own[1] < own[0]
    if not (is_low and is_high) and not is_empty:
        yield where.gap(Kind.LENGTH, given=_length(*own, noun), wanted=_length(*other, noun))


def _length(low: int, high: int | None, noun: str) -> str:
    plural = "properties" if noun == "property" else f"{noun}s"
    parts = [f"at least {low}"] if low else []
    parts += [] if high is None else [f"at most {high}"]
    return f"{' and '.join(parts) or 'any number of'} {plural}"


def _room(shape: Arrays, count: int) -> int | None:
    """Return how many items fit into an array; None where there is no limit."""
    for index in range(count + 1):
        if not shapes(shape.item(index)):
            return index if shape.high is None else min(index, shape.high)
    return shape.high


def _is_of(one: Shape, shape: Shape) -> bool:
    """Tell whether it is one value of the type of the other."""
    types = {Numbers: int | float, Strings: str, Arrays: list, Objects: dict}
    if not isinstance(one, Value) or isinstance(one.value, bool):
        return False
    return isinstance(one.value, types[type(shape)])


def _is_possible(shape: Objects, name: str) -> bool:
    """Tell whether an object may have a property of this name."""
    return bool(shapes(shape.about(name))) and admits(shape.names, name) is not False


def _says(
    layer: Layer, pattern: str | None, patterns: dict[str, Part]
) -> Iterator[tuple[Part, bool]]:
    """Yield what a layer may say of a name of the first schema, and whether it surely does.

    The name is told by the pattern that it matches; None where it matches none.
    """
    for own, part in layer.patterns.items():
        if not (pattern is None and own in patterns):
            yield part, own == pattern
    if layer.rest is not None and (pattern is None or pattern not in layer.patterns):
        yield layer.rest, pattern is None and not layer.patterns


def _doubted(gap: Gap) -> Gap:
    return replace(gap, is_certain=False)


def _split(shape: Shape, rivals: Sequence[Shape]) -> list[Shape]:
    """Divide an object by the value of a property that tells the second schema's objects apart."""
    if not isinstance(shape, Objects) or len(rivals) == 1:
        return []
    for name in shape.known:
        values = shapes(shape.about(name))
        is_tag = name in shape.required and all(isinstance(each, Value) for each in values)
        if is_tag and len(values) > 1 and any(_tells(rival, name) for rival in rivals):
            return [replace(shape, layers=(*shape.layers, _tagged(name, each))) for each in values]
    return []


def _tells(rival: Shape, name: str) -> bool:
    return isinstance(rival, Objects) and all(
        isinstance(each, Value) for each in shapes(rival.about(name))
    )


def _tagged(name: str, shape: Shape) -> Layer:
    schema = {"const": shape.value} if isinstance(shape, Value) else True
    return Layer({name: Part(schema, {})})


def _refusals(refused: Sequence[Value], where: _Where) -> Iterator[Gap]:
    """Yield gaps for values that the second schema does not admit, those of one type together."""
    nothing = [each for each in refused if each.value is None]
    if nothing:
        yield where.gap(Kind.TYPE)
    values = [each for each in refused if each.value is not None]
    if not values:
        return
    if all(isinstance(each.value, bool) for each in values) and len(values) > 1:
        yield where.gap(Kind.TYPE)
        return
    yield replace(where.gap(Kind.VALUES, values), values=tuple(each.value for each in values))


def _riddles_of(alternatives: Sequence[Shape]) -> list[Riddle]:
    return [riddle for shape in alternatives for riddle in shape.riddles]


def _is_excused(shape: Value, wanted: Sequence[Shape]) -> bool:
    """Tell whether a value fits an alternative but for riddles that it fulfils already."""
    return any(
        rival.riddles <= shape.riddles and fits(plain(rival), shape.value) for rival in wanted
    )


def _once(gaps: Iterator[Gap] | Sequence[Gap]) -> list[Gap]:
    found: list[Gap] = []
    for gap in gaps:
        if gap not in found:
            found.append(gap)
    return found


def _pointer(parts: Parts) -> str:
    return parts[0].pointer if parts else ""
