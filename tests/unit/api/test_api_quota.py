"""What objects cost a ResourceQuota, kind by kind and scope by scope."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import quota
from cluster.api.scheme import SCHEME


def _pod(requests: dict[str, str] | None = None, limits: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    resources = {"requests": requests or {}, "limits": limits or {}}
    containers = [{"name": "c", "resources": resources}]
    return {"metadata": {"name": "p"}, "spec": {"containers": containers, **spec}}


def _usage(resource: str, obj: dict[str, Any]) -> dict[str, str]:
    return quota.usage(SCHEME.named(resource), obj)


def test_pods_cost_what_they_ask_for_until_they_are_over() -> None:
    pod = _pod({"cpu": "100m", "memory": "1Gi", "example.com/gpu": "2"}, {"cpu": "1"}, overhead={"cpu": "50m"})
    assert _usage("pods", pod) == {
        "count/pods": "1",
        "pods": "1",
        "cpu": "150m",
        "requests.cpu": "150m",
        "memory": "1Gi",
        "requests.memory": "1Gi",
        "limits.cpu": "1050m",
        "requests.example.com/gpu": "2",
    }
    pod["status"] = {"phase": "Succeeded"}
    assert _usage("pods", pod) == {"count/pods": "1"}


def test_sidecars_and_init_containers() -> None:
    init = [
        {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
        {"name": "once", "resources": {"requests": {"cpu": "1"}}},
    ]
    assert _usage("pods", _pod({"cpu": "200m"}, initContainers=init))["requests.cpu"] == "1100m"


def test_services_claims_and_the_rest() -> None:
    ports = [{"port": 80, "nodePort": 30080}, {"port": 81}]
    balanced = {"spec": {"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": False}}
    assert _usage("services", balanced) == {
        "count/services": "1",
        "services": "1",
        "services.loadbalancers": "1",
        "services.nodeports": "1",
    }
    assert _usage("services", {"spec": {"type": "NodePort", "ports": ports}})["services.nodeports"] == "2"
    claim = {"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "2Gi"}}}}
    assert _usage("persistentvolumeclaims", claim) == {
        "count/persistentvolumeclaims": "1",
        "persistentvolumeclaims": "1",
        "requests.storage": "2Gi",
        "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
        "gold.storageclass.storage.k8s.io/requests.storage": "2Gi",
    }
    assert _usage("jobs.batch", {}) == {"count/jobs.batch": "1"}
    assert _usage("secrets", {}) == {"count/secrets": "1", "secrets": "1"}
    assert _usage("nodes", {}) == _usage("events", {}) == {}


@pytest.mark.parametrize(
    ("spec", "inside", "outside"),
    [
        ({"scopes": ["Terminating"]}, _pod(activeDeadlineSeconds=0), _pod()),
        ({"scopes": ["BestEffort"]}, _pod(), _pod({"cpu": "1"})),
        ({"scopes": ["NotBestEffort", "NotTerminating"]}, _pod({"cpu": "1"}), _pod()),
        (
            {"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}},
            _pod(priorityClassName="high"), _pod(priorityClassName="low"),
        ),
        (
            {"scopes": ["CrossNamespacePodAffinity"]},
            _pod(affinity={"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "a", "namespaceSelector": {}}]}}),
            _pod(affinity={"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a"}]}}),
        ),
    ],
)  # fmt: skip
def test_scopes(spec: dict[str, Any], inside: dict[str, Any], outside: dict[str, Any]) -> None:
    limits = {"spec": {"hard": {"pods": "1"}, **spec}}
    info = SCHEME.named("pods")
    assert (quota.matches(limits, info, inside), quota.matches(limits, info, outside)) == (True, False)
    assert not quota.matches(limits, SCHEME.named("services"), {}), "scopes are for pods"


def test_who_tracks_cpu_wants_to_be_told() -> None:
    two = [{"name": "b"}, {"name": "a", "resources": {"limits": {"cpu": "1"}}}]
    pod = {"spec": {"containers": two}}
    hard = ["pods", "requests.cpu", "limits.cpu", "limits.ephemeral-storage"]
    assert quota.missing(hard, pod) == "must specify limits.cpu for: b; requests.cpu for: a,b"
    assert quota.missing(["pods"], pod) == ""
