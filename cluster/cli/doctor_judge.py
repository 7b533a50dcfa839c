"""What is wrong with a running cluster, why, and what to do: a function of facts. Pure; `doctor.py` gathers them.

Worst first: what makes other findings likely comes before them, so the first line is the one to act on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Object = Mapping[str, Any]
Level = Literal["error", "warning"]
_DAY_S = 86_400.0
_NO_IMAGE = "the image is not in the engine, and no registry has it: docker images, or set a registry mirror"
_WAITING = {
    "ErrImagePull": _NO_IMAGE,
    "ImagePullBackOff": _NO_IMAGE,
    "ErrImageNeverPull": "its imagePullPolicy is Never and the image is not in the engine",
    "CrashLoopBackOff": "it ends again and again: kubectl logs --previous",
    "CreateContainerConfigError": "a ConfigMap, Secret or key it needs is not there: kubectl describe pod",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """All as seen at `now` (s since the epoch). `power` is each machine's state by name; `certificates`: file to the
    moment it ends; `store` is `store_status`'s answer; what could not be asked is empty, and `unanswered` says what.
    """

    now: float
    agent: bool
    power: Mapping[str, str] = field(default_factory=dict)
    unanswered: Sequence[str] = ()
    store: Object = field(default_factory=dict)
    control_planes: int = 0
    leaders: Mapping[str, str] = field(default_factory=dict)
    nodes: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    claims: Sequence[Object] = ()
    certificates: Mapping[str, float] = field(default_factory=dict)
    disk_free_bytes: int = 1 << 40
    memory_free_bytes: int = 1 << 40


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    message: str
    fix: str


def judge(facts: Facts) -> list[Finding]:
    """Nothing found means that nothing known to go wrong has."""
    rules: Sequence[Callable[[Facts], Iterator[Finding]]] = (
        _box, _machines, _store, _api, _certificates, _leaders, _nodes, _pods, _claims,
    )  # fmt: skip
    found = [finding for rule in rules for finding in rule(facts)]
    return sorted(found, key=lambda finding: finding.level != "error")


def _box(facts: Facts) -> Iterator[Finding]:
    if facts.disk_free_bytes < 2 << 30:
        free = facts.disk_free_bytes >> 20
        yield Finding("error", f"{free} MiB of disk are left; the store stops when it cannot write", "free some space")
    if facts.memory_free_bytes < 500 << 20:
        free = facts.memory_free_bytes >> 20
        yield Finding("warning", f"{free} MiB of memory are left on this box", "fewer pods, or limits on them")


def _machines(facts: Facts) -> Iterator[Finding]:
    if not facts.agent:
        yield Finding("error", "the host agent does not answer: the API is not forwarded to this box", "sk8 up")
    for name, state in facts.power.items():
        if state != "running":
            yield Finding("error", f"machine {name} is {state}", f"sk8 machine start {name}")


def _store(facts: Facts) -> Iterator[Finding]:
    members = facts.store.get("members", [])
    if not members:
        if facts.agent:
            yield Finding("error", "no member of the store answers; nothing can be read or written", "state-*.log")
        return
    silent = [m["name"] for m in members if not m["answers"]]
    if not facts.store.get("leader"):
        named = f"; silent: {', '.join(silent)}" if silent else ""
        yield Finding("error", f"the store has no leader{named}", "two of three members must run: sk8 machine list")
    for name in silent:
        yield Finding("error", f"the store's member on {name} is silent", f"state-{name}.log; sk8 machine start {name}")
    voters = [m for m in members if not m["learner"]]
    if len(voters) < facts.control_planes:
        text = f"the store has {len(voters)} voters for {facts.control_planes} control planes"
        yield Finding("warning", text, "a replaced member is a learner until it has caught up: sk8 member list")
    behind = [m for m in members if m["answers"] and m["revision"] + 10_000 < facts.store.get("revision", 0)]
    for member in behind:
        lag = facts.store["revision"] - member["revision"]
        yield Finding(
            "warning", f"the member on {member['name']} is {lag} revisions behind", "its disk or link is slow"
        )
    for alarm in facts.store.get("alarms", ()):
        yield Finding("error", f"the store raised the alarm {alarm}", "sk8 store alarms says what to do")


def _api(facts: Facts) -> Iterator[Finding]:
    for what in facts.unanswered:
        yield Finding("error", f"the API did not answer: {what}", "apiserver-*.log; has the store a leader?")


def _certificates(facts: Facts) -> Iterator[Finding]:
    for name, until in facts.certificates.items():
        left = (until - facts.now) / _DAY_S
        if left < 0:
            yield Finding(
                "error", f"{name} ended {-left:.0f} days ago", "is the clock right? else its owner must join anew"
            )
        elif left < 14:
            yield Finding("warning", f"{name} ends in {left:.0f} days", "machines renew theirs when they start")


def _leaders(facts: Facts) -> Iterator[Finding]:
    for lease in ("kube-scheduler", "kube-controller-manager"):
        if facts.leaders and not facts.leaders.get(lease):
            part = lease.removeprefix("kube-").removesuffix("-manager")
            yield Finding(
                "error", f"nobody leads as {lease}: its work stands still", f"{part}*.log of the control planes"
            )


def _condition(obj: Object, kind: str) -> Object:
    conditions = obj.get("status", {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == kind), {})


def _nodes(facts: Facts) -> Iterator[Finding]:
    names = {node["metadata"]["name"] for node in facts.nodes}
    for machine in facts.power:
        if facts.nodes and machine not in names:
            yield Finding(
                "error", f"machine {machine} has no Node: its kubelet never came up", f"kubelet-{machine}.log"
            )
    for node in facts.nodes:
        name = node["metadata"]["name"]
        ready = _condition(node, "Ready")
        if ready.get("status") != "True" and facts.power.get(name, "running") == "running":
            yield Finding("error", f"node {name} is not Ready: {ready.get('message', '?')}", f"kubelet-{name}.log")
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure"):
            if _condition(node, kind).get("status") == "True":
                yield Finding("warning", f"node {name} has {kind}: pods are evicted", f"kubectl describe node {name}")
        if node.get("spec", {}).get("unschedulable"):
            yield Finding("warning", f"node {name} is cordoned", f"kubectl uncordon {name}")


def _pods(facts: Facts) -> Iterator[Finding]:
    for pod in facts.pods:
        name = f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}"
        status = pod.get("status", {})
        scheduled = _condition(pod, "PodScheduled")
        if status.get("phase") == "Pending" and scheduled.get("status") == "False":
            yield Finding(
                "warning", f"pod {name} has no node: {scheduled.get('message', '')}", "sk8 explain says it per node"
            )
        if status.get("phase") == "Failed":
            why = status.get("reason") or status.get("message") or "a container failed"
            yield Finding("warning", f"pod {name} failed: {why}", "kubectl describe pod")
        for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            yield from _container(name, container)
        deleted = pod["metadata"].get("deletionTimestamp")
        if (
            deleted
            and facts.power.get(str(pod["spec"].get("nodeName"))) == "running"
            and pod["metadata"].get("finalizers")
        ):
            held = ", ".join(pod["metadata"]["finalizers"])
            yield Finding(
                "warning", f"pod {name} is deleted but kept by {held}", "whoever set the finalizer must remove it"
            )


def _container(pod: str, container: Object) -> Iterator[Finding]:
    waiting = (container.get("state") or {}).get("waiting") or {}
    fix = _WAITING.get(waiting.get("reason", ""))
    if fix:
        said = f": {waiting['message']}" if waiting.get("message") else ""
        yield Finding("warning", f"{pod}, container {container['name']}: {waiting['reason']}{said}", fix)
    last = ((container.get("lastState") or {}).get("terminated")) or {}
    if last.get("reason") == "OOMKilled":
        text = (
            f"{pod}, container {container['name']} was killed for want of memory, {container['restartCount']} restarts"
        )
        yield Finding("warning", text, "raise its memory limit")


def _claims(facts: Facts) -> Iterator[Finding]:
    for claim in facts.claims:
        phase = claim.get("status", {}).get("phase")
        if phase in ("Pending", "Lost"):
            name = f"{claim['metadata'].get('namespace')}/{claim['metadata']['name']}"
            level: Level = "error" if phase == "Lost" else "warning"
            yield Finding(
                level, f"claim {name} is {phase}", f"kubectl describe pvc -n {claim['metadata'].get('namespace')}"
            )
