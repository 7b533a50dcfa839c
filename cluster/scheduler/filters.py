"""Filters: which rows can run a pod at all, and in Kubernetes' words why the others cannot. Pure.

Each filter maps (columns, shape) to a list of (mask of rejected rows, reason); all of them see all rows at once.
Source: kube-scheduler plugins NodeUnschedulable, NodeName, TaintToleration, NodeAffinity, NodePorts, NodeResourcesFit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from cluster.scheduler.columns import NodeColumns, Taint
from cluster.scheduler.shape import PodShape

Mask = NDArray[np.bool_]
Rejection = tuple[Mask, str]
Filter = Callable[[NodeColumns, PodShape], list[Rejection]]

UNSCHEDULABLE_TAINT: Taint = ("node.kubernetes.io/unschedulable", "", "NoSchedule")


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


def _tolerations(shape: PodShape) -> list[dict[str, Any]]:
    return orjson.loads(shape.tolerations) if shape.tolerations else []


def node_unschedulable(columns: NodeColumns, shape: PodShape) -> list[Rejection]:
    if tolerates(_tolerations(shape), UNSCHEDULABLE_TAINT):
        return []
    return [(columns.unschedulable, "node(s) were unschedulable")]


def node_name(columns: NodeColumns, shape: PodShape) -> list[Rejection]:
    if not shape.node_name:
        return []
    rejected = np.ones(columns.size, dtype=np.bool_)
    row = columns.rows.get(shape.node_name)
    if row is not None:
        rejected[row] = False
    return [(rejected, "node(s) didn't match the requested node name")]


def taint_toleration(columns: NodeColumns, shape: PodShape) -> list[Rejection]:
    """One look per distinct set of taints, not per node."""
    tolerations = _tolerations(shape)
    rejections: list[Rejection] = []
    for code, taints in enumerate(columns.taint_sets):
        blocking = next(
            (t for t in taints if t[2] in ("NoSchedule", "NoExecute") and not tolerates(tolerations, t)), None
        )
        if blocking is not None:
            key, value, _ = blocking
            rejections.append((columns.taints == code, f"node(s) had untolerated taint {{{key}: {value}}}"))
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


def node_affinity(columns: NodeColumns, shape: PodShape) -> list[Rejection]:
    fits = np.ones(columns.size, dtype=np.bool_)
    for key, value in shape.node_selector:
        fits &= match_expression(columns, {"key": key, "operator": "In", "values": [value]})
    if shape.node_affinity:
        required = orjson.loads(shape.node_affinity).get("requiredDuringSchedulingIgnoredDuringExecution")
        if required:
            some = np.zeros(columns.size, dtype=np.bool_)
            for term in required["nodeSelectorTerms"]:
                some |= match_term(columns, term)
            fits &= some
    return [(~fits, "node(s) didn't match Pod's node affinity/selector")]


def node_ports(columns: NodeColumns, shape: PodShape) -> list[Rejection]:
    rejected = np.zeros(columns.size, dtype=np.bool_)
    for port in shape.host_ports:
        for row, taken in columns.host_ports.get((port.protocol, port.port), ()):
            if port.collides(taken):
                rejected[row] = True
    return [(rejected, "node(s) didn't have free ports for the requested pod ports")]


def node_resources_fit(columns: NodeColumns, shape: PodShape) -> list[Rejection]:
    vector = columns.request_vector(shape)
    asked = np.flatnonzero(vector)
    short = columns.requested[:, asked] + vector[asked] > columns.allocatable[:, asked]
    names = list(columns.resources)
    return [
        (short[:, i], "Too many pods" if names[column] == "pods" else f"Insufficient {names[column]}")
        for i, column in enumerate(asked)
    ]


DEFAULT_FILTERS: tuple[Filter, ...] = (
    node_unschedulable,
    node_name,
    taint_toleration,
    node_affinity,
    node_ports,
    node_resources_fit,
)
