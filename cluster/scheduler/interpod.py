"""InterPodAffinity: pods that want each other near, or far, by topology domain. Pure.

A pod's own required terms filter by how many placed pods match in the row's domain; placed pods' required
anti-affinity filters the other way round (symmetry); preferred terms of both sides, and placed pods' required
affinity, score. Sums per domain are kept current by `relations`, so one pod costs a gather per term.
Source: kube-scheduler plugin InterPodAffinity.
"""

from __future__ import annotations

import numpy as np

from cluster.scheduler.columns import Floats, NodeColumns
from cluster.scheduler.config import Profile
from cluster.scheduler.filters import Ask, Mask, Rejection
from cluster.scheduler.relations import PodTerms, Tally
from cluster.scheduler.shape import PodShape

NAME = "InterPodAffinity"


def spread_over_rows(columns: NodeColumns, tally: Tally, topology_key: str) -> Floats:
    """Each row's domain sum; 0 for rows without the label."""
    sums = tally.domain(columns, topology_key)
    result: Floats = sums[columns.labels[topology_key].codes]
    return result


def _affinity(ask: Ask, terms: PodTerms) -> list[Rejection]:
    columns = ask.columns
    matchers = tuple(dict.fromkeys(t.matcher for t in terms.affinity))
    together = columns.relations.pod_set(columns, matchers).tally
    keys = dict.fromkeys(t.topology_key for t in terms.affinity)
    has_keys = np.ones(columns.size, dtype=np.bool_)
    near = np.ones(columns.size, dtype=np.bool_)
    nobody = True
    for key in keys:
        has_keys &= columns.label(key).codes >= 0
        near &= spread_over_rows(columns, together, key) > 0
        nobody = nobody and not together.domain(columns, key).any()
    if nobody and columns.relations.matches(matchers, columns.relations.class_of(ask.shape)):
        near = has_keys  # the first of its kind may start anywhere
    return [Rejection(~near, "node(s) didn't match pod affinity rules")]


def inter_pod_affinity(ask: Ask) -> list[Rejection]:
    columns = ask.columns
    rejections: list[Rejection] = []
    terms = columns.relations.terms_of(ask.shape)
    if terms.affinity:
        rejections += _affinity(ask, terms)
    if terms.anti:
        crowded = np.zeros(columns.size, dtype=np.bool_)
        for term in terms.anti:
            tally = columns.relations.pod_set(columns, (term.matcher,)).tally
            crowded |= spread_over_rows(columns, tally, term.topology_key) > 0
        rejections.append(Rejection(crowded, "node(s) didn't match pod anti-affinity rules", crowded))
    unwanted: Mask | None = None
    for existing in columns.relations.class_of(ask.shape).terms:
        if existing.anti:
            here = spread_over_rows(columns, existing.tally, existing.topology_key) > 0
            unwanted = here if unwanted is None else unwanted | here
    if unwanted is not None:
        rejections.append(Rejection(unwanted, "node(s) didn't satisfy existing pods anti-affinity rules", unwanted))
    return rejections


def concerns(columns: NodeColumns, shape: PodShape) -> bool:
    """Whether any rule between pods, its own or a placed pod's, touches this shape."""
    return bool(shape.pod_affinity) or bool(columns.relations.class_of(shape).terms)


def score(columns: NodeColumns, shape: PodShape, possible: Mask, profile: Profile) -> Floats | None:
    """0 to 100 between the worst and the best possible row; None when no rule says anything."""
    total: Floats | None = None
    for term in columns.relations.terms_of(shape).preferred:
        tally = columns.relations.pod_set(columns, (term.matcher,)).tally
        if tally.total:
            here = term.weight * spread_over_rows(columns, tally, term.topology_key)
            total = here if total is None else total + here
    for existing in columns.relations.class_of(shape).terms:
        if not existing.anti:
            here = spread_over_rows(columns, existing.tally, existing.topology_key)
            total = here if total is None else total + here
    if total is None:
        return None
    inside = total[possible]
    low, high = inside.min(), inside.max()
    if high == low:
        return None
    result: Floats = np.floor(100.0 * ((total - low) / (high - low)))
    return result
