"""How probes went: /metrics/probes, as the kubelet counts them.

Pure, but for the counter. A container's rows go with its pod, or a node with many short pods would keep them for ever.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

REGISTRY = CollectorRegistry()
_TOTAL = Counter(
    "prober_probe_total",
    "Cumulative number of a liveness, readiness or startup probe for a container by result.",
    ("container", "namespace", "pod", "pod_uid", "probe_type", "result"),
    registry=REGISTRY,
)
_TYPES = {"startup": "Startup", "liveness": "Liveness", "readiness": "Readiness"}
_RESULTS = ("successful", "failed")
_Pod = tuple[str, str, str]  # namespace, name, uid


def count(pod: _Pod, container: str, kind: str, ok: bool) -> None:
    _TOTAL.labels(container, *pod, _TYPES[kind], "successful" if ok else "failed").inc()


def forget(pod: _Pod, containers: list[str]) -> None:
    for container in containers:
        for kind in _TYPES.values():
            for result in _RESULTS:
                try:
                    _TOTAL.remove(container, *pod, kind, result)
                except KeyError:
                    continue
