"""metrics.k8s.io: what a kubelet's /stats/summary says, as PodMetrics and NodeMetrics.

Pure. Source: k8s.io/metrics v1beta1 and metrics-server: CPU as a rate over a window, memory as the working set; what
has no rate yet (a container's first seconds) is left out, a pod with such a container too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]
WINDOW_S = 10.0  # the kubelet's metering period


@dataclass(frozen=True, slots=True)
class Used:
    """CPU in nanocores, memory in bytes; `at` is RFC 3339."""

    at: str
    cpu_nanocores: int
    memory_bytes: int

    def quantities(self) -> dict[str, str]:
        return {"cpu": f"{self.cpu_nanocores}n", "memory": f"{self.memory_bytes // 1024}Ki"}


@dataclass(frozen=True, slots=True)
class PodUsed:
    namespace: str
    name: str
    containers: Mapping[str, Used]


def pods_of(summary: Obj) -> Iterable[PodUsed]:
    """The pods of one kubelet's summary that are known completely."""
    for pod in summary.get("pods") or ():
        found = {c["name"]: _used(c) for c in pod.get("containers") or ()}
        complete = {name: used for name, used in found.items() if used is not None}
        if found and len(complete) == len(found):
            yield PodUsed(pod["podRef"]["namespace"], pod["podRef"]["name"], complete)


def node_of(summary: Obj) -> Used | None:
    return _used(summary.get("node") or {})


def _used(part: Obj) -> Used | None:
    cpu, memory = part.get("cpu") or {}, part.get("memory") or {}
    if "usageNanoCores" not in cpu or "workingSetBytes" not in memory:
        return None
    return Used(str(cpu["time"]), int(cpu["usageNanoCores"]), int(memory["workingSetBytes"]))


def pod_metrics(used: PodUsed, labels: Mapping[str, str]) -> Obj:
    """As the API shows it; `labels` are the pod's."""
    at = min(u.at for u in used.containers.values())
    containers = [{"name": name, "usage": u.quantities()} for name, u in sorted(used.containers.items())]
    return {
        "kind": "PodMetrics",
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": _metadata(used.name, at, labels, namespace=used.namespace),
        "timestamp": at,
        "window": f"{WINDOW_S:g}s",
        "containers": containers,
    }


def node_metrics(name: str, used: Used, labels: Mapping[str, str]) -> Obj:
    return {
        "kind": "NodeMetrics",
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": _metadata(name, used.at, labels),
        "timestamp": used.at,
        "window": f"{WINDOW_S:g}s",
        "usage": used.quantities(),
    }


def _metadata(name: str, at: str, labels: Mapping[str, str], namespace: str = "") -> Obj:
    meta: Obj = {"name": name, "creationTimestamp": at}
    if namespace:
        meta["namespace"] = namespace
    if labels:
        meta["labels"] = dict(labels)
    return meta


_PREFIX = "io.k8s.metrics.pkg.apis.metrics.v1beta1"
_REF = "#/$defs/"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"


def definitions() -> dict[str, Obj]:
    """The schemas of these kinds; Kubernetes publishes them with the metrics server, not with its own API."""
    usage = {
        "description": "The memory usage is the memory working set.",
        "type": "object",
        "additionalProperties": _ref(_QUANTITY),
    }
    window: Obj = {
        "timestamp": {**_ref(f"{_META}.Time"), "description": "When the usage was measured."},
        "window": {"type": "string", "description": "The interval before the timestamp that the usage is of."},
    }
    containers = {"type": "array", "items": _ref(f"{_PREFIX}.ContainerMetrics")}
    out = {
        f"{_PREFIX}.ContainerMetrics": {
            "description": "Resource usage of a container.",
            "type": "object",
            "properties": {"name": {"type": "string"}, "usage": usage},
            "required": ["name", "usage"],
        }
    }
    for kind, what, own in (
        ("NodeMetrics", "node", {"usage": usage}),
        ("PodMetrics", "pod", {"containers": containers}),
    ):
        out[f"{_PREFIX}.{kind}"] = _kind(kind, f"Resource usage of a {what}.", "ObjectMeta", {**window, **own})
        items = {"items": {"type": "array", "items": _ref(f"{_PREFIX}.{kind}")}}
        out[f"{_PREFIX}.{kind}List"] = _kind(f"{kind}List", f"A list of {kind}.", "ListMeta", items)
    return out


def _ref(name: str) -> Obj:
    return {"$ref": _REF + name}


def _kind(kind: str, description: str, meta: str, own: Obj) -> Obj:
    text: Obj = {"type": "string"}
    return {
        "description": description,
        "type": "object",
        "properties": {"apiVersion": text, "kind": text, "metadata": _ref(f"{_META}.{meta}"), **own},
        "required": sorted(own),
        "x-kubernetes-group-version-kind": [{"group": "metrics.k8s.io", "version": "v1beta1", "kind": kind}],
    }
