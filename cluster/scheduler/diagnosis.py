"""Why rows cannot run a pod: counted by reason for the message, and by row for those who ask. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.filters import Mask

Refusals = tuple[tuple[str, str], ...]
"""(plugin, reason) of all that refused one row; empty: it can run the pod."""


class Verdicts:
    """Each row's refusals as a code into `words`; code 0 is a row that nobody refused."""

    def __init__(self, size: int) -> None:
        self.codes: NDArray[np.int32] = np.zeros(size, dtype=np.int32)
        self.words: list[Refusals] = [()]

    def note(self, plugin: str, reason: str, hit: Mask) -> None:
        before = self.codes.copy()
        for old in np.unique(before[hit]).tolist():
            self.codes[hit & (before == old)] = self._code((*self.words[old], (plugin, reason)))

    def of(self, row: int) -> Refusals:
        return self.words[int(self.codes[row])]

    def _code(self, refusals: Refusals) -> int:
        if refusals not in self.words:
            self.words.append(refusals)
        return self.words.index(refusals)


@dataclass(slots=True)
class Diagnosis:
    """How many rows were refused for each reason, by which plugins, and where preemption might help. `verdicts` is
    filled when it is there."""

    reasons: Counter[str] = field(default_factory=Counter)
    plugins: set[str] = field(default_factory=set)
    resolvable: Mask | None = None
    verdicts: Verdicts | None = None

    def note(self, plugin: str, reason: str, hit: Mask, resolvable: Mask | None) -> None:
        count = int(np.count_nonzero(hit))
        if not count:
            return
        self.reasons[reason] += count
        self.plugins.add(plugin)
        if resolvable is not None:
            opened = hit & resolvable
            self.resolvable = opened if self.resolvable is None else self.resolvable | opened
        if self.verdicts is not None:
            self.verdicts.note(plugin, reason, hit)

    def reasons_of(self, row: int) -> list[str]:
        return [reason for _, reason in self.verdicts.of(row)] if self.verdicts is not None else []


def fit_error(columns: NodeColumns, reasons: Counter[str]) -> str:
    """kube-scheduler's FitError text: `0/3 nodes are available: 1 Too many pods, 2 Insufficient cpu.`"""
    nodes = len(columns.rows)
    if not nodes:
        return "no nodes available to schedule pods"
    texts = sorted(f"{count} {reason}" for reason, count in reasons.items())
    return f"0/{nodes} nodes are available: {', '.join(texts)}."
