"""Objects become kube-state-metrics' series: names, labels, values; nothing from an instance that does not lead."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from cluster.machinery.informer import Informers
from cluster.machinery.state_metrics import RESOURCES, StateCollector, families


def samples(resource: str, obj: dict[str, Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families(resource, [obj]) for s in f.samples}


def value(found: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str, **labels: str) -> float | None:
    """Of the one series with that name that has all these labels; None when there is none."""
    matching = [v for (n, have), v in found.items() if n == name and set(labels.items()) <= set(have)]
    assert len(matching) <= 1
    return matching[0] if matching else None


POD = {
    "metadata": {
        "name": "web-1", "namespace": "shop", "uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z",
        "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": True}],
    },
    "spec": {
        "nodeName": "m1",
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "250m", "memory": "1Gi", "nvidia.com/gpu": 2}}}],
    },
    "status": {
        "phase": "Running", "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{
            "name": "c", "image": "nginx", "restartCount": 3, "ready": False,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"reason": "OOMKilled"}},
        }],
    },
}  # fmt: skip


def test_a_pod() -> None:
    found = samples("pods", POD)
    who = {"namespace": "shop", "pod": "web-1", "uid": "u1"}
    assert value(found, "kube_pod_info", **who, node="m1", created_by_kind="ReplicaSet", created_by_name="web") == 1
    assert value(found, "kube_pod_status_phase", **who, phase="Running") == 1
    assert value(found, "kube_pod_status_phase", **who, phase="Pending") == 0
    assert value(found, "kube_pod_status_ready", **who, condition="false") == 1
    assert value(found, "kube_pod_container_status_restarts_total", **who, container="c") == 3
    assert value(found, "kube_pod_container_status_waiting_reason", **who, reason="CrashLoopBackOff") == 1
    assert value(found, "kube_pod_container_status_last_terminated_reason", **who, reason="OOMKilled") == 1
    assert value(found, "kube_pod_container_resource_requests", resource="cpu", unit="core") == 0.25
    assert value(found, "kube_pod_container_resource_requests", resource="memory", unit="byte") == 1 << 30
    assert value(found, "kube_pod_container_resource_requests", resource="nvidia_com_gpu", unit="integer") == 2
    assert value(found, "kube_pod_created", **who) == 1767225600


def test_a_node() -> None:
    node = {
        "metadata": {"name": "m1"},
        "spec": {"unschedulable": True, "taints": [{"key": "k", "effect": "NoSchedule"}]},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}], "allocatable": {"pods": "110"}},
    }
    found = samples("nodes", node)
    assert value(found, "kube_node_status_condition", node="m1", condition="Ready", status="unknown") == 1
    assert value(found, "kube_node_status_condition", node="m1", condition="Ready", status="true") == 0
    assert value(found, "kube_node_spec_unschedulable", node="m1") == 1
    assert value(found, "kube_node_spec_taint", node="m1", key="k", effect="NoSchedule") == 1
    assert value(found, "kube_node_status_allocatable", resource="pods", unit="integer") == 110


@pytest.mark.parametrize(
    ("resource", "status", "name", "expected"),
    [
        ("deployments.apps", {"availableReplicas": 2}, "kube_deployment_status_replicas_available", 2),
        ("deployments.apps", {}, "kube_deployment_status_replicas_unavailable", 0),
        ("replicasets.apps", {"readyReplicas": 1}, "kube_replicaset_status_ready_replicas", 1),
        ("statefulsets.apps", {"readyReplicas": 1}, "kube_statefulset_status_replicas_ready", 1),
        ("daemonsets.apps", {"numberReady": 4}, "kube_daemonset_status_number_ready", 4),
    ],
)
def test_replicated_kinds(resource: str, status: dict[str, int], name: str, expected: int) -> None:
    obj = {"metadata": {"name": "x", "namespace": "n", "generation": 2}, "spec": {"replicas": 3}, "status": status}
    assert value(samples(resource, obj), name, namespace="n") == expected


def test_jobs_claims_and_autoscalers() -> None:
    meta = {"name": "x", "namespace": "n"}
    job = {"metadata": meta, "spec": {}, "status": {"failed": 2, "conditions": [{"type": "Failed", "status": "True"}]}}
    assert value(samples("jobs.batch", job), "kube_job_status_failed", job_name="x") == 2
    assert value(samples("jobs.batch", job), "kube_job_failed", job_name="x", condition="true") == 1
    claim = {"metadata": meta, "spec": {}, "status": {"phase": "Pending"}}
    found = samples("persistentvolumeclaims", claim)
    assert value(found, "kube_persistentvolumeclaim_status_phase", phase="Pending") == 1
    hpa = {"metadata": meta, "spec": {"maxReplicas": 5}, "status": {"desiredReplicas": 4}}
    found = samples("horizontalpodautoscalers.autoscaling", hpa)
    assert value(found, "kube_horizontalpodautoscaler_spec_min_replicas") == 1
    assert value(found, "kube_horizontalpodautoscaler_status_desired_replicas") == 4


class Nothing:
    """Informers that are never run need no client."""


def test_only_the_leader_tells() -> None:
    informers = Informers(Nothing())  # type: ignore[arg-type]
    informers.of("pods")._objects[("shop", "web-1")] = POD
    leading = False
    registry = CollectorRegistry()
    registry.register(StateCollector(informers, lambda: leading))
    assert generate_latest(registry) == b""
    leading = True
    page = generate_latest(registry).decode()
    assert "# TYPE kube_pod_container_status_restarts_total counter" in page
    assert 'kube_pod_status_phase{namespace="shop",phase="Running",pod="web-1",uid="u1"} 1.0' in page


def test_every_resource_is_one_the_api_serves() -> None:
    from cluster.api.scheme import SCHEME

    known = {f"{info.plural}.{info.group}" if info.group else info.plural for info in SCHEME.all()}
    assert set(RESOURCES) <= known
