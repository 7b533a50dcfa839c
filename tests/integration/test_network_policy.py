"""NetworkPolicies in the kernel: two machines, real nftables, real connections (tests/support/network_lab.py)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.network_lab import (
    MACHINES,
    PODS,
    STRANGER,
    Lab,
    dns,
    eventually,
    inside,
    ip,
    nft,
    running_lab,
    tcp,
    udp,
)

pytestmark = pytest.mark.root
Obj = dict[str, Any]
POLICIES = "networkpolicies.networking.k8s.io"
A1, A2, B1 = (PODS[name][1] for name in ("a1", "a2", "b1"))
KUBE_DNS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab() as made:
        for name in ("default", "kube-system"):
            made.api.put("namespaces", {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}})
        ip("route", "add", f"{A1}/32", "via", MACHINES["a"][0], ns="out")
        for name, (machine, address) in PODS.items():
            made.api.put("pods", pod(name, machine, address))
        yield made


def pod(name: str, machine: str, address: str, **labels: str) -> Obj:
    ports = [{"name": "http", "containerPort": 8080}]
    return {
        "metadata": {"name": name, "namespace": "default", "labels": {"name": name, **labels}},
        "spec": {"nodeName": machine, "containers": [{"name": "c", "ports": ports}]},
        "status": {"podIP": address, "phase": "Running"},
    }


Apply = Callable[..., None]


@pytest.fixture
def apply(lab: Lab) -> Iterator[Apply]:
    """Put a policy, and take all of them back afterwards."""
    made: list[str] = []

    def put(name: str, **spec: Any) -> None:
        spec.setdefault("podSelector", {})
        made.append(name)
        lab.api.put(POLICIES, {"metadata": {"name": name, "namespace": "default"}, "spec": spec})

    yield put
    for name in dict.fromkeys(made):
        lab.api.remove(POLICIES, "default", name)
    settled(lambda: reached("a1", A2) and reached("b1", A1), "policies outlive their objects")


def reached(source: str, address: str, port: int = 8080) -> bool:
    return tcp(source, address, port, timeout_s=0.3).partition(" ")[0] in PODS


def settled(check: Callable[[], bool], why: str) -> None:
    eventually(check, why, timeout_s=20)


def test_default_deny_stops_pods_but_not_their_machine(lab: Lab, apply: Apply) -> None:
    assert reached("a1", A2) and reached("b1", A1)
    apply("deny", policyTypes=["Ingress", "Egress"])
    settled(lambda: not reached("a1", A2) and not reached("b1", A1), "default deny is not in force")
    assert tcp("out", A1, 8080, 0.3) == "TimeoutError" and tcp("a", A1, 8080).startswith("a1 ")
    assert tcp("b", A1, 8080, 0.3) == "TimeoutError", "another machine is no exception"
    with pytest.raises(TimeoutError):
        dns("a1", "kubernetes.default.svc.cluster.local")
    apply("dns", policyTypes=["Egress"], egress=[{"to": [KUBE_DNS], "ports": [{"port": 53, "protocol": "UDP"}]}])

    def resolves() -> bool:
        try:
            return dns("a1", "nothing.default.svc.cluster.local").header.rcode == 3
        except TimeoutError:
            return False

    settled(resolves, "the usual policy for kube-dns does not restore DNS")
    assert not reached("a1", A2)


def test_ingress_by_pod_port_and_block(lab: Lab, apply: Apply) -> None:
    apply("a1", podSelector={"matchLabels": {"name": "a1"}}, ingress=[])
    settled(lambda: not reached("b1", A1), "a1 is not isolated")
    assert reached("b1", A2) and reached("a1", B1), "only a1's ingress is isolated"
    only_b1 = [{"podSelector": {"matchLabels": {"name": "b1"}}}]
    apply("a1", podSelector={"matchLabels": {"name": "a1"}}, ingress=[{"from": only_b1, "ports": [{"port": "http"}]}])
    settled(lambda: reached("b1", A1), "b1 may not reach a1's named port")
    assert not reached("a2", A1) and udp("b1", A1, 8080) == "TimeoutError"
    block = [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [f"{B1}/32"]}}]
    apply("a1", podSelector={"matchLabels": {"name": "a1"}}, ingress=[{"from": block}])
    settled(lambda: reached("a2", A1), "a2 is in the block")
    assert not reached("b1", A1) and tcp("out", A1, 8080) == f"a1 {STRANGER}"
    ports = [{"protocol": "UDP", "port": 8000, "endPort": 8100}]
    apply("a1", podSelector={"matchLabels": {"name": "a1"}}, ingress=[{"ports": ports}])
    settled(lambda: not reached("a2", A1), "TCP is in no rule now")
    assert udp("a2", A1, 8080).startswith("a1 ")


def test_egress_and_a_pod_that_changes_its_labels(lab: Lab, apply: Apply) -> None:
    to = [{"podSelector": {"matchLabels": {"role": "db"}}}]
    apply("out", podSelector={"matchLabels": {"name": "a1"}}, policyTypes=["Egress"], egress=[{"to": to}])
    settled(lambda: not reached("a1", B1), "a1's egress is not isolated")
    assert reached("b1", A1) and reached("a1", A1), "ingress, and a pod's way to itself, stay open"
    lab.api.put("pods", pod("b1", "b", B1, role="db"))
    settled(lambda: reached("a1", B1), "b1 has the label now")
    lab.api.put("pods", pod("b1", "b", B1))
    settled(lambda: not reached("a1", B1), "b1 lost the label")


def test_established_connections_are_kept_and_foreign_changes_healed(lab: Lab, apply: Apply) -> None:
    def connect() -> tuple[socket.socket, socket.socket]:
        listener = inside("b1", lambda: socket.create_server(("0.0.0.0", 9999)))
        client = inside("a1", lambda: socket.create_connection((B1, 9999), 3))
        server, _ = listener.accept()
        listener.close()
        return client, server

    client, server = connect()
    with client, server:
        server.settimeout(5)
        apply("deny", policyTypes=["Ingress", "Egress"])
        settled(lambda: not reached("a1", B1), "default deny is not in force")
        client.sendall(b"still here")
        assert server.recv(100) == b"still here"
        for machine in MACHINES:
            nft(machine, "flush table ip sk8-policy")
        settled(lambda: not reached("a1", B1), "a flushed table is not healed")


def test_a_pod_nobody_knows_may_not_speak_while_there_are_policies(lab: Lab, apply: Apply) -> None:
    apply("someone", podSelector={"matchLabels": {"name": "nobody"}}, ingress=[])
    lab.api.remove("pods", "default", "a2")
    settled(lambda: not reached("a2", B1) and not reached("b1", A2), "a2 is not in the table and speaks")
    lab.api.put("pods", pod("a2", "a", A2))
    settled(lambda: reached("a2", B1) and reached("b1", A2), "a2 is known again")
