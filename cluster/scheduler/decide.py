"""Placing a batch of pods: pure, deterministic for a given tie order.

A pod is one pass of filters and scores over all rows. A run of equal pods whose placements change nothing but the load
of their own row is decided together (deal.py).

Invariant: a returned placement has been accounted in the columns (assumed); the caller takes it off again with
`NodeColumns.remove_pod` when the bind fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np

from cluster.scheduler.attachments import Volume
from cluster.scheduler.columns import Floats, NodeColumns
from cluster.scheduler.config import DEFAULT, Profile
from cluster.scheduler.deal import deal
from cluster.scheduler.diagnosis import Diagnosis, Verdicts, fit_error
from cluster.scheduler.filters import (
    STATIC,
    Ask,
    Filter,
    Mask,
    could_ever_fit,
    needed,
    node_ports,
    node_resources_fit,
    node_volume_limits,
    volume_restrictions,
)
from cluster.scheduler.interpod import inter_pod_affinity
from cluster.scheduler.nominated import Nominations, phantoms
from cluster.scheduler.scores import Rows, other_total, usage_total
from cluster.scheduler.shape import PodShape
from cluster.scheduler.spread import pod_topology_spread
from cluster.scheduler.timings import Timings
from cluster.scheduler.volumes import Confined


class Witness(Protocol):
    """Hears of a decision before it is made, while the columns are as it sees them (`explain.Decisions`)."""

    def before(
        self, columns: NodeColumns, pods: Sequence[Pending], profile: Profile, nominated: Nominations | None
    ) -> None: ...


_MIN_FEASIBLE = 100
_TOGETHER = 4
"""Fewer equal pods than this are placed one by one: the heap would not pay."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A pod that waits for a node. `confined`: what its claims say of where it may be; `volumes` must be attached."""

    uid: str
    key: tuple[str, str]
    shape: PodShape
    confined: tuple[Confined, ...] = ()
    refusal: str = ""
    priority: int = 0
    volumes: tuple[Volume, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    pod: Pending
    node: str


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """`plugins` refused it; `resolvable`: rows that removing pods might open (None: not asked); `error`: nobody refused
    it, deciding failed."""

    pod: Pending
    message: str
    plugins: frozenset[str] = frozenset()
    resolvable: Mask | None = None
    error: bool = False


DYNAMIC: tuple[tuple[str, Filter], ...] = (
    ("NodePorts", node_ports),
    ("NodeResourcesFit", node_resources_fit),
    ("VolumeRestrictions", volume_restrictions),
    ("NodeVolumeLimits", node_volume_limits),
    ("PodTopologySpread", pod_topology_spread),
    ("InterPodAffinity", inter_pod_affinity),
)


def _static(columns: NodeColumns, shape: PodShape, profile: Profile) -> Mask:
    """Rows that the nodes' own data allow; remembered for all pods with the same wishes."""

    def make() -> Mask:
        ask, possible = Ask(columns, shape, columns.free, profile), columns.alive.copy()
        for name, one in STATIC:
            if name not in profile.disabled_filters:
                for rejection in one(ask):
                    possible &= ~rejection.mask
        return possible

    wishes = (shape.node_selector, shape.node_affinity, shape.tolerations, shape.node_name)
    return columns.memo(("static", wishes, profile.disabled_filters, profile.added_affinity), make)


def feasible(
    columns: NodeColumns,
    pod: Pending,
    profile: Profile = DEFAULT,
    nominated: Nominations | None = None,
    timings: Timings | None = None,
) -> Mask:
    """The rows that pass every filter, with the pods nominated to them there as well as without."""
    columns.request_vector(pod.shape)  # may add a resource, before arrays are taken
    free = columns.free if nominated is None else nominated.free(columns, pod.priority, pod.uid)
    possible = _pass(columns, pod, profile, free, None, timings=timings)
    related = nominated.related(pod.shape, pod.priority, pod.uid) if nominated else []
    if related and possible.any():
        with phantoms(columns, related):
            possible &= _pass(columns, pod, profile, columns.free, None)
    return possible


def diagnose(
    columns: NodeColumns,
    pod: Pending,
    profile: Profile = DEFAULT,
    nominated: Nominations | None = None,
    *,
    by_row: bool = False,
) -> Diagnosis:
    """Why no row is feasible; a row counts in the first plugin that refuses it."""
    diagnosis = Diagnosis(verdicts=Verdicts(columns.size) if by_row else None)
    columns.request_vector(pod.shape)
    free = columns.free if nominated is None else nominated.free(columns, pod.priority, pod.uid)
    left = _pass(columns, pod, profile, free, diagnosis)
    related = nominated.related(pod.shape, pod.priority, pod.uid) if nominated else []
    if related and left.any():
        with phantoms(columns, related):
            again = Diagnosis(verdicts=diagnosis.verdicts)
            _pass(columns, pod, profile, columns.free, again, left)
            diagnosis.reasons += again.reasons
            diagnosis.plugins |= again.plugins
    return diagnosis


def _pass(
    columns: NodeColumns,
    pod: Pending,
    profile: Profile,
    free: Floats,
    diagnosis: Diagnosis | None,
    start: Mask | None = None,
    timings: Timings | None = None,
) -> Mask:
    ask = Ask(columns, pod.shape, free, profile, pod.volumes)
    if diagnosis is None:
        begun = timings.clock() if timings else 0.0
        possible = _static(columns, pod.shape, profile).copy()
        if timings:
            timings.add("PreFilter", "", begun)
    else:
        possible = columns.alive.copy() if start is None else start.copy()
        for name, one in STATIC:
            if name not in profile.disabled_filters:
                _refuse(name, one, ask, possible, diagnosis)
    for name, one in DYNAMIC:
        if name not in profile.disabled_filters:
            begun = timings.clock() if timings else 0.0
            if diagnosis is None and name == "NodeResourcesFit":
                _keep_fitting(ask, possible)
            else:
                _refuse(name, one, ask, possible, diagnosis)
            if timings:
                timings.add("Filter", name, begun)
        if name == "NodeVolumeLimits":
            for confined in pod.confined:
                if confined.plugin not in profile.disabled_filters:
                    _keep_confined(columns, confined, possible, diagnosis)
    for plugin in profile.plugins:
        if plugin.filters:
            begun = timings.clock() if timings else 0.0
            _refuse(plugin.name, plugin.filter, ask, possible, diagnosis)
            if timings:
                timings.add("Filter", plugin.name, begun)
    return possible


def _keep_fitting(ask: Ask, possible: Mask) -> None:
    """NodeResourcesFit for those that want no reasons."""
    vector = needed(ask.columns, ask.shape, ask.profile)
    for column in np.flatnonzero(vector).tolist():
        possible &= ask.free[column] >= vector[column]


def _refuse(name: str, one: Filter, ask: Ask, possible: Mask, diagnosis: Diagnosis | None) -> None:
    """Take one filter's rejections off `possible`; NodeResourcesFit names all that is short on a row, others one."""
    rejections = one(ask)
    if diagnosis is None:
        for rejection in rejections:
            possible &= ~rejection.mask
        return
    fit = name == "NodeResourcesFit"
    before = possible.copy() if fit else possible
    could = could_ever_fit(ask.columns, ask.shape, ask.profile) if fit else None
    for rejection in rejections:
        diagnosis.note(name, rejection.reason, before & rejection.mask, could if fit else rejection.resolvable)
        possible &= ~rejection.mask


def _keep_confined(columns: NodeColumns, confined: Confined, possible: Mask, diagnosis: Diagnosis | None) -> None:
    names = confined.names
    keep = columns.memo(("allowed", names), lambda: _rows_of(columns, names))
    if diagnosis is not None:
        hit = possible & ~keep
        diagnosis.note(confined.plugin, confined.reason, hit, hit if confined.resolvable else None)
    possible &= keep


def _rows_of(columns: NodeColumns, names: frozenset[str]) -> Mask:
    rows = np.zeros(columns.size, dtype=np.bool_)
    rows[[columns.rows[name] for name in names if name in columns.rows]] = True
    return rows


# ---- placing


def place(
    columns: NodeColumns,
    pods: Sequence[Pending],
    tie_order: Rows | None = None,
    profile: Profile = DEFAULT,
    nominated: Nominations | None = None,
    timings: Timings | None = None,
    witness: Witness | None = None,
) -> list[Placement | Unschedulable]:
    """Place pods in the given order; neighbours of equal shape are decided together. `tie_order[row]` breaks ties."""
    results: list[Placement | Unschedulable] = []
    waiting = nominated if nominated is not None else Nominations()

    def alike(pod: Pending) -> tuple[object, ...]:
        return pod.shape, pod.priority, pod.confined, pod.volumes, pod.refusal, pod.uid if pod.uid in waiting else ""

    for _, group in groupby(pods, key=alike):
        results += _place_equal(columns, list(group), tie_order, profile, waiting, timings, witness)
    return results


def _place_equal(
    columns: NodeColumns,
    pods: list[Pending],
    tie_order: Rows | None,
    profile: Profile,
    nominated: Nominations,
    timings: Timings | None,
    witness: Witness | None,
) -> list[Placement | Unschedulable]:
    first = pods[0]
    if first.refusal or first.shape.unsupported:
        message, plugin = first.refusal or first.shape.unsupported, "VolumeBinding" if first.refusal else ""
        if witness:
            witness.before(columns, pods, profile, nominated)
        return [Unschedulable(pod, message, frozenset((plugin,))) for pod in pods]
    results: list[Placement | Unschedulable] = []
    shape = first.shape
    independent = profile.static and profile.percentage_to_score is None
    independent = independent and not columns.attachments.limited(first.volumes)
    independent = independent and not (shape.pod_affinity or shape.spread or shape.default_spread)
    while len(results) < len(pods):
        left = pods[len(results) :]
        possible = feasible(columns, first, profile, nominated, timings)
        possible = _sampled(columns, possible, profile, tie_order)
        together = independent and len(left) >= _TOGETHER
        if witness:
            witness.before(columns, left if together or not possible.any() else left[:1], profile, nominated)
        if not possible.any():
            diagnosis = diagnose(columns, first, profile, nominated)
            message, refused_by = fit_error(columns, diagnosis.reasons), frozenset(diagnosis.plugins)
            results += [Unschedulable(pod, message, refused_by, diagnosis.resolvable) for pod in left]
        elif together:
            free = nominated.free(columns, first.priority, first.uid)
            rows = deal(columns, shape, len(left), possible, free, profile, tie_order, timings)
            results += [assume(columns, pod, row) for pod, row in zip(left, rows, strict=False)]
        else:
            row = best_row(columns, first.shape, possible, tie_order, profile, timings)
            results.append(assume(columns, left[0], row))
    return results


def _sampled(columns: NodeColumns, possible: Mask, profile: Profile, tie_order: Rows | None) -> Mask:
    """With `percentage_to_score`, as many of the possible rows as kube-scheduler would look for; each time others."""
    if profile.percentage_to_score is None or tie_order is None:
        return possible
    most = nodes_to_find(len(columns.rows), profile.percentage_to_score)
    rows = np.flatnonzero(possible)
    if len(rows) <= most:
        return possible
    turn = (tie_order[rows] + len(columns.placed) * most) % columns.size
    some = np.zeros_like(possible)
    some[rows[np.argpartition(turn, most - 1)[:most]]] = True
    return some


def nodes_to_find(nodes: int, percentage: int) -> int:
    """kube-scheduler's numFeasibleNodesToFind: at least 100; percentage 0 sinks from 50 as the cluster grows, to 5."""
    if nodes < _MIN_FEASIBLE:
        return nodes
    percentage = percentage or max(50 - nodes // 125, 5)
    return max(nodes * percentage // 100, _MIN_FEASIBLE)


def assume(columns: NodeColumns, pod: Pending, row: int) -> Placement:
    node = columns.names[row]
    columns.place_pod(pod.uid, node, pod.shape, key=pod.key, priority=pod.priority, volumes=pod.volumes)
    return Placement(pod, node)


def best_row(
    columns: NodeColumns,
    shape: PodShape,
    possible: Mask,
    tie_order: Rows | None,
    profile: Profile,
    timings: Timings | None = None,
) -> int:
    """The possible row of the highest score; among equals the one that comes first in the tie order."""
    total = usage_total(columns, shape, profile, timings=timings)
    other, _ = other_total(columns, shape, profile, possible, timings)
    if other is not None:
        total = total + other
    total[~possible] = -1.0
    best = np.flatnonzero(total == total.max())
    return int(best[0] if tie_order is None else best[np.argmin(tie_order[best])])
