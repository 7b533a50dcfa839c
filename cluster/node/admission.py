"""The last check before a pod runs here: the kubelet's own admission.

Pure. The scheduler has looked at all of this already, but from a copy that may be old, and pods can be bound by hand.
Source: the kubelet's lifecycle predicates and their words (OutOfcpu, OutOfpods, NodeAffinity).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.api.pods import is_terminal, pod_requests
from cluster.node.pod_config import unsupported

Obj = dict[str, Any]


def reject(
    pod: Obj, others: Iterable[Obj], allocatable: Mapping[str, int], node_labels: Mapping[str, str]
) -> tuple[str, str] | None:
    """(reason, message) when the pod cannot run here beside `others`; None when it can."""
    why = unsupported(pod)
    if why:
        return "UnexpectedAdmissionError", why
    wanted = pod["spec"].get("nodeSelector") or {}
    if any(node_labels.get(k) != v for k, v in wanted.items()):
        return (
            "NodeAffinity",
            "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node selector",
        )
    running = [other for other in others if not is_terminal(other)]
    capacity = allocatable.get("pods", 0)
    if len(running) + 1 > capacity:
        return "OutOfpods", _short("pods", 1, len(running), capacity)
    used: dict[str, int] = {}
    for other in running:
        for resource, amount in pod_requests(other).items():
            used[resource] = used.get(resource, 0) + amount
    for resource, amount in sorted(pod_requests(pod).items()):
        if amount and used.get(resource, 0) + amount > allocatable.get(resource, 0):
            return f"OutOf{resource}", _short(resource, amount, used.get(resource, 0), allocatable.get(resource, 0))
    return None


def _short(resource: str, requested: int, used: int, capacity: int) -> str:
    return (
        f"Pod was rejected: Node didn't have enough resource: {resource}, "
        f"requested: {requested}, used: {used}, capacity: {capacity}"
    )
