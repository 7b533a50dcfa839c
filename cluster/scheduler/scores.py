"""Scores: of the rows that can run a pod, which suit best (0 to 100 each, then weighted). Pure.

A score maps (columns, shape, rows) to an array over `rows`. Those in PER_NODE depend on nothing but the row itself,
so after one placement only that row changes: this is what lets equal pods be placed as one batch with the same result
as one by one. The NORMALIZED ones are scaled over all candidate rows.
Source: kube-scheduler plugins NodeResourcesFit (LeastAllocated), NodeResourcesBalancedAllocation, TaintToleration,
NodeAffinity, SelectorSpread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import orjson
from numpy.typing import NDArray

from cluster.scheduler.columns import CPU, MEMORY, NodeColumns
from cluster.scheduler.filters import match_term, tolerates
from cluster.scheduler.shape import PodShape

Rows = NDArray[np.intp]
Scores = NDArray[np.float64]
Score = Callable[[NodeColumns, PodShape, Rows], Scores]
MAX_SCORE = 100.0


def _fractions(columns: NodeColumns, shape: PodShape, rows: Rows) -> NDArray[np.float64]:
    """Share of CPU and memory in use once the pod is there; 1 where a node has none of it."""
    capacity = columns.allocatable[rows][:, [CPU, MEMORY]].astype(np.float64)
    used = columns.scored[rows] + np.asarray(shape.scoring_requests, dtype=np.int64)
    shares: NDArray[np.float64] = np.divide(used, capacity, out=np.ones_like(capacity), where=capacity > 0)
    return np.minimum(shares, 1.0)


def least_allocated(columns: NodeColumns, shape: PodShape, rows: Rows) -> Scores:
    """The emptier, the better: mean free share of CPU and memory."""
    free: Scores = (1.0 - _fractions(columns, shape, rows)).mean(axis=1)
    return free * MAX_SCORE


def balanced_allocation(columns: NodeColumns, shape: PodShape, rows: Rows) -> Scores:
    """CPU and memory used alike: 100 minus the standard deviation of the two shares."""
    deviation: Scores = _fractions(columns, shape, rows).std(axis=1)
    return (1.0 - deviation) * MAX_SCORE


def selector_spread(columns: NodeColumns, shape: PodShape, rows: Rows) -> Scores:
    """Pods of one owner apart: each one already on a row costs as much as an idle node gains.

    Kubernetes normalizes by the fullest node; 100 / (1 + count) keeps the order and depends on the row alone.
    """
    counts = columns.owners.get(shape.owner_uid) if shape.owner_uid else None
    if not counts:
        return np.full(len(rows), MAX_SCORE)
    here = np.zeros(columns.size, dtype=np.float64)
    here[list(counts.keys())] = list(counts.values())
    result: Scores = MAX_SCORE / (1.0 + here[rows])
    return result


def taint_toleration(columns: NodeColumns, shape: PodShape, rows: Rows) -> Scores:
    """Fewer untolerated PreferNoSchedule taints are better."""
    tolerations = orjson.loads(shape.tolerations) if shape.tolerations else []
    bad = np.array(
        [sum(t[2] == "PreferNoSchedule" and not tolerates(tolerations, t) for t in ts) for ts in columns.taint_sets],
        dtype=np.float64,
    )[columns.taints[rows]]
    worst = bad.max(initial=0.0)
    return np.full(len(rows), MAX_SCORE) if worst == 0 else (1.0 - bad / worst) * MAX_SCORE


def node_affinity(columns: NodeColumns, shape: PodShape, rows: Rows) -> Scores:
    """Sum of the weights of the preferred terms a row matches."""
    total = np.zeros(columns.size, dtype=np.float64)
    if shape.node_affinity:
        preferred = orjson.loads(shape.node_affinity).get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        for preference in preferred:
            total += preference["weight"] * match_term(columns, preference["preference"])
    here: Scores = total[rows]
    best = here.max(initial=0.0)
    return here if best == 0 else here / best * MAX_SCORE


PER_NODE: tuple[tuple[Score, float], ...] = ((least_allocated, 1.0), (balanced_allocation, 1.0), (selector_spread, 2.0))
NORMALIZED: tuple[tuple[Score, float], ...] = ((taint_toleration, 3.0), (node_affinity, 2.0))


def weighted(scores: tuple[tuple[Score, float], ...], columns: NodeColumns, shape: PodShape, rows: Rows) -> Scores:
    total = np.zeros(len(rows), dtype=np.float64)
    for score, weight in scores:
        total += weight * score(columns, shape, rows)
    return total
