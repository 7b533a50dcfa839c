"""The workloads of kube-scheduler's own benchmark (test/integration/scheduler_perf), by name. Pure data and templates.

Each has nodes, pods that are there before, and pods that are measured; amounts are those of its 500-node and 5,000-node
cases. Templates are that benchmark's: 4 CPU, 32 GiB, 110 pods a node; 100m and 500 MiB a pod. Written anew from its
configuration; names of labels and zones may differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
GREEN = {"matchLabels": {"color": "green"}}
Obj = dict[str, Any]


def node(index: int, **labels: str) -> Obj:
    """Ready, in one of three zones."""
    name = f"node-{index}"
    resources = {"cpu": "4", "memory": "32Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {HOST: name, ZONE: f"zone-{index % 3}", **labels}},
        "spec": {},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    }


def pod(name: str, cpu: str = "100m", memory: str = "500Mi", color: str = "green", **spec: Any) -> Obj:
    requests = {"cpu": cpu, "memory": memory}
    container = {"name": "pause", "image": "registry.k8s.io/pause:3.10", "resources": {"requests": requests}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"color": color}},
        "spec": {"containers": [container], **spec},
    }


Template = Callable[[str], Obj]


@dataclass(frozen=True, slots=True)
class Workload:
    """`before`: what is there already, (template, number at 500 nodes, at 5,000); `measured`: pods at each size.
    `goal` in pods/s of the algorithm alone at 5,000 nodes. `event`: what happens beside, or how it differs."""

    name: str
    template: Template
    measured: tuple[int, int] = (1000, 5000)
    before: tuple[tuple[Template, int, int], ...] = ()
    node: Callable[[int], Obj] = node
    goal: float = 2000.0
    event: str = ""

    def counts(self, nodes: int) -> tuple[list[tuple[Template, int]], int]:
        """(templates and numbers of those before, number measured) for a cluster of so many nodes."""
        small = nodes < 5000
        share = min(1.0, nodes / (500 if small else 5000))
        scaled = [(t, max(int((a if small else b) * share), 1)) for t, a, b in self.before]
        return scaled, max(int(self.measured[0 if small else 1] * share), 10)


def _basic(name: str) -> Obj:
    return pod(name)


def _with(**spec: Any) -> Template:
    return lambda name: pod(name, **spec)


def _near(key: str) -> list[Obj]:
    return [{"labelSelector": GREEN, "topologyKey": key, "namespaces": ["default"]}]


def _weighed(key: str) -> list[Obj]:
    return [{"weight": 1, "podAffinityTerm": term} for term in _near(key)]


def _spread(when: str) -> list[Obj]:
    return [{"topologyKey": ZONE, "maxSkew": 5, "whenUnsatisfiable": when, "labelSelector": GREEN}]


def _in_zones(*zones: str) -> Obj:
    expression = {"key": ZONE, "operator": "In", "values": list(zones)}
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}


def _tainted(index: int) -> Obj:
    """A third of the nodes have a taint that the pods do not bear, another third one that they would rather not."""
    made = node(index)
    effect = ("NoSchedule", "PreferNoSchedule", "")[index % 3]
    made["spec"] = {"taints": [{"key": "dedicated", "value": "x", "effect": effect}]} if effect else {}
    return made


_ANTI = _with(affinity={"podAntiAffinity": {REQUIRED: _near(HOST)}})
_AFFINE = _with(affinity={"podAffinity": {REQUIRED: _near(ZONE)}})
_PREFER_NEAR = _with(affinity={"podAffinity": {PREFERRED: _weighed(HOST)}})
_PREFER_FAR = _with(affinity={"podAntiAffinity": {PREFERRED: _weighed(HOST)}})
_SECRETS = _with(volumes=[{"name": "secret", "secret": {"secretName": "secret"}}])
_LOW = _with(cpu="900m", priority=1)
_HIGH = _with(cpu="3", priority=10)
_HUGE = _with(cpu="9")
_GATED = _with(schedulingGates=[{"name": "example.com/wait"}])


def _plain_other(name: str) -> Obj:
    return pod(name, color="blue")


def _claiming(name: str) -> Obj:
    claim = {"claimName": f"claim-{name}"}
    return pod(name, volumes=[{"name": "data", "persistentVolumeClaim": claim}])


_BASE = ((_basic, 500, 1000),)
_MIXED = tuple((t, 100, 1000) for t in (_plain_other, _AFFINE, _ANTI, _PREFER_NEAR, _PREFER_FAR))

ALL: tuple[Workload, ...] = (
    Workload("SchedulingBasic", _basic, before=_BASE, goal=20000.0),
    Workload("SchedulingNodeAffinity", _with(affinity=_in_zones("zone-0", "zone-1")), before=_BASE, goal=20000.0),
    Workload("SchedulingPodAntiAffinity", _ANTI, (400, 1000), ((_ANTI, 100, 1000),)),
    Workload("SchedulingPodAffinity", _AFFINE, before=((_AFFINE, 500, 5000),)),
    Workload("SchedulingPreferredPodAffinity", _PREFER_NEAR, before=((_PREFER_NEAR, 500, 5000),)),
    Workload("SchedulingPreferredPodAntiAffinity", _PREFER_FAR, before=((_PREFER_FAR, 500, 5000),)),
    Workload("TopologySpreading", _with(topologySpreadConstraints=_spread("DoNotSchedule")), before=_BASE),
    Workload("PreferredTopologySpreading", _with(topologySpreadConstraints=_spread("ScheduleAnyway")), before=_BASE),
    Workload("MixedSchedulingBasePod", _basic, before=_MIXED),
    Workload("SchedulingSecrets", _SECRETS, before=((_SECRETS, 500, 5000),), goal=20000.0),
    Workload("SchedulingPVs", _claiming, before=_BASE, event="volumes"),
    Workload("NodesWithTaints", _basic, before=_BASE, node=_tainted, goal=20000.0),
    Workload("Preemption", _HIGH, (500, 1000), ((_LOW, 2000, 20000),), goal=200.0, event="preemption"),
    Workload("Unschedulable", _basic, before=((_HUGE, 200, 200),), goal=20000.0, event="unschedulable"),
    Workload("SchedulingWithGates", _basic, before=((_GATED, 5000, 10000),), goal=20000.0, event="gated"),
    Workload("SchedulingDeletedPods", _basic, before=_BASE, goal=20000.0, event="deleted"),
    Workload("SchedulingWithMixedChurn", _basic, before=_BASE, goal=5000.0, event="churn"),
)
BY_NAME = {workload.name: workload for workload in ALL}


@dataclass(slots=True)
class Names:
    """Names for pods, each once."""

    used: int = 0
    prefix: str = field(default="p-")

    def next(self) -> str:
        self.used += 1
        return f"{self.prefix}{self.used}"
