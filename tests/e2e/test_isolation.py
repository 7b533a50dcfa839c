"""NetworkPolicies as a user applies them: the reference's default deny, then what the application needs, on three
machines with stock kubectl.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Cluster, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(300)]

NAMESPACE = "walled"
KUBE_DNS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}
Obj = dict[str, Any]


def pod(name: str, node: str, command: str) -> Obj:
    container = {"name": "main", "image": "busybox:1.36", "command": ["/bin/sh", "-c", command]}
    container["ports"] = [{"name": "http", "containerPort": 8080}]
    meta = {"name": name, "namespace": NAMESPACE, "labels": {"app": name}}
    spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def policy(name: str, **spec: Any) -> Obj:
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


@pytest.fixture
def walled(cluster: Cluster) -> Iterator[Cluster]:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": "http"}]},
    }
    serve = "mkdir -p /www && echo hello >/www/index.html && exec httpd -f -p 8080 -h /www"
    pods = [pod("server", "m1", serve), pod("client", "m2", "sleep 3600"), pod("stranger", "m1", "sleep 3600")]
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": pods}))
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(service))
        cluster.kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", "pod", "--all", "--timeout=90s")
        yield cluster
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=90s")


def reaches(cluster: Cluster, source: str) -> bool:
    """By the Service's name, so DNS is part of it."""
    said = cluster.kubectl(
        "exec", "-n", NAMESPACE, source, "--", "timeout", "2", "wget", "-qO-", "http://server/", ok=False
    )
    return "hello" in said


def test_default_deny_and_what_opens_it_again(walled: Cluster) -> None:
    for source in ("client", "stranger"):
        eventually(lambda s=source: reaches(walled, s), within_s=60, what=f"{source} reaches the server before")
    deny = policy("default-deny-all", podSelector={}, policyTypes=["Ingress", "Egress"])
    walled.kubectl("apply", "-f", "-", stdin=json.dumps(deny))
    for source in ("client", "stranger"):
        eventually(lambda s=source: not reaches(walled, s), within_s=60, what=f"{source} is cut off")
    client = {"podSelector": {"matchLabels": {"app": "client"}}}
    server = {"podSelector": {"matchLabels": {"app": "server"}}}
    needs = [
        policy("dns", podSelector={}, policyTypes=["Egress"], egress=[{"to": [KUBE_DNS], "ports": _ports(53)}]),
        policy(
            "out", podSelector={"matchLabels": {"app": "client"}}, policyTypes=["Egress"], egress=[{"to": [server]}]
        ),
        policy(
            "in",
            podSelector={"matchLabels": {"app": "server"}},
            policyTypes=["Ingress"],
            ingress=[{"from": [client], "ports": [{"port": "http"}]}],
        ),
    ]
    walled.kubectl("apply", "-f", "-", stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": needs}))
    eventually(lambda: reaches(walled, "client"), within_s=60, what="the client is let through again")
    assert not reaches(walled, "stranger")
    listed = walled.kubectl("get", "networkpolicies", "-n", NAMESPACE)
    assert listed.splitlines()[0].split() == ["NAME", "POD-SELECTOR", "AGE"]
    assert "default-deny-all   <none>" in listed


def _ports(number: int) -> list[Obj]:
    return [{"protocol": protocol, "port": number} for protocol in ("UDP", "TCP")]
