"""Charts as SVG: lines over two axes, and bars. No script, readable on light and on dark pages.

Written by hand because that is three shapes; a library would be a dependency for each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH: Final = 720
HEIGHT: Final = 400
LEFT, RIGHT, TOP, BOTTOM = 84, 44, 52, 56
LEGEND: Final = 20
"""The height of one line of the legend, which stands below the chart."""
BAR: Final = 44
"""The height of a bar with its room."""
MILLION: Final = 1_000_000
WHOLE: Final = 100
"""Numbers from here on are written without decimals."""
TICKS: Final = 6
"""About so many on a linear axis."""

COLOURS: Final = ("#0072b2", "#c2410c", "#00795a", "#8b5cf6", "#b45309", "#475569")
DARK: Final = ("#56b4e9", "#fb923c", "#34d399", "#c4b5fd", "#fcd34d", "#cbd5e1")
DASHES: Final = ("none", "7 3", "2 3", "10 3 2 3", "4 4", "1 2")
"""Lines differ by more than colour."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: what it shows, with its unit."""

    label: str
    is_log: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its name, and its points from left to right."""

    name: str
    points: Sequence[tuple[float, float]]
    has_marks: bool = True
    """Whether each point is marked and tells its values."""


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """Draw lines; a linear axis begins at zero."""
    xs = [point[0] for line in lines for point in line.points]
    ys = [point[1] for line in lines for point in line.points]
    across = _scale(x, xs, LEFT, WIDTH - RIGHT)
    up = _scale(y, ys, HEIGHT - BOTTOM, TOP)
    parts = [*_across(x, across), *_up(y, up)]
    for number, line in enumerate(lines):
        path = " ".join(f"{across.at(a):.1f},{up.at(b):.1f}" for a, b in line.points)
        parts.append(f'<polyline class="line c{number}" points="{path}"/>')
        if line.has_marks:
            parts += [
                f'<circle class="mark c{number}" cx="{across.at(a):.1f}" cy="{up.at(b):.1f}" r="4">'
                f"<title>{escape(line.name)}: {_number(a)}, {_number(b)}</title></circle>"
                for a, b in line.points
            ]
        at = HEIGHT + LEGEND * number
        parts.append(f'<path class="line c{number}" d="M{LEFT} {at - 4}h34"/>')
        parts.append(_text(LEFT + 42, at, line.name))
    return _document(title, HEIGHT + LEGEND * len(lines), parts)


def bar_chart(title: str, label: str, bars: Sequence[tuple[str, float]]) -> str:
    """Draw horizontal bars from zero, each with its name and its value."""
    bottom = TOP + BAR * len(bars)
    across = _scale(Axis(label), [value for _, value in bars], LEFT, WIDTH - RIGHT - 60)
    parts = _across(Axis(label), across, bottom)
    for number, (name, value) in enumerate(bars):
        y = TOP + BAR * number
        width = across.at(value) - LEFT
        parts.append(_text(LEFT, y + 12, name))
        parts.append(
            f'<rect class="bar c{number}" x="{LEFT}" y="{y + 17}" width="{width:.1f}" height="18">'
            f"<title>{escape(name)}: {_number(value)}</title></rect>"
        )
        parts.append(_text(LEFT + width + 6, y + 31, _number(value)))
    return _document(title, bottom + BOTTOM, parts)


@dataclass(frozen=True, slots=True)
class _Scale:
    ticks: Sequence[float]
    at: Callable[[float], float]


def _scale(axis: Axis, values: Sequence[float], start: float, end: float) -> _Scale:
    """Put the values of an axis between two places on the page."""
    if axis.is_log:
        low, high = min(values), max(values)
        span = math.log(high / low) or 1.0

        def at(value: float) -> float:
            return start + math.log(value / low) / span * (end - start)

        return _Scale(log_ticks(low, high), at)
    ticks = linear_ticks(max(values))
    return _Scale(ticks, lambda value: start + value / ticks[-1] * (end - start))


def linear_ticks(high: float) -> list[float]:
    """Return round values from zero to the first one that is not below the highest."""
    if high <= 0:
        return [0.0, 1.0]
    magnitude = 10 ** math.floor(math.log10(high / TICKS))
    step = next(
        factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude * TICKS >= high
    )
    return [step * number for number in range(math.ceil(high / step - 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten between two values."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [each for each in found if low * 0.999 <= each <= high * 1.001]


def _across(axis: Axis, scale: _Scale, bottom: float = HEIGHT - BOTTOM) -> list[str]:
    parts = []
    for tick in scale.ticks:
        x = scale.at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
        parts.append(_text(x, bottom + 18, _number(tick), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, bottom + 38, axis.label, "middle"))
    return parts


def _up(axis: Axis, scale: _Scale) -> list[str]:
    parts = []
    for tick in scale.ticks:
        y = scale.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 8, y + 4, _number(tick), "end"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 20 {middle})"'
    parts.append(_text(20, middle, axis.label, "middle", turned))
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def _number(value: float) -> str:
    """Write a number for people: 50,000, 5M, 2.5."""
    if value >= MILLION:
        return f"{value / MILLION:.3g}M"
    return f"{value:,.0f}" if value >= WHOLE else f"{value:.3g}"


def _document(title: str, height: float, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_style()}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height:g}"/>',
        f'<text class="title" x="{LEFT}" y="28">{escape(title)}</text>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _style() -> str:
    rules = [
        "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600;font-size:15px}",
        ".page{fill:#fff}.grid{stroke:#d1d9e0;fill:none}.line{fill:none;stroke-width:2.5}",
        *(
            f".line.c{number}{{stroke:{colour};stroke-dasharray:{dash}}}"
            f".mark.c{number},.bar.c{number}{{fill:{colour}}}"
            for number, (colour, dash) in enumerate(zip(COLOURS, DASHES, strict=True))
        ),
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}",
        ".grid{stroke:#30363d}",
        *(
            f".line.c{number}{{stroke:{colour}}}.mark.c{number},.bar.c{number}{{fill:{colour}}}"
            for number, colour in enumerate(DARK)
        ),
        "}",
    ]
    return "".join(rules)
