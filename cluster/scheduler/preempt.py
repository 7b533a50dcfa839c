"""Whom a pod that fits nowhere may push out. Pure.

All rows are screened at once (would the row hold the pod if every pod of lower priority left?); of at most `limit`
candidates the victims are chosen one by one: all lower pods go, and are taken back, most important first and those
that a disruption budget protects before the others, as long as the pod still fits.
The best candidate breaks the fewest budgets, then has the lowest highest victim, the lowest sum of priorities, the
fewest victims, the victims that started last.
Source: kube-scheduler plugin DefaultPreemption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.api.selectors import LabelSelector, from_label_selector
from cluster.scheduler.columns import Floats, NodeColumns, Placed
from cluster.scheduler.config import Profile
from cluster.scheduler.decide import Pending, diagnose, feasible
from cluster.scheduler.diagnosis import Diagnosis, fit_error
from cluster.scheduler.filters import Mask, needed
from cluster.scheduler.interpod import concerns
from cluster.scheduler.nominated import Nominations
from cluster.scheduler.scores import Rows

NOT_HELPFUL = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"
_RELATED_CANDIDATES = 16
"""Fewer where rules between pods must be looked at again for every victim."""
_PRIORITY_OFFSET = 2**31


@dataclass(frozen=True, slots=True)
class Candidate:
    node: str
    victims: tuple[Placed, ...]
    violations: int


@dataclass(slots=True)
class Budget:
    """A PodDisruptionBudget: how many more of the pods it covers may go now."""

    namespace: str
    selector: dict[str, Any] | None
    allowed: int
    disrupted: frozenset[str] = frozenset()
    _parsed: LabelSelector = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._parsed = from_label_selector(self.selector)

    def covers(self, pod: Placed) -> bool:
        if pod.shape.namespace != self.namespace or pod.key[1] in self.disrupted:
            return False
        return not self._parsed.empty and self._parsed.matches(dict(pod.shape.labels))


def budget_of(pdb: dict[str, Any]) -> Budget:
    status = pdb.get("status") or {}
    return Budget(
        pdb["metadata"].get("namespace", ""),
        pdb["spec"].get("selector"),
        int(status.get("disruptionsAllowed") or 0),
        frozenset(status.get("disruptedPods") or ()),
    )


@dataclass(slots=True)
class _Search:
    columns: NodeColumns
    pod: Pending
    profile: Profile
    nominated: Nominations
    budgets: Sequence[Budget]
    free: Floats
    related: bool
    reasons: Counter[str] = field(default_factory=Counter)
    _asked: list[tuple[int, float]] = field(init=False)
    _held: dict[tuple[tuple[str, int], ...], list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        vector = needed(self.columns, self.pod.shape, self.profile)
        self._asked = [(int(c), float(vector[c])) for c in np.flatnonzero(vector)]

    def _looked_at(self, row: int, away: list[Placed], why: Diagnosis | None) -> bool:
        for one in away:
            self.columns.remove_pod(one.uid)
        try:
            fits = bool(feasible(self.columns, self.pod, self.profile, self.nominated)[row])
            if not fits and why is not None:
                found = diagnose(self.columns, self.pod, self.profile, self.nominated, by_row=True)
                why.reasons.update(found.reasons_of(row))
            return fits
        finally:
            for one in away:
                self.columns.put_back(one)

    def candidate(self, row: int) -> Candidate | None:
        lower = [p for p in self.columns.on_row.get(row, {}).values() if p.priority < self.pod.priority]
        if not lower:
            return None
        if self.related:
            why = Diagnosis()
            if not self._looked_at(row, lower, why):
                self.reasons += why.reasons
                return None
        lower.sort(key=lambda p: (-p.priority, p.started))
        guarded, open_ = self._by_budget(lower)
        stays = self._keeps_rules(row, lower) if self.related else self._keeps_room(row, lower)
        broken = [one for one in guarded if not stays(one)]
        away = [*broken, *(one for one in open_ if not stays(one))]
        return Candidate(self.columns.names[row], tuple(away), len(broken)) if away else None

    def _keeps_rules(self, row: int, away: list[Placed]) -> Callable[[Placed], bool]:
        """Asked of one victim after the other: may it stay, beside those that may already? Looks at all filters."""
        left = list(away)

        def stays(one: Placed) -> bool:
            fewer = [p for p in left if p is not one]
            if not self._looked_at(row, fewer, None):
                return False
            left[:] = fewer
            return True

        return stays

    def _keeps_room(self, row: int, away: list[Placed]) -> Callable[[Placed], bool]:
        """The same where nothing but room matters: what would be left over is counted down."""
        over = [float(self.free[c, row]) - need for c, need in self._asked]
        for one in away:
            over = [a + b for a, b in zip(over, self._takes(one), strict=True)]

        def stays(one: Placed) -> bool:
            rest = [a - b for a, b in zip(over, self._takes(one), strict=True)]
            if min(rest, default=0.0) < 0:
                return False
            over[:] = rest
            return True

        return stays

    def _takes(self, one: Placed) -> list[float]:
        """What it holds of the resources that are asked for."""
        known = self._held.get(one.shape.requests)
        if known is None:
            vector = self.columns.request_vector(one.shape)
            known = self._held[one.shape.requests] = [float(vector[c]) for c, _ in self._asked]
        return known

    def _by_budget(self, pods: list[Placed]) -> tuple[list[Placed], list[Placed]]:
        """(whose going would break a budget, the others)."""
        if not self.budgets:
            return [], pods
        left = {id(b): b.allowed for b in self.budgets}
        guarded: list[Placed] = []
        others: list[Placed] = []
        for pod in pods:
            breaks = False
            for budget in self.budgets:
                if budget.covers(pod):
                    left[id(budget)] -= 1
                    breaks = breaks or left[id(budget)] < 0
            (guarded if breaks else others).append(pod)
        return guarded, others


def _cost(candidate: Candidate) -> tuple[float, ...]:
    highest = max(v.priority for v in candidate.victims)
    earliest = min(v.started for v in candidate.victims if v.priority == highest)
    total = sum(v.priority + _PRIORITY_OFFSET for v in candidate.victims)
    return candidate.violations, highest, total, len(candidate.victims), -earliest


def preempt(
    columns: NodeColumns,
    pod: Pending,
    resolvable: Mask | None,
    profile: Profile,
    nominated: Nominations,
    budgets: Sequence[Budget] = (),
    tie_order: Rows | None = None,
) -> Candidate | str:
    """The node to wait for and the pods to evict from it; or, when there is none, why, in kube-scheduler's words."""
    reasons: Counter[str] = Counter()
    maybe = columns.alive & resolvable if resolvable is not None else np.zeros(columns.size, dtype=np.bool_)
    reasons[NOT_HELPFUL] = int(np.count_nonzero(columns.alive & ~maybe))
    free = nominated.free(columns, pod.priority, pod.uid)
    below = columns.below(pod.priority)
    without_victims = maybe & ~(below > 0).any(axis=0)
    reasons[NO_VICTIMS] = int(np.count_nonzero(without_victims))
    maybe &= ~without_victims
    vector = needed(columns, pod.shape, profile)
    names = list(columns.resources)
    enough = maybe.copy()
    for column in np.flatnonzero(vector):
        short = maybe & (free[column] + below[column] < vector[column])
        reason = "Too many pods" if names[column] == "pods" else f"Insufficient {names[column]}"
        reasons[reason] += int(np.count_nonzero(short))
        enough &= ~short
    shape = pod.shape
    related = bool(shape.host_ports or shape.disks or shape.spread or columns.attachments.limited(pod.volumes))
    related = related or not profile.static or concerns(columns, shape)
    search = _Search(columns, pod, profile, nominated, budgets, free, related)
    rows = np.flatnonzero(enough)
    if tie_order is not None:
        rows = rows[np.argsort(tie_order[rows])]
    found: list[Candidate] = []
    percentage, least = profile.candidates
    most = max(len(columns.rows) * percentage // 100, least)
    for row in rows[: min(most, _RELATED_CANDIDATES) if related else most].tolist():
        candidate = search.candidate(row)
        if candidate is not None:
            found.append(candidate)
    if found:
        return min(found, key=_cost)
    return fit_error(columns, +(reasons + search.reasons))
