"""Scores: of the rows that can run a pod, which suit best (0 to 100 each, then weighted). Pure.

Whole numbers throughout, rounded where kube-scheduler rounds. Three kinds:
- USAGE depends on the row's own load alone, so after a placement only that row changes, and what a row scores after k
  more equal pods is known beforehand (`copies`): this lets equal pods be placed as one batch, exactly as one by one;
- SETTLED depends on nodes, and on which rows are possible (normalization), not on what is placed;
- RELATIONAL (spread, inter-pod affinity) depends on what is placed everywhere.
Source: kube-scheduler plugins NodeResourcesFit, NodeResourcesBalancedAllocation, TaintToleration, NodeAffinity,
ImageLocality; `reference` functions: section 4A of the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from cluster.scheduler import interpod, spread
from cluster.scheduler.columns import CPU, MEMORY, Floats, NodeColumns
from cluster.scheduler.config import Profile
from cluster.scheduler.filters import Mask, match_term, tolerates, tolerations_of
from cluster.scheduler.plugin import Plugin
from cluster.scheduler.shape import PodShape
from cluster.scheduler.timings import Timings

Rows = NDArray[np.intp]
Usage = Callable[[NodeColumns, PodShape, Profile, "slice | Rows", int], Floats]
Settled = Callable[[NodeColumns, PodShape, Mask, Profile], "Floats | None"]

MAX_SCORE = 100.0
_EVERY = slice(None)
_MB = 1024 * 1024
_IMAGE_LOW, _IMAGE_HIGH_PER_CONTAINER = 23 * _MB, 1000 * _MB


# ---- by the row's own load


def _load(
    columns: NodeColumns, shape: PodShape, resource: int, rows: slice | Rows, copies: int
) -> tuple[Floats, Floats]:
    """(capacity, use once `copies` of the pod are there); idle containers weigh something in CPU and memory."""
    capacity: Floats = columns.allocatable[resource, rows]
    if resource in (CPU, MEMORY):
        return capacity, columns.scored[resource, rows] + copies * shape.scoring_requests[resource]
    return capacity, columns.requested[resource, rows] + copies * columns.request_vector(shape)[resource]


def _ratio(points: tuple[tuple[int, int], ...], utilization: Floats) -> Floats:
    """Piecewise linear through the points, whole numbers truncated as Go does."""
    at = [u for u, _ in points]
    scores = [s * 10 for _, s in points]
    result = np.full(utilization.shape, float(scores[-1]))
    for i in range(len(points) - 1, -1, -1):
        below = utilization <= at[i]
        if i == 0:
            result[below] = scores[0]
        else:
            rise = (scores[i] - scores[i - 1]) * (utilization - at[i - 1])
            result = np.where(below, scores[i - 1] + np.trunc(rise / (at[i] - at[i - 1])), result)
    return result


def node_resources_fit(
    columns: NodeColumns, shape: PodShape, profile: Profile, rows: slice | Rows = _EVERY, copies: int = 1
) -> Floats:
    """LeastAllocated, MostAllocated or RequestedToCapacityRatio over the profile's resources."""
    total: Floats | None = None
    weights: Any = 0.0
    for name, weight in profile.resources:
        resource = columns.resources.get(name)
        if resource is None or (resource not in (CPU, MEMORY) and not columns.request_vector(shape)[resource]):
            continue
        capacity, used = _load(columns, shape, resource, rows, copies)
        there: Any = True if _everywhere(columns, resource) else capacity > 0
        whole = _whole(columns, resource)[rows]
        if profile.strategy == "LeastAllocated":
            score = np.subtract(capacity, used, out=used)
            score *= MAX_SCORE
            score /= whole
            np.maximum(np.floor(score, out=score), 0.0, out=score)
        elif profile.strategy == "MostAllocated":
            score = np.where(there, np.floor(np.minimum(used, capacity) * MAX_SCORE / whole), 0.0)
        else:
            percent = np.where(there & (used <= capacity), np.floor(used * 100.0 / whole), 100.0)
            score = _ratio(profile.utilization_shape, percent)
            there = there & (score > 0)
        score = score if weight == 1 else score * weight
        total = score if total is None else np.add(total, score, out=total)
        weights = weights + there * float(weight)
    if total is None:
        return np.zeros(columns.size)[rows]
    total /= np.maximum(weights, 1.0)
    if profile.strategy == "RequestedToCapacityRatio":
        total += 0.5
    return np.floor(total, out=total)


def _whole(columns: NodeColumns, resource: int) -> Floats:
    """Each row's capacity, 1 where there is none: to divide by."""
    return columns.memo(("whole", resource), lambda: np.maximum(columns.allocatable[resource], 1.0))


def _everywhere(columns: NodeColumns, resource: int) -> bool:
    """Whether every node has some of it."""
    return columns.memo(
        ("everywhere", resource), lambda: bool((columns.allocatable[resource, columns.alive] > 0).all())
    )


def _fractions(
    columns: NodeColumns, shape: PodShape, names: Sequence[str], rows: slice | Rows, copies: int
) -> tuple[list[Floats], list[Any]]:
    """Requested shares of the resources that the pod may weigh, and where each exists (True: everywhere)."""
    vector = columns.request_vector(shape)
    shares: list[Floats] = []
    there: list[Any] = []
    for resource in (columns.resources[name] for name in names if name in columns.resources):
        if resource not in (CPU, MEMORY) and not vector[resource]:
            continue
        share = columns.requested[resource, rows] + copies * vector[resource]
        share /= _whole(columns, resource)[rows]
        shares.append(np.minimum(share, 1.0, out=share))
        there.append(True if _everywhere(columns, resource) else columns.allocatable[resource, rows] > 0)
    return shares, there


def balanced_allocation(
    columns: NodeColumns, shape: PodShape, profile: Profile, rows: slice | Rows = _EVERY, copies: int = 1
) -> Floats:
    """Resources used alike: 100 minus the standard deviation of their shares. 0 for pods that request none of them."""
    vector = columns.request_vector(shape)
    if not any(vector[columns.resources[name]] for name in profile.balanced if name in columns.resources):
        return np.zeros(columns.size)[rows]
    shares, there = _fractions(columns, shape, profile.balanced, rows, copies)
    if len(shares) == 2:
        deviation = np.subtract(shares[0], shares[1], out=shares[0])
        np.abs(deviation, out=deviation)
        deviation /= 2.0
        both = there[0] & there[1]
        deviation = deviation if both is True else deviation * both
    else:
        deviation = _deviation(np.array(shares), np.array([np.broadcast_to(t, shares[0].shape) for t in there]))
    result = np.subtract(1.0, deviation, out=deviation)
    result *= MAX_SCORE
    return np.floor(result, out=result)


def _deviation(shares: Floats, there: NDArray[np.bool_]) -> Floats:
    """Standard deviation down each column, over what is there."""
    count = np.maximum(there.sum(axis=0), 1)
    mean = (shares * there).sum(axis=0) / count
    result: Floats = np.sqrt((((shares - mean) ** 2) * there).sum(axis=0) / count)
    return result


def reference_balanced(
    columns: NodeColumns, shape: PodShape, profile: Profile, rows: slice | Rows = _EVERY, copies: int = 1
) -> Floats:
    """The reference's: 100 minus the difference of the shares, in whole tens (its scale was 0 to 10)."""
    (cpu, memory), _ = _fractions(columns, shape, ("cpu", "memory"), rows, copies)
    result: Floats = np.floor((1.0 - np.abs(cpu - memory)) * 10.0 + 0.5) * 10.0
    return result


# ---- by the nodes themselves


def _taint_counts(columns: NodeColumns, shape: PodShape) -> Floats:
    """Untolerated PreferNoSchedule taints of each row."""

    def make() -> Floats:
        tolerations = tolerations_of(shape)
        soft = [
            sum(t[2] == "PreferNoSchedule" and not tolerates(tolerations, t) for t in taints)
            for taints in columns.taint_sets
        ]
        counts: Floats = np.array(soft, dtype=np.float64)[columns.taints]
        return counts

    return columns.memo(("soft taints", shape.tolerations), make)


def taint_toleration(columns: NodeColumns, shape: PodShape, possible: Mask, profile: Profile) -> Floats | None:
    """Fewer untolerated PreferNoSchedule taints are better."""
    counts = _taint_counts(columns, shape)
    worst = counts.max(where=possible, initial=0.0)
    return None if worst == 0 else MAX_SCORE - np.floor(counts * MAX_SCORE / worst)


def _preferences(columns: NodeColumns, affinity: bytes) -> Floats:
    """Sum of the weights of the preferred terms of a NodeAffinity (JSON) that each row matches."""

    def make() -> Floats:
        total = np.zeros(columns.size)
        for preference in orjson.loads(affinity).get("preferredDuringSchedulingIgnoredDuringExecution") or ():
            total += preference["weight"] * match_term(columns, preference["preference"])
        return total

    return columns.memo(("node preferences", affinity), make)


def node_affinity(columns: NodeColumns, shape: PodShape, possible: Mask, profile: Profile) -> Floats | None:
    wishes = [one for one in (shape.node_affinity, profile.added_affinity) if one]
    if not wishes:
        return None
    total = sum((_preferences(columns, one) for one in wishes), np.zeros(columns.size))
    best = total.max(where=possible, initial=0.0)
    return None if best == 0 else np.floor(total * MAX_SCORE / best)


def image_locality(columns: NodeColumns, shape: PodShape, possible: Mask, profile: Profile) -> Floats | None:
    """Bytes of the pod's images that a row has already, each weighed by how many nodes have it."""
    names = [normalized_image(image) for image in shape.images]
    if not any(name in columns.images for name in names):
        return None

    def make() -> Floats:
        total = np.zeros(columns.size)
        for name in names:
            having = columns.images.get(name, {})
            share = len(having) / len(columns.rows)
            for row, size in having.items():
                total[row] += np.floor(size * share)
        high = _IMAGE_HIGH_PER_CONTAINER * len(names)
        clipped = np.clip(total, _IMAGE_LOW, high)
        score: Floats = np.floor(MAX_SCORE * (clipped - _IMAGE_LOW) / (high - _IMAGE_LOW))
        return score

    return columns.memo(("images", shape.images), make)


def normalized_image(name: str) -> str:
    """A name without a tag means :latest; names of a registry's port are no tags."""
    return name if name.rfind(":") > name.rfind("/") else f"{name}:latest"


def selector_spread(columns: NodeColumns, shape: PodShape, possible: Mask, profile: Profile) -> Floats | None:
    """The reference's: the share of the workload, this pod counted, that runs elsewhere, in whole tens."""
    defaults = spread.constraints_of(columns, shape, profile)
    if not defaults.system:
        return None
    tally = columns.relations.pod_set(columns, defaults.soft[0].matchers).tally
    whole = tally.total + 1.0
    result: Floats = np.floor((whole - tally.rows) / whole * 10.0 + 0.5) * 10.0
    return result


USAGE: dict[str, Usage] = {
    "NodeResourcesFit": node_resources_fit,
    "NodeResourcesBalancedAllocation": balanced_allocation,
    "LeastRequestedPriority": node_resources_fit,
    "BalancedResourceAllocation": reference_balanced,
}
SETTLED: dict[str, Settled] = {
    "TaintToleration": taint_toleration,
    "NodeAffinity": node_affinity,
    "ImageLocality": image_locality,
}
RELATIONAL: dict[str, Settled] = {
    "PodTopologySpread": spread.score,
    "InterPodAffinity": interpod.score,
    "SelectorSpreadPriority": selector_spread,
}


def usage_total(
    columns: NodeColumns,
    shape: PodShape,
    profile: Profile,
    rows: slice | Rows = _EVERY,
    copies: int = 1,
    timings: Timings | None = None,
) -> Floats:
    total: Floats | None = None
    for name, weight in profile.weights:
        if weight and name in USAGE:
            begun = timings.clock() if timings else 0.0
            part = USAGE[name](columns, shape, profile, rows, copies)
            if timings:
                timings.add("Score", name, begun)
            if weight != 1:
                part = part * weight
            total = part if total is None else total + part
    return np.zeros(columns.size)[rows] if total is None else total


def other_total(
    columns: NodeColumns, shape: PodShape, profile: Profile, possible: Mask, timings: Timings | None = None
) -> tuple[Floats | None, bool]:
    """SETTLED and RELATIONAL together (None: nothing tells rows apart), and whether a rival's going could change it."""
    total: Floats | None = None
    normalized = False
    for name, weight in profile.weights:
        score = SETTLED.get(name) or RELATIONAL.get(name)
        if not weight or score is None:
            continue
        begun = timings.clock() if timings else 0.0
        part = score(columns, shape, possible, profile)
        if timings:
            timings.add("Score", name, begun)
        if part is not None:
            normalized = normalized or name != "ImageLocality"
            total = part * weight if total is None else total + part * weight
    for plugin, weight in _own(profile):
        part = plugin.score(columns, shape) * float(weight)
        total = part if total is None else total + part
    return total, normalized


def _own(profile: Profile) -> list[tuple[Plugin, int]]:
    """The score plugins of one's own, with their weights."""
    if not profile.plugins:
        return []
    weights = dict(profile.weights)
    return [(p, weights[p.name]) for p in profile.plugins if p.scores and weights.get(p.name)]


def explain(columns: NodeColumns, shape: PodShape, profile: Profile, possible: Mask) -> dict[str, Floats]:
    """Each plugin's unweighted score per row, for those who ask why."""
    parts: dict[str, Floats] = {}
    for name, weight in profile.weights:
        if not weight or not (name in USAGE or name in SETTLED or name in RELATIONAL):
            continue
        if name in USAGE:
            parts[name] = USAGE[name](columns, shape, profile, _EVERY, 1)
            continue
        part = (SETTLED.get(name) or RELATIONAL[name])(columns, shape, possible, profile)
        same = MAX_SCORE if name == "TaintToleration" else 0.0  # as kube-scheduler says it where it tells none apart
        parts[name] = np.full(columns.size, same) if part is None else part
    return parts | {plugin.name: plugin.score(columns, shape) for plugin, _ in _own(profile)}
