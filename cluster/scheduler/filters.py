"""Filters: which rows can run a pod at all, and in Kubernetes' words why the others cannot. Pure.

A filter maps an `Ask` to rejections (mask of rejected rows, reason, may preemption help); all of them see all rows at
once. STATIC filters depend on nothing but the node's own data and the pod, and are remembered until a node changes.
Source: kube-scheduler plugins NodeUnschedulable, NodeName, TaintToleration, NodeAffinity, NodePorts, NodeResourcesFit,
VolumeRestrictions, NodeVolumeLimits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from cluster.scheduler.attachments import Volume
from cluster.scheduler.columns import Floats, NodeColumns, Taint
from cluster.scheduler.config import DEFAULT, Profile
from cluster.scheduler.shape import PodShape

Mask = NDArray[np.bool_]

UNSCHEDULABLE_TAINT: Taint = ("node.kubernetes.io/unschedulable", "", "NoSchedule")


class Rejection(NamedTuple):
    """`resolvable`: rows of the mask that removing pods might open (None: none of them)."""

    mask: Mask
    reason: str
    resolvable: Mask | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One pod's question. `free` is what each row has left for it (nominated pods' room already taken off); `volumes`
    have to be attached where it runs."""

    columns: NodeColumns
    shape: PodShape
    free: Floats
    profile: Profile = DEFAULT
    volumes: tuple[Volume, ...] = ()


Filter = Callable[[Ask], list[Rejection]]


def tolerates(tolerations: Sequence[dict[str, Any]], taint: Taint) -> bool:
    """Whether any toleration covers the taint (core/v1 Toleration semantics)."""
    key, value, effect = taint
    for toleration in tolerations:
        if toleration.get("effect") and toleration["effect"] != effect:
            continue
        wanted = toleration.get("key", "")
        if wanted and wanted != key:
            continue
        operator = toleration.get("operator") or "Equal"
        if operator == "Exists" or (operator == "Equal" and wanted and toleration.get("value", "") == value):
            return True
    return False


def tolerations_of(shape: PodShape) -> list[dict[str, Any]]:
    return orjson.loads(shape.tolerations) if shape.tolerations else []


# ---- static: a node's own data


def node_unschedulable(ask: Ask) -> list[Rejection]:
    if tolerates(tolerations_of(ask.shape), UNSCHEDULABLE_TAINT):
        return []
    return [Rejection(ask.columns.unschedulable, "node(s) were unschedulable")]


def node_name(ask: Ask) -> list[Rejection]:
    if not ask.shape.node_name:
        return []
    rejected = np.ones(ask.columns.size, dtype=np.bool_)
    row = ask.columns.rows.get(ask.shape.node_name)
    if row is not None:
        rejected[row] = False
    return [Rejection(rejected, "node(s) didn't match the requested node name")]


def blocking_taint(taints: Sequence[Taint], tolerations: Sequence[dict[str, Any]]) -> Taint | None:
    """The first taint that keeps the pod off."""
    hard = (t for t in taints if t[2] in ("NoSchedule", "NoExecute"))
    return next((t for t in hard if not tolerates(tolerations, t)), None)


def taint_toleration(ask: Ask) -> list[Rejection]:
    """One look per distinct set of taints, not per node."""
    tolerations = tolerations_of(ask.shape)
    rejections: list[Rejection] = []
    for code, taints in enumerate(ask.columns.taint_sets):
        blocking = blocking_taint(taints, tolerations)
        if blocking is not None:
            reason = f"node(s) had untolerated taint {{{blocking[0]}: {blocking[1]}}}"
            rejections.append(Rejection(ask.columns.taints == code, reason))
    return rejections


def match_expression(columns: NodeColumns, expression: dict[str, Any]) -> Mask:
    """Rows that satisfy one NodeSelectorRequirement on labels."""
    column = columns.labels.get(expression["key"])
    operator, values = expression["operator"], expression.get("values") or []
    if column is None:
        fits = operator in ("NotIn", "DoesNotExist")
        return np.full(columns.size, fits, dtype=np.bool_)
    if operator in ("In", "NotIn"):
        inside = np.isin(column.codes, [column.code(v) for v in values])
        return inside if operator == "In" else ~inside
    if operator in ("Exists", "DoesNotExist"):
        present: Mask = column.codes >= 0
        return present if operator == "Exists" else ~present
    numbers, bound = column.numeric(), float(values[0])
    with np.errstate(invalid="ignore"):
        result: Mask = numbers > bound if operator == "Gt" else numbers < bound
    return result


def _match_field(columns: NodeColumns, expression: dict[str, Any]) -> Mask:
    """`metadata.name` is the only field a node selector term may name."""
    inside = np.zeros(columns.size, dtype=np.bool_)
    for name in expression.get("values") or ():
        row = columns.rows.get(name)
        if row is not None:
            inside[row] = True
    return inside if expression["operator"] == "In" else ~inside


def match_term(columns: NodeColumns, term: dict[str, Any]) -> Mask:
    """Rows that satisfy one NodeSelectorTerm: all of its expressions; an empty term matches nothing."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return np.zeros(columns.size, dtype=np.bool_)
    mask = np.ones(columns.size, dtype=np.bool_)
    for expression in expressions:
        mask &= match_expression(columns, expression)
    for field in fields:
        mask &= _match_field(columns, field)
    return mask


def required_nodes(columns: NodeColumns, shape: PodShape) -> Mask:
    """Rows that nodeSelector and required node affinity admit."""
    fits = np.ones(columns.size, dtype=np.bool_)
    for key, value in shape.node_selector:
        fits &= match_expression(columns, {"key": key, "operator": "In", "values": [value]})
    if shape.node_affinity:
        fits &= _admitted(columns, shape.node_affinity)
    return fits


def _admitted(columns: NodeColumns, affinity: bytes) -> Mask:
    """Rows that the required part of a NodeAffinity (JSON) admits."""
    required = orjson.loads(affinity).get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return np.ones(columns.size, dtype=np.bool_)
    some = np.zeros(columns.size, dtype=np.bool_)
    for term in required["nodeSelectorTerms"]:
        some |= match_term(columns, term)
    return some


def node_affinity(ask: Ask) -> list[Rejection]:
    rejections: list[Rejection] = []
    if ask.profile.added_affinity:
        enforced = _admitted(ask.columns, ask.profile.added_affinity)
        rejections.append(Rejection(~enforced, "node(s) didn't match scheduler-enforced node affinity"))
    if ask.shape.node_selector or ask.shape.node_affinity:
        fits = required_nodes(ask.columns, ask.shape)
        rejections.append(Rejection(~fits, "node(s) didn't match Pod's node affinity/selector"))
    return rejections


# ---- what is placed there


def node_ports(ask: Ask) -> list[Rejection]:
    if not ask.shape.host_ports:
        return []
    rejected = np.zeros(ask.columns.size, dtype=np.bool_)
    for port in ask.shape.host_ports:
        for row, taken in ask.columns.host_ports.get((port.protocol, port.port), ()):
            if port.collides(taken):
                rejected[row] = True
    return [Rejection(rejected, "node(s) didn't have free ports for the requested pod ports", rejected)]


def node_resources_fit(ask: Ask) -> list[Rejection]:
    """Preemption helps only where the whole node would be big enough."""
    columns = ask.columns
    vector = needed(columns, ask.shape, ask.profile)
    names = list(columns.resources)
    rejections: list[Rejection] = []
    for column in np.flatnonzero(vector):
        short = ask.free[column] < vector[column]
        reason = "Too many pods" if names[column] == "pods" else f"Insufficient {names[column]}"
        rejections.append(Rejection(short, reason))
    return rejections


def needed(columns: NodeColumns, shape: PodShape, profile: Profile) -> Floats:
    """What the pod must find free, by resource. Shared: do not change."""
    vector = columns.request_vector(shape)
    if not profile.ignored_resources:
        return vector
    return np.where([profile.ignores(name) for name in columns.resources], 0.0, vector)


def could_ever_fit(columns: NodeColumns, shape: PodShape, profile: Profile) -> Mask:
    """Rows that would hold the pod if they were empty."""
    vector = needed(columns, shape, profile)
    asked = np.flatnonzero(vector)
    result: Mask = np.asarray((columns.allocatable[asked] >= vector[asked, None]).all(axis=0))
    return result


def volume_restrictions(ask: Ask) -> list[Rejection]:
    """NoDiskConflict: an in-line disk is on one node once, unless all mount it read-only."""
    rejected = np.zeros(ask.columns.size, dtype=np.bool_)
    for disk, read_only in ask.shape.disks:
        for row, other_read_only in ask.columns.disks.get(disk, ()):
            if not (read_only and other_read_only):
                rejected[row] = True
    return [Rejection(rejected, "node(s) had no available disk", rejected)] if ask.shape.disks else []


def node_volume_limits(ask: Ask) -> list[Rejection]:
    if not ask.volumes or not ask.columns.attachments.limited(ask.volumes):
        return []
    rejected = ask.columns.attachments.exceeded(ask.volumes)
    return [Rejection(rejected, "node(s) exceed max volume count", rejected)]


STATIC: tuple[tuple[str, Filter], ...] = (
    ("NodeUnschedulable", node_unschedulable),
    ("NodeName", node_name),
    ("TaintToleration", taint_toleration),
    ("NodeAffinity", node_affinity),
)
