"""PodTopologySpread: even numbers of matching pods per topology domain. Pure.

`DoNotSchedule` constraints filter by skew against the emptiest eligible domain; `ScheduleAnyway` ones, and the default
constraints of a pod that has none of its own (hostname maxSkew 3, zone maxSkew 5, over its Services' and owner's
pods), score. Which nodes count (all keys present, inclusion policies) follows from nodes and shape alone and is
remembered until a node changes.
Source: kube-scheduler plugin PodTopologySpread; KEP-895, KEP-3022 (minDomains), KEP-3094 (node inclusion policies),
KEP-3243 (matchLabelKeys).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from cluster.api.selectors import from_label_selector
from cluster.scheduler.columns import Floats, NodeColumns
from cluster.scheduler.config import DefaultConstraint, Profile
from cluster.scheduler.filters import Ask, Mask, Rejection, blocking_taint, required_nodes, tolerations_of
from cluster.scheduler.relations import Matchers, PodMatcher, Tally, with_label_keys
from cluster.scheduler.shape import PodShape

NAME = "PodTopologySpread"
HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
SYSTEM = (DefaultConstraint(HOSTNAME, 3), DefaultConstraint(ZONE, 5))


@dataclass(frozen=True, slots=True)
class Constraint:
    topology_key: str
    max_skew: int
    min_domains: int
    honor_affinity: bool
    honor_taints: bool
    matchers: Matchers
    matches_self: bool


@dataclass(frozen=True, slots=True)
class Constraints:
    """`system`: the soft ones are the defaults, which do not mind nodes without the labels."""

    hard: tuple[Constraint, ...] = ()
    soft: tuple[Constraint, ...] = ()
    system: bool = False


NONE = Constraints()


def _constraint(raw: dict[str, Any], shape: PodShape, columns: NodeColumns) -> Constraint:
    selector = with_label_keys(
        from_label_selector(raw.get("labelSelector")), dict(shape.labels), raw.get("matchLabelKeys") or []
    )
    matchers = (PodMatcher(selector, frozenset((shape.namespace,)), ignore_terminating=True),)
    return Constraint(
        topology_key=raw["topologyKey"],
        max_skew=int(raw["maxSkew"]),
        min_domains=int(raw.get("minDomains") or 1),
        honor_affinity=(raw.get("nodeAffinityPolicy") or "Honor") == "Honor",
        honor_taints=(raw.get("nodeTaintsPolicy") or "Ignore") == "Honor",
        matchers=matchers,
        matches_self=columns.relations.matches(matchers, columns.relations.class_of(shape)),
    )


def constraints_of(columns: NodeColumns, shape: PodShape, profile: Profile) -> Constraints:
    if not shape.spread and not shape.default_spread:
        return NONE
    defaults = profile.default_constraints
    key = ("spread", shape.namespace, shape.labels, shape.spread, shape.default_spread, shape.terminating, defaults)
    return columns.memo(key, lambda: _parse(columns, shape, defaults))


def _parse(columns: NodeColumns, shape: PodShape, defaults: tuple[DefaultConstraint, ...] | None) -> Constraints:
    """`defaults` None: the system's, which do not mind nodes without the labels."""
    if shape.spread:
        raws = orjson.loads(shape.spread)
        parsed = [(raw.get("whenUnsatisfiable"), _constraint(raw, shape, columns)) for raw in raws]
        hard = tuple(c for when, c in parsed if when == "DoNotSchedule")
        return Constraints(hard, tuple(c for when, c in parsed if when == "ScheduleAnyway"))
    selector = orjson.loads(shape.default_spread)

    def made(*, hard: bool) -> tuple[Constraint, ...]:
        chosen = [one for one in (SYSTEM if defaults is None else defaults) if one.hard == hard]
        raws = [{"topologyKey": c.topology_key, "maxSkew": c.max_skew, "labelSelector": selector} for c in chosen]
        return tuple(_constraint(raw, shape, columns) for raw in raws)

    return Constraints(made(hard=True), made(hard=False), defaults is None)


# ---- which nodes count


@dataclass(frozen=True, slots=True)
class _Counted:
    """Rows that count for a constraint. `whole`: every row with the key does, so running sums can be used."""

    rows: NDArray[np.intp]
    codes: NDArray[np.intp]
    present: NDArray[np.intp]
    whole: bool


def _tolerated(columns: NodeColumns, shape: PodShape) -> Mask:
    tolerations = tolerations_of(shape)
    fine = np.array([blocking_taint(taints, tolerations) is None for taints in columns.taint_sets])
    result: Mask = fine[columns.taints]
    return result


def _counted(columns: NodeColumns, shape: PodShape, one: Constraint, all_keys: tuple[str, ...]) -> _Counted:
    """`all_keys`: labels a node must have to count at all (none for the default constraints)."""
    selecting = one.honor_affinity and (shape.node_selector or shape.node_affinity)
    key = (
        "counted",
        one.topology_key,
        all_keys,
        (shape.node_selector, shape.node_affinity) if selecting else None,
        shape.tolerations if one.honor_taints else None,
        one.honor_taints,
    )

    def make() -> _Counted:
        codes = columns.label(one.topology_key).codes
        has_key = columns.alive & (codes >= 0)
        mask = has_key.copy()
        for other in all_keys:
            mask &= columns.label(other).codes >= 0
        if selecting:
            mask &= required_nodes(columns, shape)
        if one.honor_taints:
            mask &= _tolerated(columns, shape)
        rows = np.flatnonzero(mask)
        return _Counted(rows, codes[rows], np.unique(codes[rows]), bool((mask == has_key).all()))

    return columns.memo(key, make)


def _sums(columns: NodeColumns, tally: Tally, topology_key: str, counted: _Counted) -> Floats:
    """Matching pods per domain over the rows that count; the last element is 0."""
    if counted.whole:
        return tally.domain(columns, topology_key)
    sums = np.zeros(len(columns.label(topology_key).values) + 1)
    found = np.bincount(counted.codes, weights=tally.rows[counted.rows])
    sums[: len(found)] = found
    return sums


# ---- filter and score


def pod_topology_spread(ask: Ask) -> list[Rejection]:
    columns, shape = ask.columns, ask.shape
    hard = constraints_of(columns, shape, ask.profile).hard
    keys = tuple(dict.fromkeys(c.topology_key for c in hard))
    rejections: list[Rejection] = []
    for one in hard:
        codes = columns.label(one.topology_key).codes
        tally = columns.relations.pod_set(columns, one.matchers).tally
        counted = _counted(columns, shape, one, keys)
        sums = _sums(columns, tally, one.topology_key, counted)
        least = 0.0
        if len(counted.present) and len(counted.present) >= one.min_domains:
            least = float(sums[counted.present].min())
        crowded: Mask = (sums > one.max_skew + least - one.matches_self)[codes]
        missing: Mask = codes < 0
        reason = "node(s) didn't match pod topology spread constraints"
        rejections.append(Rejection(missing, f"{reason} (missing required label)"))
        rejections.append(Rejection(crowded & ~missing, reason, crowded))
    return rejections


def score(columns: NodeColumns, shape: PodShape, possible: Mask, profile: Profile) -> Floats | None:
    """0 to 100, best where the fewest matching pods are; None without soft constraints."""
    constraints = constraints_of(columns, shape, profile)
    if not constraints.soft:
        return None
    keys = () if constraints.system else tuple(dict.fromkeys(c.topology_key for c in constraints.soft))
    considered = possible
    for key in keys:
        considered = considered & (columns.label(key).codes >= 0)
    rows = np.flatnonzero(considered)
    result = np.zeros(columns.size)
    if not len(rows):
        return result
    raw = np.zeros(len(rows))
    for one in constraints.soft:
        codes = columns.label(one.topology_key).codes[rows]
        tally = columns.relations.pod_set(columns, one.matchers).tally
        if one.topology_key == HOSTNAME:
            counts, domains = tally.rows[rows], len(rows)
        else:
            counted = _counted(columns, shape, one, keys)
            counts = _sums(columns, tally, one.topology_key, counted)[codes]
            domains = int(np.count_nonzero(np.bincount(codes + 1)))
        raw += np.where(codes >= 0, counts * np.log(domains + 2) + (one.max_skew - 1), 0.0)
    raw = np.floor(raw + 0.5)
    low, high = raw.min(), raw.max()
    result[rows] = 100.0 if high == 0 else np.floor(100.0 * (high + low - raw) / high)
    return result
