"""The control groups of a machine's pods: where each pod's is, and what is written into it.

Pure. The hierarchy and the values are the kubelet's (--cgroups-per-qos; "Node Allocatable", "Configure Quality of
Service"):

    <root>/kubepods                      what pods may use at all: capacity less what is reserved
    <root>/kubepods/pod<uid>             Guaranteed
    <root>/kubepods/burstable/pod<uid>   the tier's shares are the sum of its pods' requests
    <root>/kubepods/besteffort/pod<uid>  the tier has 2 shares: what is left over

A pod's shares are the sum of its requests; it has a quota, or a memory limit, only when all of its containers have one.
To its memory comes what its sandbox needs, so that a container meets its own limit before its pod's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.api.pods import pod_limits, pod_requests, qos_class

Obj = dict[str, Any]
CPU_PERIOD_US = 100_000
MIN_SHARES, MAX_SHARES = 2, 262_144
MIN_QUOTA_US = 1000
SANDBOX_BYTES = 8 << 20
TIERS = {"Guaranteed": "", "Burstable": "burstable", "BestEffort": "besteffort"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one group; None leaves a value as it is, -1 means no limit."""

    cpu_shares: int | None = None
    cpu_quota_us: int | None = None
    memory_bytes: int | None = None
    pids: int | None = None


def pods_root(cgroup_root: str) -> str:
    return f"{cgroup_root.rstrip('/')}/kubepods"


def pod_path(root: str, pod: Obj) -> str:
    """`root`: as pods_root says."""
    tier = TIERS[qos_class(pod)]
    return "/".join(part for part in (root, tier, f"pod{pod['metadata']['uid']}") if part)


def shares(millicores: int) -> int:
    return min(max(millicores * 1024 // 1000, MIN_SHARES), MAX_SHARES)


def quota_us(millicores: int) -> int:
    return max(millicores * CPU_PERIOD_US // 1000, MIN_QUOTA_US)


def _all_limit(pod: Obj, resource: str) -> bool:
    """Whether the pod's limit of a resource is one: each container has one, or the pod itself."""
    spec = pod["spec"]
    if resource in ((spec.get("resources") or {}).get("limits") or {}):
        return True
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    return all(resource in ((c.get("resources") or {}).get("limits") or {}) for c in containers)


def pod_group(pod: Obj, max_pids: int) -> Limits:
    """`max_pids`: -1 for no limit (--pod-max-pids)."""
    most = pod_limits(pod)
    cpu = most.get("cpu", 0) if _all_limit(pod, "cpu") else 0
    memory = most.get("memory", 0) if _all_limit(pod, "memory") else 0
    return Limits(
        cpu_shares=shares(pod_requests(pod).get("cpu", 0)),
        cpu_quota_us=quota_us(cpu) if cpu else -1,
        memory_bytes=memory + SANDBOX_BYTES if memory else -1,
        pids=max_pids,
    )


def tier_groups(pods: Iterable[Obj]) -> dict[str, Limits]:
    """By the tier's name; the Guaranteed pods have none."""
    burstable = sum(pod_requests(p).get("cpu", 0) for p in pods if qos_class(p) == "Burstable")
    return {"burstable": Limits(cpu_shares=shares(burstable)), "besteffort": Limits(cpu_shares=MIN_SHARES)}


def files_v1(limits: Limits) -> list[tuple[str, str, str]]:
    """(controller, file, content) for cgroup version 1."""
    out = []
    if limits.cpu_shares is not None:
        out.append(("cpu", "cpu.shares", str(limits.cpu_shares)))
    if limits.cpu_quota_us is not None:
        out.append(("cpu", "cpu.cfs_period_us", str(CPU_PERIOD_US)))
        out.append(("cpu", "cpu.cfs_quota_us", str(limits.cpu_quota_us)))
    if limits.memory_bytes is not None:
        out.append(("memory", "memory.limit_in_bytes", str(limits.memory_bytes)))
    if limits.pids is not None:
        out.append(("pids", "pids.max", _or_max(limits.pids)))
    return out


def files_v2(limits: Limits) -> list[tuple[str, str]]:
    """(file, content) for cgroup version 2; shares become a weight as in KEP-2254."""
    out = []
    if limits.cpu_shares is not None:
        weight = 1 + (limits.cpu_shares - MIN_SHARES) * 9999 // (MAX_SHARES - MIN_SHARES)
        out.append(("cpu.weight", str(weight)))
    if limits.cpu_quota_us is not None:
        out.append(("cpu.max", f"{_or_max(limits.cpu_quota_us)} {CPU_PERIOD_US}"))
    if limits.memory_bytes is not None:
        out.append(("memory.max", _or_max(limits.memory_bytes)))
    if limits.pids is not None:
        out.append(("pids.max", _or_max(limits.pids)))
    return out


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)
