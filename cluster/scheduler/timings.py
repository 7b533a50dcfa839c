"""Where a decision's time goes, by extension point and plugin. Pure: the clock is passed in.

The shell hands one to a sample of the decisions, as kube-scheduler samples its plugin metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Timings:
    """`spent[(extension point, plugin)]` in seconds."""

    clock: Callable[[], float]
    spent: dict[tuple[str, str], float] = field(default_factory=dict)

    def add(self, point: str, plugin: str, begun: float) -> None:
        key = (point, plugin)
        self.spent[key] = self.spent.get(key, 0.0) + self.clock() - begun

    def points(self) -> dict[str, float]:
        """Totals per extension point."""
        totals: dict[str, float] = {}
        for (point, _), seconds in self.spent.items():
            totals[point] = totals.get(point, 0.0) + seconds
        return totals
