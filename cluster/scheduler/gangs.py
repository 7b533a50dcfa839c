"""Which pods are placed all or none, as they say it themselves: what Ray calls a placement group. Pure.

A group is a label; how many of it must run together, and how near, its pods say themselves:

    labels:       scheduling.x-k8s.io/pod-group: train            (or pod-group.scheduling.sigs.k8s.io/name)
                  pod-group.scheduling.sigs.k8s.io/min-available: "4"
    annotations:  sk8.io/gang-strategy: PACK | SPREAD | STRICT_PACK | STRICT_SPREAD          (PACK)
                  sk8.io/gang-topology-key: kubernetes.io/hostname        what counts as one place

`gang_place` decides where they go.

Source: the labels of kubernetes-sigs/scheduler-plugins' coscheduling (KEP-42); Ray's placement strategies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PLUGIN = "Coscheduling"
GROUP_LABELS = ("scheduling.x-k8s.io/pod-group", "pod-group.scheduling.sigs.k8s.io/name")
MIN_AVAILABLE = "pod-group.scheduling.sigs.k8s.io/min-available"
STRATEGY, TOPOLOGY_KEY = "sk8.io/gang-strategy", "sk8.io/gang-topology-key"
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
ANNOTATIONS = (STRATEGY, TOPOLOGY_KEY)
HOSTNAME = "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True)
class Gang:
    """`problem` says what is wrong with what the pods say of themselves; then none of them is placed."""

    namespace: str
    name: str
    min_available: int
    strategy: str = "PACK"
    topology_key: str = HOSTNAME
    problem: str = ""

    @property
    def group(self) -> tuple[str, str]:
        return self.namespace, self.name


def group_of(pod: dict[str, Any]) -> tuple[str, str] | None:
    """(namespace, group) of a pod that belongs to one."""
    meta = pod["metadata"]
    labels = meta.get("labels") or {}
    name = next((labels[key] for key in GROUP_LABELS if labels.get(key)), "")
    return (meta.get("namespace", ""), name) if name else None


def gang_of(group: tuple[str, str], pods: Sequence[dict[str, Any]]) -> Gang:
    """What the group's pods say together: the largest size, the first strategy and key that one of them names."""
    namespace, name = group
    sizes, problem = [0], ""
    for pod in pods:
        text = (pod["metadata"].get("labels") or {}).get(MIN_AVAILABLE, "")
        if text.isdigit() and int(text) > 0:
            sizes.append(int(text))
        else:
            said = f"is {text!r}" if text else "is missing"
            problem = f"label {MIN_AVAILABLE} of pod {pod['metadata']['name']} {said}: it must be 1 or more"
    notes = [pod["metadata"].get("annotations") or {} for pod in pods]
    strategy = next((n[STRATEGY] for n in notes if n.get(STRATEGY)), "PACK")
    key = next((n[TOPOLOGY_KEY] for n in notes if n.get(TOPOLOGY_KEY)), HOSTNAME)
    if strategy not in STRATEGIES:
        problem = f"annotation {STRATEGY} is {strategy!r}: use one of {', '.join(STRATEGIES)}"
    return Gang(namespace, name, max(sizes), strategy, key, f"pod group {name}: {problem}" if problem else "")
