"""The Node object a kubelet keeps: what the machine is, what it has, and whether it can run pods.

Pure, but for `machine_facts`, which reads the machine once. Source: Kubernetes' API reference (NodeStatus) and the
kubelet's condition reasons and messages.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cluster.api.meta import rfc3339
from cluster.api.pods import amounts, is_extended
from cluster.api.quantity import Format, format_quantity, parse_quantity
from cluster.node.cgroup_plan import Limits, shares
from cluster.node.config import KubeletConfig
from cluster.node.eviction import amount_of
from cluster.node.runtime import ImageEntry

Obj = dict[str, Any]
KUBELET_VERSION = "v1.34.0+sk8"
_MAX_IMAGES = 50
_MAX_NAMES = 5


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What does not change while the kubelet runs."""

    cpu_count: int
    memory_bytes: int
    disk_bytes: int
    machine_id: str
    system_uuid: str
    boot_id: str
    kernel: str
    os_image: str
    arch: str


@dataclass(frozen=True, slots=True)
class Health:
    """Why the node is not ready; empty strings mean that it is."""

    runtime: str = ""
    network: str = ""
    pressures: tuple[str, ...] = ()  # MemoryPressure, DiskPressure, PIDPressure


def machine_facts(root_dir: str) -> MachineFacts:
    """Blocking, fast."""
    existing = Path(root_dir)
    while not existing.exists():
        existing = existing.parent
    disk = os.statvfs(existing)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return MachineFacts(
        cpu_count=os.cpu_count() or 1,
        memory_bytes=memory,
        disk_bytes=disk.f_blocks * disk.f_frsize,
        machine_id=_first_line("/etc/machine-id"),
        system_uuid=_first_line("/sys/class/dmi/id/product_uuid"),
        boot_id=_first_line("/proc/sys/kernel/random/boot_id"),
        kernel=platform.release(),
        os_image=_os_image(),
        arch=arch,
    )


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _os_image() -> str:
    for line in _first_line("/etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip('"')
    return "Linux"


def capacity(config: KubeletConfig, facts: MachineFacts) -> dict[str, str]:
    """The machine's share of its box, as quantities."""
    memory = config.memory or f"{facts.memory_bytes // 1024}Ki"
    disk = config.ephemeral_storage or f"{facts.disk_bytes // 1024}Ki"
    return {
        "cpu": format_quantity(parse_quantity(config.cpu or str(facts.cpu_count))),
        "memory": memory,
        "ephemeral-storage": disk,
        "pods": str(config.max_pods),
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
        **config.extended_resources,
    }


def allocatable(config: KubeletConfig, has: Mapping[str, str]) -> dict[str, str]:
    """What is left for pods: the capacity less what is reserved and what eviction keeps free ("Node Allocatable")."""
    free = dict(has)
    signals = {"memory": "memory.available", "ephemeral-storage": "nodefs.available"}
    for resource in ("cpu", "memory", "ephemeral-storage"):
        total = parse_quantity(has[resource])
        kept = _reserved(config, resource)
        limit = config.eviction_hard.get(signals.get(resource, ""), "")
        kept += amount_of(limit, int(total)) if limit else 0
        if kept:
            family: Format = "DecimalSI" if resource == "cpu" else "BinarySI"
            free[resource] = format_quantity(max(total - kept, Fraction(0)), family)
    return free


def _reserved(config: KubeletConfig, resource: str) -> Fraction:
    tables = (config.kube_reserved, config.system_reserved)
    return sum((parse_quantity(table.get(resource, "0")) for table in tables), Fraction(0))


def node_group(config: KubeletConfig, has: Mapping[str, str]) -> Limits:
    """What the pods' control group may use: all that is not reserved; eviction acts before its limit is met."""
    memory = max(parse_quantity(has["memory"]) - _reserved(config, "memory"), Fraction(0))
    cpu = max(parse_quantity(has["cpu"]) - _reserved(config, "cpu"), Fraction(0))
    enforced = "pods" in config.enforce_node_allocatable
    return Limits(cpu_shares=shares(int(cpu * 1000)), memory_bytes=int(memory) if enforced else -1)


def allocatable_amounts(given: Mapping[str, str]) -> dict[str, int]:
    """cpu in millicores, the rest in units."""
    return amounts(given)


def conditions(health: Health, previous: Sequence[Obj], now: float) -> list[Obj]:
    """The kubelet's conditions; a transition time moves only with its status."""
    not_ready = "; ".join(w for w in (health.runtime, health.network) if w)
    wanted = [
        *(_pressure(kind, kind in health.pressures) for kind in _CALM),
        {
            "type": "Ready",
            "status": "False" if not_ready else "True",
            "reason": "KubeletNotReady" if not_ready else "KubeletReady",
            "message": not_ready or "kubelet is posting ready status",
        },
    ]
    known = {c["type"]: c for c in previous}
    for condition in wanted:
        old = known.get(condition["type"])
        same = old is not None and old.get("status") == condition["status"] and old.get("lastTransitionTime")
        condition["lastHeartbeatTime"] = rfc3339(now)
        condition["lastTransitionTime"] = old["lastTransitionTime"] if old and same else rfc3339(now)
    return wanted


_CALM = {
    "MemoryPressure": ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    "DiskPressure": ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    "PIDPressure": ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
}
_PRESSED = {
    "MemoryPressure": ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    "DiskPressure": ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    "PIDPressure": ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
}


def _pressure(kind: str, pressed: bool) -> Obj:
    reason, message = (_PRESSED if pressed else _CALM)[kind]
    return {"type": kind, "status": "True" if pressed else "False", "reason": reason, "message": message}


def node_object(config: KubeletConfig) -> Obj:
    """The Node as it is first created; its status follows."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": config.node_name,
            "labels": config.labels(),
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "spec": {"taints": [dict(t) for t in config.register_with_taints]} if config.register_with_taints else {},
    }


def advertised(node: Obj | None) -> dict[str, str]:
    """Extended resources that somebody wrote into the Node's capacity: how to have one without a device plugin
    (Kubernetes: "Advertise Extended Resources for a Node"). If nothing of it is allocatable, its plugin went away."""
    status = (node or {}).get("status") or {}
    usable = status.get("allocatable") or {}
    capacity = status.get("capacity") or {}
    return {k: str(v) for k, v in capacity.items() if is_extended(k) and str(usable.get(k)) != "0"}


def withdrawn(node: Obj | None) -> dict[str, None]:
    """Of allocatable: what is no more in the Node's capacity, as a patch takes it away."""
    status = (node or {}).get("status") or {}
    usable, capacity = status.get("allocatable") or {}, status.get("capacity") or {}
    return {name: None for name in usable if is_extended(name) and name not in capacity}


def node_status(
    config: KubeletConfig,
    facts: MachineFacts,
    *,
    runtime_version: str,
    health: Health,
    images: Iterable[ImageEntry],
    volumes_in_use: Sequence[str],
    devices: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {}),
    extended: Mapping[str, str] = MappingProxyType({}),
    previous: Sequence[Obj],
    now: float,
) -> Obj:
    """The whole status the kubelet owns. `devices`: how many there are, and how many may be used, by resource;
    `extended`: resources that are no device plugin's, whose capacity is somebody else's to say."""
    has = capacity(config, facts)
    plugged, usable = ({name: str(count) for name, count in counts.items()} for counts in devices)
    named = [image for image in images if image.names]
    listed = sorted(named, key=lambda image: (-image.size_bytes, image.names))[:_MAX_IMAGES]
    return {
        "addresses": _addresses(config),
        "capacity": has | plugged,
        "allocatable": {**allocatable(config, has), **extended, **usable},
        "conditions": conditions(health, previous, now),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.port}},
        "nodeInfo": {
            "machineID": facts.machine_id,
            "systemUUID": facts.system_uuid,
            "bootID": facts.boot_id,
            "kernelVersion": facts.kernel,
            "osImage": facts.os_image,
            "containerRuntimeVersion": runtime_version or "unknown://",
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": KUBELET_VERSION,
            "operatingSystem": "linux",
            "architecture": facts.arch,
        },
        "images": [{"names": list(image.names[:_MAX_NAMES]), "sizeBytes": image.size_bytes} for image in listed],
        "volumesInUse": list(volumes_in_use),
    }


def _addresses(config: KubeletConfig) -> list[Obj]:
    """A hollow node has no address."""
    internal = [{"type": "InternalIP", "address": address} for address in config.node_ips if address]
    return [*internal, {"type": "Hostname", "address": config.node_name}]


def without_heartbeats(status: Obj) -> Obj:
    """The status without the times that change when nothing else does."""
    plain = [{k: v for k, v in c.items() if k != "lastHeartbeatTime"} for c in status["conditions"]]
    return {**status, "conditions": plain}
