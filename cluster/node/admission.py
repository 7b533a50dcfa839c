"""The last check before a pod runs here: the kubelet's own admission.

Pure. The scheduler has looked at all of this already, but from a copy that may be old, and pods can be bound by hand.
Source: the kubelet's lifecycle predicates and their words (OutOfcpu, OutOfpods, NodeAffinity).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cluster.api.pods import is_terminal, pod_requests, qos_class
from cluster.node.eviction_rank import is_critical
from cluster.node.host_ports import conflict, used_ports

Obj = dict[str, Any]

SAFE_SYSCTLS = (
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
)
"""Namespaced, and harmless to other pods (Kubernetes: "Using sysctls in a Kubernetes Cluster")."""
_IPC_SYSCTLS = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


def reject(
    pod: Obj,
    others: Iterable[Obj],
    allocatable: Mapping[str, int],
    node_labels: Mapping[str, str],
    allowed_sysctls: Sequence[str] = (),
    pressures: Sequence[str] = (),
) -> tuple[str, str] | None:
    """(reason, message) when the pod cannot run here beside `others`; None when it can."""
    if _refused_for(pod, pressures):
        return "Evicted", f"The node had condition: [{' '.join(pressures)}]. "
    why = _forbidden_sysctl(pod, allowed_sysctls)
    if why:
        return "SysctlForbidden", why
    wanted = pod["spec"].get("nodeSelector") or {}
    if any(node_labels.get(k) != v for k, v in wanted.items()):
        return (
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node selector",
        )
    running = [other for other in others if not is_terminal(other)]
    taken = [port for other in running for port in used_ports(other)]
    if conflict(used_ports(pod), taken):
        why = "node(s) didn't have free ports for the requested pod ports"
        return "NodePorts", f"Predicate NodePorts failed: {why}"
    capacity = allocatable.get("pods", 0)
    if len(running) + 1 > capacity:
        return "OutOfpods", _short("pods", 1, len(running), capacity)
    used: dict[str, int] = {}
    for other in running:
        for resource, amount in pod_requests(other).items():
            used[resource] = used.get(resource, 0) + amount
    for resource, amount in sorted(pod_requests(pod).items()):
        if "/" in resource and resource not in allocatable:
            continue  # the cluster's, not this machine's: somebody wrote it on the Node, and the scheduler counted it
        if amount and used.get(resource, 0) + amount > allocatable.get(resource, 0):
            why = _short(resource, amount, used.get(resource, 0), allocatable.get(resource, 0))
            return f"OutOf{resource}", why
    return None


def judge_resize(pod: Obj, others: Iterable[Obj], allocatable: Mapping[str, int]) -> tuple[str, str]:
    """("", "") when a running pod may have what its spec now asks for, beside what `others` were granted; else
    Deferred (there may be room later) or Infeasible (there never will be), and why."""
    wanted = {k: v for k, v in pod_requests(pod).items() if k in ("cpu", "memory")}
    for resource, amount in sorted(wanted.items()):
        capacity = allocatable.get(resource, 0)
        if amount > capacity:
            why = f"Node didn't have enough capacity: {resource}, requested: {amount}, capacity: {capacity}"
            return "Infeasible", why
    running = [pod_requests(other) for other in others if not is_terminal(other)]
    for resource, amount in sorted(wanted.items()):
        used = sum(requests.get(resource, 0) for requests in running)
        if used + amount > allocatable.get(resource, 0):
            return "Deferred", _short(resource, amount, used, allocatable.get(resource, 0))
    return "", ""


def _refused_for(pod: Obj, pressures: Sequence[str]) -> bool:
    """Whether a machine under pressure takes no such pod: short of memory alone, it still takes all but BestEffort."""
    if not pressures or is_critical(pod):
        return False
    if list(pressures) != ["MemoryPressure"]:
        return True
    tolerated = any(
        t.get("key") in ("node.kubernetes.io/memory-pressure", None, "") and t.get("effect") in (None, "", "NoSchedule")
        for t in pod["spec"].get("tolerations") or ()
    )
    return qos_class(pod) == "BestEffort" and not tolerated


def _forbidden_sysctl(pod: Obj, allowed: Sequence[str]) -> str:
    """Why a sysctl of the pod may not be set, "" when all may; `allowed` may end in * (--allowed-unsafe-sysctls)."""
    spec = pod["spec"]
    for entry in (spec.get("securityContext") or {}).get("sysctls") or ():
        name = str(entry["name"]).replace("/", ".")
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in (*SAFE_SYSCTLS, *allowed)):
            return f'forbidden sysctl: "{name}" not allowlisted'
        if spec.get("hostNetwork") and name.startswith("net."):
            return f'forbidden sysctl: "{name}" not allowed with host net enabled'
        if spec.get("hostIPC") and name.startswith(_IPC_SYSCTLS):
            return f'forbidden sysctl: "{name}" not allowed with host ipc enabled'
    return ""


def _short(resource: str, requested: int, used: int, capacity: int) -> str:
    return f"Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
