"""Placing a batch of pods: pure, deterministic for a given tie order.

Pods of equal shape are placed together: one pass of the filters and scores over all rows, then a heap from which the
best row is taken; a placement changes only that row's score, so the result equals placing them one by one.

Invariant: a returned placement has been accounted in the columns (assumed); the caller takes it off again with
`NodeColumns.remove_pod` when the bind fails.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.filters import DEFAULT_FILTERS, Filter, Mask
from cluster.scheduler.scores import NORMALIZED, PER_NODE, Rows, weighted
from cluster.scheduler.shape import PodShape


@dataclass(frozen=True, slots=True)
class Pending:
    """A pod that waits for a node. `allowed` narrows the rows (volumes); None allows all."""

    uid: str
    key: tuple[str, str]
    shape: PodShape
    allowed: frozenset[str] | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    pod: Pending
    node: str


@dataclass(frozen=True, slots=True)
class Unschedulable:
    pod: Pending
    message: str


def fit_error(columns: NodeColumns, reasons: Counter[str]) -> str:
    """kube-scheduler's FitError text: `0/3 nodes are available: 1 Too many pods, 2 Insufficient cpu.`"""
    nodes = len(columns.rows)
    if not nodes:
        return "no nodes available to schedule pods"
    texts = sorted(f"{count} {reason}" for reason, count in reasons.items())
    return f"0/{nodes} nodes are available: {', '.join(texts)}."


def feasible(
    columns: NodeColumns, pod: Pending, filters: Sequence[Filter] = DEFAULT_FILTERS
) -> tuple[Mask, Counter[str]]:
    """The rows that pass every filter, and how many rows each reason rejected (a row counts in its first filter)."""
    possible = columns.alive.copy()
    reasons: Counter[str] = Counter()
    if pod.allowed is not None:
        keep = np.zeros(columns.size, dtype=np.bool_)
        keep[[columns.rows[name] for name in pod.allowed if name in columns.rows]] = True
        reasons["node(s) had volume node affinity conflict"] = int((possible & ~keep).sum())
        possible &= keep
    for one in filters:
        rejected_here = np.zeros(columns.size, dtype=np.bool_)
        for mask, reason in one(columns, pod.shape):
            hit = possible & mask
            reasons[reason] += int(hit.sum())
            rejected_here |= hit
        possible &= ~rejected_here
    return possible, +reasons


def place(
    columns: NodeColumns, pods: Sequence[Pending], tie_order: Rows | None = None
) -> list[Placement | Unschedulable]:
    """Place pods in the given order; neighbours of equal shape are decided together. `tie_order[row]` breaks ties."""
    results: list[Placement | Unschedulable] = []
    for _, group in groupby(pods, key=lambda p: (p.shape, p.allowed, p.refusal)):
        results += _place_equal(columns, list(group), tie_order)
    return results


def _place_equal(columns: NodeColumns, pods: list[Pending], tie_order: Rows | None) -> list[Placement | Unschedulable]:
    first = pods[0]
    if first.refusal or first.shape.unsupported:
        return [Unschedulable(pod, first.refusal or first.shape.unsupported) for pod in pods]
    possible, _ = feasible(columns, first)
    rows = np.flatnonzero(possible)
    constant = weighted(NORMALIZED, columns, first.shape, rows)
    total = constant + weighted(PER_NODE, columns, first.shape, rows)
    base = dict(zip(rows.tolist(), constant.tolist(), strict=True))
    heap = [
        (-score, int(tie_order[row]) if tie_order is not None else row, row)
        for row, score in zip(rows.tolist(), total.tolist(), strict=True)
    ]
    heapq.heapify(heap)
    results: list[Placement | Unschedulable] = []
    vector = columns.request_vector(first.shape)
    for index, pod in enumerate(pods):
        if not heap:
            _, reasons = feasible(columns, first)
            message = fit_error(columns, reasons)
            results += [Unschedulable(left, message) for left in pods[index:]]
            break
        _, tie, row = heapq.heappop(heap)
        columns.place_pod(pod.uid, columns.names[row], first.shape)
        results.append(Placement(pod, columns.names[row]))
        still_fits = not first.shape.host_ports and bool(
            (columns.requested[row] + vector <= columns.allocatable[row])[vector > 0].all()
        )
        if still_fits:
            only = np.array([row], dtype=np.intp)
            score = base[row] + float(weighted(PER_NODE, columns, first.shape, only)[0])
            heapq.heappush(heap, (-score, tie, row))
    return results
