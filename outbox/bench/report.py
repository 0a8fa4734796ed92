"""What came of a measurement: medians, ratios and differences of alternating rounds."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Figures = Mapping[str, float]
    """One contender's figures in one round, by metric; a metric's name ends in its unit."""
    Round = Mapping[str, Figures]
    """One round: what every contender did; they are in one order, whoever came first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Rounds under the same circumstances, each with every contender."""

    kind: str
    """What was measured; it decides the table's columns."""
    where: Mapping[str, Any]
    """The circumstances, for instance `{"rows": 50_000, "bytes": 200}`."""
    rounds: Sequence[Round]
    ratios: Sequence[str] = ()
    """Metrics that are told as a multiple of the other contenders' in the same round."""
    differences: Sequence[str] = ()
    """Metrics that are told as what they lie above the other contenders' in the same round."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What there is besides, by contender."""

    def to_json(self) -> dict[str, Any]:
        """Return the rounds as they were, and what they say."""
        names = list(self.rounds[0])
        contenders = {
            name: {
                "median": self._median(name),
                "ratio": self._against(name, self.ratios, ratio),
                "above": self._against(name, self.differences, _difference),
                **self.extra.get(name, {}),
            }
            for name in names
        }
        return {
            "kind": self.kind,
            "where": dict(self.where),
            "contenders": contenders,
            "rounds": list(self.rounds),
        }

    def _median(self, name: str) -> dict[str, float]:
        return {
            metric: statistics.median(each[name][metric] for each in self.rounds)
            for metric in self.rounds[0][name]
        }

    def _against(
        self, name: str, metrics: Sequence[str], compare: Any
    ) -> dict[str, dict[str, float]]:
        """Return by metric, and by each other contender, the median over the pairs of a round."""
        return {
            metric: {
                other: statistics.median(
                    compare(each[name][metric], each[other][metric]) for each in self.rounds
                )
                for other in self.rounds[0]
                if other != name
            }
            for metric in metrics
        }


def ratio(mine: float, other: float) -> float:
    """Return one figure as a multiple of another."""
    return mine / other if other else math.inf


def _difference(mine: float, other: float) -> float:
    return mine - other


def report(bench: str, **facts: Any) -> dict[str, Any]:
    """Return the JSON of one measurement; `facts` stand between its name and its series."""
    series = [each.to_json() for each in facts.pop("series")]
    return {"bench": bench, **facts, "series": series}


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest of some ordered values that at least so many percent do not exceed."""
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(rank, 1) - 1]
