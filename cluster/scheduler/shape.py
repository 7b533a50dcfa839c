"""What of a pod matters for placing it, as one hashable value. Pure.

Pods of one workload have equal shapes, so the decision's expensive half (which nodes are possible, and their scores) is
computed once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from cluster.api.meta import controller_of
from cluster.api.pods import pod_requests

DEFAULT_CPU_MILLICORES = 100
"""What a container without a CPU request counts as when nodes are scored (kube-scheduler's DefaultMilliCPURequest)."""
DEFAULT_MEMORY_BYTES = 200 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HostPort:
    ip: str
    protocol: str
    port: int

    def collides(self, other: HostPort) -> bool:
        if (self.protocol, self.port) != (other.protocol, other.port):
            return False
        return self.ip == other.ip or self.ip == "0.0.0.0" or other.ip == "0.0.0.0"


@dataclass(frozen=True, slots=True)
class PodShape:
    """`requests` in millicores (cpu), bytes (memory, ephemeral-storage) and units; JSON texts are canonical."""

    requests: tuple[tuple[str, int], ...]
    scoring_requests: tuple[int, int]
    node_selector: tuple[tuple[str, str], ...]
    node_affinity: bytes
    tolerations: bytes
    node_name: str
    host_ports: tuple[HostPort, ...]
    owner_uid: str
    claims: tuple[str, ...]
    namespace: str
    unsupported: str


def _canonical(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS) if value else b""


def _host_ports(spec: dict[str, Any]) -> tuple[HostPort, ...]:
    found = [
        HostPort(port.get("hostIP") or "0.0.0.0", port.get("protocol", "TCP"), port["hostPort"])
        for container in spec.get("containers", ())
        for port in container.get("ports", ())
        if port.get("hostPort")
    ]
    return tuple(found)


def _scoring_requests(spec: dict[str, Any], requests: dict[str, int]) -> tuple[int, int]:
    """CPU and memory as the scores count them: a container that asks for nothing still weighs something."""
    idle_cpu = idle_memory = 0
    for container in spec.get("containers", ()):
        asked = container.get("resources", {}).get("requests") or {}
        idle_cpu += 0 if "cpu" in asked else DEFAULT_CPU_MILLICORES
        idle_memory += 0 if "memory" in asked else DEFAULT_MEMORY_BYTES
    return requests.get("cpu", 0) + idle_cpu, requests.get("memory", 0) + idle_memory


def _unsupported(spec: dict[str, Any]) -> str:
    """A hard placement rule that this scheduler does not know yet; such a pod waits and says why."""
    affinity = spec.get("affinity") or {}
    hard = "requiredDuringSchedulingIgnoredDuringExecution"
    if (affinity.get("podAffinity") or {}).get(hard):
        return "required podAffinity is not supported by this scheduler yet"
    if (affinity.get("podAntiAffinity") or {}).get(hard):
        return "required podAntiAffinity is not supported by this scheduler yet"
    if any(c.get("whenUnsatisfiable") == "DoNotSchedule" for c in spec.get("topologySpreadConstraints") or ()):
        return "topologySpreadConstraints with DoNotSchedule are not supported by this scheduler yet"
    if spec.get("resourceClaims"):
        return "resourceClaims are not supported by this scheduler yet"
    return ""


def claim_names(pod: dict[str, Any]) -> tuple[str, ...]:
    """Names of the PersistentVolumeClaims a pod mounts, generic ephemeral volumes included."""
    names = []
    for volume in pod["spec"].get("volumes", ()):
        if claim := volume.get("persistentVolumeClaim"):
            names.append(claim["claimName"])
        elif volume.get("ephemeral"):
            names.append(f"{pod['metadata']['name']}-{volume['name']}")
    return tuple(names)


def shape_of(pod: dict[str, Any]) -> PodShape:
    spec = pod["spec"]
    requests = pod_requests(pod)
    owner = controller_of(pod)
    return PodShape(
        requests=tuple(sorted((name, amount) for name, amount in requests.items() if amount)),
        scoring_requests=_scoring_requests(spec, requests),
        node_selector=tuple(sorted((spec.get("nodeSelector") or {}).items())),
        node_affinity=_canonical((spec.get("affinity") or {}).get("nodeAffinity")),
        tolerations=_canonical(spec.get("tolerations")),
        node_name=spec.get("nodeName", ""),
        host_ports=_host_ports(spec),
        owner_uid=owner["uid"] if owner else "",
        claims=claim_names(pod),
        namespace=pod["metadata"].get("namespace", ""),
        unsupported=_unsupported(spec),
    )
