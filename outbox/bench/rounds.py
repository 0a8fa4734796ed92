"""Turns that are not counted, and rounds in which contenders take turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from outbox.bench.report import Figures, Round


def taken(contenders: Mapping[str, Callable[[], Figures]], number: int) -> Round:
    """Let each contender take its turn in round `number`, and return what they did.

    Whoever came first in a round comes last in the next one, so that what the first turn pays for
    all of them, cold caches above all, meets each in turn.
    """
    names = [*contenders]
    first = number % len(names)
    figures = {name: contenders[name]() for name in names[first:] + names[:first]}
    return {name: figures[name] for name in names}


def is_warm(turns: Sequence[float]) -> bool:
    """Tell whether the last two turns brought nothing, from what each took.

    That is so where neither was a tenth better than the best before them.
    """
    return len(turns) > 2 and min(turns[-2:]) > 0.9 * min(turns[:-2])  # noqa: PLR2004  # the two
