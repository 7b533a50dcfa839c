"""How many machines of which type a cluster needs: pure decisions of the cluster autoscaler.

Pure. Source: Kubernetes' cluster-autoscaler (FAQ): a pod that no node fits asks for one; a node whose pods ask for less
than half of it, and would all fit elsewhere, is not needed; one that was not needed for ten minutes is drained. What a
new machine of a type would be like is its `NodeType`, used as if it were an empty Node.

    Pending, Unschedulable ──first type that fits, least wasted──> one machine more (up to the type's max)
    under-used, movable ──delay──> unneeded ──drained──> released (down to the type's min)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.api.placement import affinity_allows, untolerated
from cluster.api.pods import amounts, is_static, is_terminal, is_terminating, pod_requests
from cluster.api.selectors import from_label_selector
from cluster.machinery.client import Obj
from cluster.machinery.provider import NodeType

SAFE = "cluster-autoscaler.kubernetes.io/safe-to-evict"
DISABLED = "cluster-autoscaler.kubernetes.io/scale-down-disabled"
GOING = "ToBeDeletedByClusterAutoscaler"
_HARD = ("NoSchedule", "NoExecute")
_LOCAL = ("emptyDir", "hostPath")
_MAX_REACHED = "max node group size reached"


@dataclass(slots=True)
class Room:
    """What is left of a machine; `node` has its labels and taints."""

    node: Obj
    free: dict[str, int]
    type_name: str = ""

    def problem(self, pod: Obj) -> str:
        """Why the pod does not fit, in the scheduler's words; "" when it does."""
        spec = pod["spec"]
        if untolerated(self.node["spec"].get("taints") or (), spec.get("tolerations") or (), _HARD) is not None:
            return "node(s) had untolerated taint(s)"
        if not affinity_allows(spec, self.node):
            return "node(s) didn't match Pod's node affinity/selector"
        wanted = {**pod_requests(pod), "pods": 1}
        short = next((r for r, v in sorted(wanted.items()) if v > self.free.get(r, 0)), "")
        if short == "pods":
            return "Too many pods"
        return f"Insufficient {short}" if short else ""

    def take(self, pod: Obj) -> None:
        for resource, amount in {**pod_requests(pod), "pods": 1}.items():
            self.free[resource] = self.free.get(resource, 0) - amount


@dataclass(frozen=True, slots=True)
class ScaleUp:
    """`counts`: machines wanted by type. `triggered`: each pod and the type that grows for it; `refused`: each pod and
    why none does, with how many types say so."""

    counts: Mapping[str, int]
    triggered: tuple[tuple[Obj, str], ...] = ()
    refused: tuple[tuple[Obj, Mapping[str, int]], ...] = ()


def needs_machine(pod: Obj) -> bool:
    """The scheduler found no node for it, and a larger cluster might help. A DaemonSet's pod is for a node there is."""
    if pod["spec"].get("nodeName") or is_terminal(pod) or is_terminating(pod) or _of_daemon(pod):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "PodScheduled" and c.get("reason") == "Unschedulable" for c in conditions)


def rooms(nodes: Sequence[Obj], pods: Sequence[Obj]) -> dict[str, Room]:
    """By name, what is left of each Node that may take pods."""
    found = {n["metadata"]["name"]: Room(n, amounts((n.get("status") or {}).get("allocatable"))) for n in nodes}
    for pod in pods:
        room = found.get(pod["spec"].get("nodeName", ""))
        if room is not None and not is_terminal(pod):
            room.take(pod)
    return {name: r for name, r in found.items() if not r.node["spec"].get("unschedulable") and not is_going(r.node)}


def scale_up(
    pending: Sequence[Obj],
    there: Sequence[Room],
    types: Sequence[NodeType],
    have: Mapping[str, int],
    coming: Mapping[str, int],
) -> ScaleUp:
    """`have`: machines by type, those on their way included; `coming`: only those on their way, which are still empty.

    The largest pods first; each into what is there, then what is coming, then a new machine of the type of which it
    leaves the least unused."""
    by_name = {t.name: t for t in types}
    space = [
        *there,
        *(_empty(by_name[name]) for name, n in sorted(coming.items()) if name in by_name for _ in range(n)),
    ]
    counts = {t.name: max(have.get(t.name, 0), t.min_count) for t in types}
    triggered: list[tuple[Obj, str]] = []
    refused: list[tuple[Obj, Mapping[str, int]]] = []
    for pod in sorted(pending, key=_size, reverse=True):
        room = next((r for r in space if not r.problem(pod)), None)
        if room is None:
            room, why = _new_room(pod, types, counts)
            if room is None:
                refused.append((pod, why))
                continue
            counts[room.type_name] += 1
            space.append(room)
        if room.type_name and room.type_name in by_name:
            triggered.append((pod, room.type_name))
        room.take(pod)
    return ScaleUp(counts, tuple(triggered), tuple(refused))


def _new_room(pod: Obj, types: Sequence[NodeType], counts: Mapping[str, int]) -> tuple[Room | None, dict[str, int]]:
    why: dict[str, int] = {}
    fitting: list[Room] = []
    for kind in types:
        room = _empty(kind)
        problem = room.problem(pod)
        if not problem and counts[kind.name] >= kind.max_count:
            problem = _MAX_REACHED
        if problem:
            why[problem] = why.get(problem, 0) + 1
        else:
            fitting.append(room)
    return min(fitting, key=lambda r: (_waste(r, pod), r.type_name), default=None), why


def _empty(kind: NodeType) -> Room:
    node: Obj = {
        "metadata": {"name": f"new-{kind.name}", "labels": dict(kind.labels)},
        "spec": {"taints": [dict(t) for t in kind.taints]},
    }
    return Room(node, dict(kind.allocatable), kind.name)


def _waste(room: Room, pod: Obj) -> float:
    """The share of processors and memory that stays unused, 0 to 2."""
    wanted = pod_requests(pod)
    return sum(1 - wanted.get(r, 0) / room.free[r] for r in ("cpu", "memory") if room.free.get(r))


def _size(pod: Obj) -> tuple[int, int, str]:
    wanted = pod_requests(pod)
    return wanted.get("cpu", 0), wanted.get("memory", 0), str(pod["metadata"]["uid"])


# ---- down


@dataclass(frozen=True, slots=True)
class ScaleDownRules:
    """cluster-autoscaler's flags: --scale-down-unneeded-time, --scale-down-utilization-threshold."""

    unneeded_s: float = 600.0
    utilization: float = 0.5


@dataclass(frozen=True, slots=True)
class ScaleDown:
    """`unneeded`: since when, by node, to be handed in again; `drain`: the node to go now, "" for none;
    `recheck_after_s` is when the next may be due."""

    unneeded: Mapping[str, float] = field(default_factory=dict)
    drain: str = ""
    recheck_after_s: float | None = None


def scale_down(
    nodes: Mapping[str, str],
    there: Mapping[str, Room],
    pods: Sequence[Obj],
    budgets: Sequence[Obj],
    types: Sequence[NodeType],
    unneeded: Mapping[str, float],
    rules: ScaleDownRules,
    now: float,
) -> ScaleDown:
    """`nodes`: the type of each Node that is ours to release. One node goes at a time, so that what moved is seen."""
    by_type = {t.name: t for t in types}
    counts = {name: sum(kind == name for kind in nodes.values()) for name in by_type}
    idle: dict[str, float] = {}
    for name, kind in sorted(nodes.items()):
        spare = kind in by_type and counts[kind] > by_type[kind].min_count
        if spare and name in there and _is_unneeded(name, there, pods, budgets, rules):
            idle[name] = unneeded.get(name, now)
    due = {name: since + rules.unneeded_s - now for name, since in idle.items()}
    ready = min((n for n, left in due.items() if left <= 0), key=lambda n: (idle[n], n), default="")
    later = [left for left in due.values() if left > 0]
    return ScaleDown(idle, ready, min(later) if later else None)


def _is_unneeded(
    name: str, there: Mapping[str, Room], pods: Sequence[Obj], budgets: Sequence[Obj], rules: ScaleDownRules
) -> bool:
    node = there[name].node
    if (node["metadata"].get("annotations") or {}).get(DISABLED) == "true":
        return False
    own = [p for p in pods if p["spec"].get("nodeName") == name and not is_terminal(p) and moves(p)]
    whole = amounts((node.get("status") or {}).get("allocatable"))
    used = {r: sum(pod_requests(p).get(r, 0) for p in own) for r in ("cpu", "memory")}
    if any(whole.get(r) and used[r] / whole[r] >= rules.utilization for r in used):
        return False
    if any(blocks(p, budgets) for p in own):
        return False
    others = [Room(r.node, dict(r.free), r.type_name) for n, r in sorted(there.items()) if n != name]
    for pod in sorted(own, key=_size, reverse=True):
        room = next((r for r in others if not r.problem(pod)), None)
        if room is None:
            return False
        room.take(pod)
    return True


def moves(pod: Obj) -> bool:
    """It has to be somewhere else when its node goes: not a DaemonSet's, nor a node's own."""
    return not _of_daemon(pod) and not is_static(pod)


def blocks(pod: Obj, budgets: Sequence[Obj]) -> str:
    """Why this pod keeps its node, "" when it does not. `budgets`: those that select it, with their status."""
    meta = pod["metadata"]
    word = (meta.get("annotations") or {}).get(SAFE)
    if word == "false":
        return "it is annotated as not safe to evict"
    mine = [b for b in budgets if _selects(b, pod)]
    if any((b.get("status") or {}).get("disruptionsAllowed", 0) < 1 for b in mine):
        return "its disruption budget allows no disruption"
    if word == "true":
        return ""
    if not any(r.get("controller") for r in meta.get("ownerReferences") or ()):
        return "no controller would make it again"
    if meta["namespace"] == "kube-system" and not mine:
        return "it is of the system and has no disruption budget"
    if any(kind in v for v in pod["spec"].get("volumes") or () for kind in _LOCAL):
        return "it has local storage"
    return ""


def _selects(budget: Obj, pod: Obj) -> bool:
    if budget["metadata"]["namespace"] != pod["metadata"]["namespace"]:
        return False
    return from_label_selector(budget["spec"].get("selector")).matches(pod["metadata"].get("labels") or {})


def is_going(node: Obj) -> bool:
    """It was chosen to be released."""
    return any(t["key"] == GOING for t in node["spec"].get("taints") or ())


def _of_daemon(pod: Obj) -> bool:
    return any(
        r.get("kind") == "DaemonSet" and r.get("controller") for r in pod["metadata"].get("ownerReferences") or ()
    )
