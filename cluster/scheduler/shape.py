"""What of a pod matters for placing it, as one hashable value. Pure.

Pods of one workload have equal shapes, so the decision's expensive half (which nodes are possible, and their scores) is
computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

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
    """`requests` in millicores (cpu), bytes (memory, ephemeral-storage) and units; JSON texts are canonical.

    `default_spread` is the label selector (JSON) of the Services and the owner of a pod without spread constraints of
    its own, by which it is spread over hosts and zones; the shell fills it in, since it takes other objects to know.
    """

    requests: tuple[tuple[str, int], ...]
    scoring_requests: tuple[int, int]
    node_selector: tuple[tuple[str, str], ...]
    node_affinity: bytes
    tolerations: bytes
    node_name: str
    host_ports: tuple[HostPort, ...]
    claims: tuple[str, ...]
    namespace: str
    labels: tuple[tuple[str, str], ...]
    pod_affinity: bytes
    spread: bytes
    images: tuple[str, ...]
    disks: tuple[tuple[str, bool], ...]
    terminating: bool
    unsupported: str
    default_spread: bytes = b""


def canonical(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS) if value else b""


def _all_containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from spec.get("containers") or ()
    yield from spec.get("initContainers") or ()


def _host_ports(spec: dict[str, Any]) -> tuple[HostPort, ...]:
    """Ports of containers and of sidecars (restartable init containers)."""
    found = [
        HostPort(port.get("hostIP") or "0.0.0.0", port.get("protocol", "TCP"), port["hostPort"])
        for container in _all_containers(spec)
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]
    return tuple(found)


def _scoring_requests(spec: dict[str, Any], requests: dict[str, int]) -> tuple[int, int]:
    """CPU and memory as the scores count them: a container that asks for nothing still weighs something."""
    idle_cpu = idle_memory = 0
    for container in spec.get("containers") or ():
        asked = (container.get("resources") or {}).get("requests") or {}
        idle_cpu += 0 if "cpu" in asked else DEFAULT_CPU_MILLICORES
        idle_memory += 0 if "memory" in asked else DEFAULT_MEMORY_BYTES
    return requests.get("cpu", 0) + idle_cpu, requests.get("memory", 0) + idle_memory


def claim_names(pod: dict[str, Any]) -> tuple[str, ...]:
    """Names of the PersistentVolumeClaims a pod mounts, generic ephemeral volumes included."""
    names = []
    for volume in pod["spec"].get("volumes") or ():
        if claim := volume.get("persistentVolumeClaim"):
            names.append(claim["claimName"])
        elif volume.get("ephemeral"):
            names.append(f"{pod['metadata']['name']}-{volume['name']}")
    return tuple(names)


def _disks(spec: dict[str, Any]) -> tuple[tuple[str, bool], ...]:
    """In-line volumes that one node may mount once: (identity, read only). Source: VolumeRestrictions."""
    disks: list[tuple[str, bool]] = []
    for volume in spec.get("volumes") or ():
        if gce := volume.get("gcePersistentDisk"):
            disks.append((f"gce/{gce['pdName']}", bool(gce.get("readOnly"))))
        elif aws := volume.get("awsElasticBlockStore"):
            disks.append((f"aws/{aws['volumeID']}", False))
        elif iscsi := volume.get("iscsi"):
            disks.append((f"iscsi/{iscsi['iqn']}", bool(iscsi.get("readOnly"))))
        elif rbd := volume.get("rbd"):
            name = f"{','.join(sorted(rbd.get('monitors') or ()))}/{rbd.get('pool', 'rbd')}/{rbd['image']}"
            disks.append((f"rbd/{name}", bool(rbd.get("readOnly"))))
    return tuple(disks)


def shape_of(pod: dict[str, Any], default_spread: bytes = b"") -> PodShape:
    spec, meta = pod["spec"], pod["metadata"]
    requests = pod_requests(pod)
    affinity = spec.get("affinity") or {}
    relations = {kind: affinity[kind] for kind in ("podAffinity", "podAntiAffinity") if affinity.get(kind)}
    return PodShape(
        requests=tuple(sorted((name, amount) for name, amount in requests.items() if amount)),
        scoring_requests=_scoring_requests(spec, requests),
        node_selector=tuple(sorted((spec.get("nodeSelector") or {}).items())),
        node_affinity=canonical(affinity.get("nodeAffinity")),
        tolerations=canonical(spec.get("tolerations")),
        node_name=spec.get("nodeName", ""),
        host_ports=_host_ports(spec),
        claims=claim_names(pod),
        namespace=meta.get("namespace", ""),
        labels=tuple(sorted((meta.get("labels") or {}).items())),
        pod_affinity=canonical(relations),
        spread=canonical(spec.get("topologySpreadConstraints")),
        images=tuple(container.get("image", "") for container in _all_containers(spec)),
        disks=_disks(spec),
        terminating="deletionTimestamp" in meta,
        unsupported="resourceClaims are not supported by this scheduler" if spec.get("resourceClaims") else "",
        default_spread=default_spread,
    )
