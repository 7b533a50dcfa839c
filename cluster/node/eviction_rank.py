"""Who has to go when the machine runs short, and what is said to them.

Pure. Order as Kubernetes' eviction manager: pods that use more than they requested come first, then lower priority,
then who uses most beyond its request (of processes: who has most). Static pods and those of a system-critical priority
are never evicted. Messages are Kubernetes' own, word for word, because people and tools match them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.api.pods import amounts, is_static, pod_requests
from cluster.api.quantity import format_quantity
from cluster.node.eviction import Reclaim, amount_of

Obj = dict[str, Any]
SYSTEM_CRITICAL_PRIORITY = 2_000_000_000


@dataclass(frozen=True, slots=True)
class ContainerUse:
    memory_bytes: int = 0
    disk_bytes: int = 0  # writable layer and log


@dataclass(frozen=True, slots=True)
class PodUse:
    """What a pod uses now. `volumes`: bytes of each emptyDir; those in memory (`memory_volumes`) are no disk."""

    pod: Obj
    containers: Mapping[str, ContainerUse] = field(default_factory=dict)
    volumes: Mapping[str, int] = field(default_factory=dict)
    memory_volumes: frozenset[str] = frozenset()
    inodes: int = 0
    processes: int = 0

    @property
    def memory_bytes(self) -> int:
        return sum(c.memory_bytes for c in self.containers.values())

    @property
    def disk_bytes(self) -> int:
        on_disk = sum(used for name, used in self.volumes.items() if name not in self.memory_volumes)
        return on_disk + sum(c.disk_bytes for c in self.containers.values())


def is_critical(pod: Obj) -> bool:
    """Static, mirror, or of a system-critical priority: such a pod is neither evicted nor refused for pressure."""
    source = (pod["metadata"].get("annotations") or {}).get("kubernetes.io/config.source", "api")
    return is_static(pod) or source != "api" or priority(pod) >= SYSTEM_CRITICAL_PRIORITY


def priority(pod: Obj) -> int:
    return int(pod["spec"].get("priority") or 0)


_USED: dict[str, Callable[[PodUse], int]] = {
    "memory": lambda use: use.memory_bytes,
    "ephemeral-storage": lambda use: use.disk_bytes,
    "inodes": lambda use: use.inodes,
    "pids": lambda use: use.processes,
}


def ranked(uses: Sequence[PodUse], resource: str) -> list[PodUse]:
    """Who is evicted first comes first; only those who may be evicted at all."""
    used = _USED[resource]

    def key(use: PodUse) -> tuple[bool, int, int]:
        request = pod_requests(use.pod).get(resource, 0)
        beyond = used(use) - request
        within = beyond <= 0 if resource in ("memory", "ephemeral-storage") else False
        return within, priority(use.pod), -beyond

    return sorted((use for use in uses if not is_critical(use.pod)), key=key)


def _bytes(value: int) -> str:
    return format_quantity(value, "BinarySI")


def _requested(pod: Obj, container: str, resource: str) -> tuple[int, str]:
    for spec in pod["spec"].get("containers") or ():
        if spec["name"] == container:
            text = ((spec.get("resources") or {}).get("requests") or {}).get(resource)
            return (0, "0") if text is None else (amounts({resource: text})[resource], str(text))
    return 0, "0"


def message(reclaim: Reclaim, use: PodUse) -> str:
    """What the evicted pod's status and its Event say."""
    resource, seen, limit = reclaim.resource, reclaim.observed, reclaim.threshold.value
    threshold = _bytes(amount_of(limit, seen.capacity)) if limit.endswith("%") else limit
    text = f"The node was low on resource: {resource}. Threshold quantity: {threshold}, "
    text += f"available: {_bytes(seen.available)}. "
    for name, container in sorted(use.containers.items()):
        used = {"memory": container.memory_bytes, "ephemeral-storage": container.disk_bytes}.get(resource, 0)
        request, shown = _requested(use.pod, name, resource)
        if used > request:
            text += f"Container {name} was using {_bytes(used)}, request is {shown}, "
            text += f"has larger consumption of {resource}. "
    return text


def over_local_storage(use: PodUse) -> str:
    """Why a pod that holds more local storage than it may is evicted, "" while it does not."""
    return _volumes_over(use) or _pod_over(use) or _containers_over(use)


def _volumes_over(use: PodUse) -> str:
    for volume in use.pod["spec"].get("volumes") or ():
        limit = (volume.get("emptyDir") or {}).get("sizeLimit")
        most = amounts({"storage": limit})["storage"] if limit else 0
        if most and use.volumes.get(volume["name"], 0) > most:
            return f'Usage of EmptyDir volume "{volume["name"]}" exceeds the limit "{limit}". '
    return ""


def _limit(container: Obj) -> str:
    return str(((container.get("resources") or {}).get("limits") or {}).get("ephemeral-storage") or "")


def _pod_over(use: PodUse) -> str:
    """Kubernetes sums the limits of the containers that have one; a pod without any has none."""
    limits = [_limit(c) for c in use.pod["spec"].get("containers") or () if _limit(c)]
    total = sum(amounts({"storage": text})["storage"] for text in limits)
    if limits and use.disk_bytes > total:
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {_bytes(total)}. "
    return ""


def _containers_over(use: PodUse) -> str:
    for container in use.pod["spec"].get("containers") or ():
        limit = _limit(container)
        used = use.containers.get(container["name"], ContainerUse()).disk_bytes
        if limit and used > amounts({"storage": limit})["storage"]:
            return f'Container {container["name"]} exceeded its local ephemeral storage limit "{limit}". '
    return ""


def limits_local_storage(pod: Obj) -> bool:
    """Whether somebody has to look at how much a pod stores."""
    if any((v.get("emptyDir") or {}).get("sizeLimit") for v in pod["spec"].get("volumes") or ()):
        return True
    return any(_limit(c) for c in pod["spec"].get("containers") or ())
