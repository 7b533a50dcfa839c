"""Two dual-stack machines, pods and a stranger (tests/support/network_lab.py): what IPv6 does on real nftables, routes
and names, with IPv4 beside it."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.network.agent import clean_up
from tests.support.network_lab import (
    MACHINES_IPV6,
    PODS,
    PODS_IPV6,
    SLICES,
    STRANGER,
    STRANGER_IPV6,
    Lab,
    dns,
    endpoints,
    eventually,
    inside,
    ip,
    nft,
    running_lab,
    service,
    tcp,
    udp,
    udp_ask,
)

pytestmark = pytest.mark.root
Obj = dict[str, Any]
A, B = MACHINES_IPV6["a"], MACHINES_IPV6["b"]
A1, B1 = PODS_IPV6["a1"], PODS_IPV6["b1"]
PREFIX_IPV6 = "fd00:10:96::6"  # of the Services here, before their numbers
PATIENCE_S = 30.0
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab(dual_stack=True) as made:
        yield made


def ask(namespace: str, address: str, port: int = 80) -> str:
    return tcp(namespace, address, port, PATIENCE_S)


def endpoints_ipv6(name: str, pods: list[str], **options: Any) -> Obj:
    made = endpoints(name, pods, **options)
    made["metadata"]["name"] += "-ipv6"
    made["addressType"] = "IPv6"
    for endpoint, pod in zip(made["endpoints"], pods, strict=True):
        endpoint["addresses"] = [PODS_IPV6[pod]]
    return made


@pytest.fixture
def web(lab: Lab) -> Iterator[Callable[..., str]]:
    """`web(pods, **spec)` makes a dual-stack Service with endpoints and returns its IPv6 ClusterIP; taken away
    afterwards. Its IPv4 one ends with the same number."""
    made: list[str] = []

    def make(pods: list[str], *, protocol: str = "TCP", **spec: Any) -> str:
        number = next(_numbers)
        name, ips = f"six{number}", [f"10.96.6.{number}", f"{PREFIX_IPV6}{number}"]
        made.append(name)
        lab.api.put(SLICES, endpoints(name, pods, protocol=protocol))
        lab.api.put(SLICES, endpoints_ipv6(name, pods, protocol=protocol))
        lab.api.put("services", service(name, ips[0], clusterIPs=ips, ipFamilies=["IPv4", "IPv6"], **spec))
        lab.wait()
        return ips[1]

    yield make
    for name in made:
        lab.api.remove("services", "default", name)
        for slice_ in [key for key in lab.api._objects.get(SLICES, {}) if key[1].startswith(f"{name}-")]:
            lab.api.remove(SLICES, *slice_)
    lab.wait()


def test_pods_and_machines_reach_each_other_with_their_own_addresses(lab: Lab) -> None:
    assert ask("a1", B1, 8080) == f"b1 {A1}", "between machines, without NAT"
    assert ask("a1", PODS_IPV6["a2"], 8080) == f"a2 {A1}", "on one machine"
    assert ask("a", B1, 8080) == f"b1 {A}"
    assert ask("b", B1, 8080) == "b1 fd00:10:244:2::1", "a machine is the gateway to its own pods, as with IPv4"
    assert ask("b1", PODS["a1"][1], 8080) == f"a1 {PODS['b1'][1]}", "IPv4 as ever"


def test_both_addresses_of_a_service_lead_to_its_pods(lab: Lab, web: Callable[..., str]) -> None:
    vip = web(["b1"])
    assert ask("a1", vip) == f"b1 {A1}"
    assert ask("a", vip) == f"b1 {A}", "the machine itself is seen by its own address"
    assert ask("a1", vip.replace(PREFIX_IPV6, "10.96.6.")) == f"b1 {PODS['a1'][1]}"
    answer = ask("b1", vip)
    assert answer.startswith("b1 ") and answer != f"b1 {B1}", "a pod reaches itself"


def test_udp_follows_its_endpoints(lab: Lab, web: Callable[..., str]) -> None:
    ports = [{"name": "p", "port": 80, "protocol": "UDP"}]
    vip = web(["b1"], protocol="UDP", ports=ports)
    name = f"six{vip.removeprefix(PREFIX_IPV6)}"
    with inside("a1", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(PATIENCE_S)
        assert udp_ask(sock, vip, 80) == f"b1 {A1}"
        lab.api.put(SLICES, endpoints_ipv6(name, ["a2"], protocol="UDP"))
        eventually(lambda: udp_ask(sock, vip, 80).startswith("a2 "), "the flow stays with the old pod", 60.0)


def test_node_ports_external_addresses_and_policy_local(lab: Lab, web: Callable[..., str]) -> None:
    external = "fd00:99::1"
    ip("-6", "route", "add", f"{external}/128", "via", A, ns="out")
    with contextlib.ExitStack() as stack:
        stack.callback(ip, "-6", "route", "del", f"{external}/128", ns="out")
        port = {"name": "p", "port": 80, "nodePort": 30960}
        web(["b1"], type="NodePort", ports=[port], externalIPs=[external])
        assert ask("out", A, 30960) == f"b1 {A}", "masqueraded: the answer must come back this way"
        assert ask("out", external) == f"b1 {A}"
        for where in ("a", "b", "a1", "b1"):
            assert ask(where, B, 30960).startswith("b1 "), where
    web(["b1"], type="NodePort", externalTrafficPolicy="Local", ports=[{"name": "p", "port": 80, "nodePort": 30961}])
    assert ask("out", B, 30961) == f"b1 {STRANGER_IPV6}", "the source is kept"


def test_a_client_stays_with_its_pod(lab: Lab, web: Callable[..., str]) -> None:
    vip = web(["a1", "a2", "b1"], sessionAffinity="ClientIP")
    first = ask("b", vip)
    assert {ask("b", vip) for _ in range(10)} == {first}


def test_without_endpoints_it_is_refused_at_once(lab: Lab, web: Callable[..., str]) -> None:
    ports = [{"name": "p", "port": 80, "nodePort": 30962}]
    vip = web([], type="NodePort", ports=ports)
    for where in ("a", "a1"):
        assert ask(where, vip) == "ConnectionRefusedError", where
        assert ask(where, A, 30962) == "ConnectionRefusedError", where
    assert ask("a1", "fd00:10:96::99") == "ConnectionRefusedError", "an address of no Service"


def test_names_have_both_addresses_and_lead_back(lab: Lab, web: Callable[..., str]) -> None:
    vip = web(["b1"])
    name = f"six{vip.removeprefix(PREFIX_IPV6)}.default.svc.cluster.local"
    assert str(dns("a1", name, "AAAA").short()) == vip
    assert str(dns("a1", name).short()).startswith("10.96.6.")
    address = int.from_bytes(socket.inet_pton(socket.AF_INET6, vip))
    reverse = ".".join(reversed(f"{address:032x}")) + ".ip6.arpa"
    assert str(dns("a1", reverse, "PTR").short()) == f"{name}."


def test_what_leaves_the_cluster_is_masqueraded(lab: Lab) -> None:
    lab.serve("out", 8085)
    assert ask("a1", STRANGER_IPV6, 8085) == f"out {A}"
    assert ask("a1", B, 8085) == "ConnectionRefusedError", "a machine is no stranger"


def test_policies_know_both_families(lab: Lab) -> None:
    def policy(**spec: Any) -> Obj:
        return {"metadata": {"name": "p", "namespace": "default"}, "spec": spec}

    for name, (machine, address) in PODS.items():
        status = {"podIP": address, "podIPs": [{"ip": address}, {"ip": PODS_IPV6[name]}], "phase": "Running"}
        meta = {"name": name, "namespace": "default", "labels": {"pod": name}}
        lab.api.put("pods", {"metadata": meta, "spec": {"nodeName": machine, "containers": []}, "status": status})
    lab.api.put("namespaces", {"metadata": {"name": "default"}})
    assert ask("a1", B1, 8080).startswith("b1 ")
    from_a2 = [{"podSelector": {"matchLabels": {"pod": "a2"}}}, {"ipBlock": {"cidr": "fd00:77::/64"}}]
    lab.api.put(
        "networkpolicies.networking.k8s.io",
        policy(podSelector={"matchLabels": {"pod": "b1"}}, policyTypes=["Ingress"], ingress=[{"from": from_a2}]),
    )
    try:
        for target in (B1, PODS["b1"][1]):
            eventually(lambda t=target: tcp("a1", t, 8080, 0.5) == "TimeoutError", f"{target} is open", 60.0)  # type: ignore[misc]
            assert ask("a2", target, 8080).startswith("b1 "), target
            assert ask("b", target, 8080).startswith("b1 "), "a pod's own machine may always"
    finally:
        lab.api.remove("networkpolicies.networking.k8s.io", "default", "p")
    eventually(lambda: tcp("a1", B1, 8080, 1.0).startswith("b1 "), "the policy is gone", 60.0)


def test_a_pod_cannot_pose_as_another_and_protected_ports_are_closed(lab: Lab) -> None:
    with inside("b1", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as listener:
        listener.bind((B1, 9070))
        listener.settimeout(PATIENCE_S)
        for stolen in (PODS_IPV6["a2"], A, "fd00:5::5"):
            ip("addr", "add", f"{stolen}/128", "dev", "lo", "nodad", ns="a1")
            with inside("a1", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as liar:
                liar.bind((stolen, 0))
                liar.sendto(b"stolen", (B1, 9070))
            ip("addr", "del", f"{stolen}/128", "dev", "lo", ns="a1")
        with inside("a1", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as honest:
            honest.sendto(b"honest", (B1, 9070))
        assert listener.recv(100) == b"honest"
    lab.serve("b", 6379)
    assert tcp("a1", B, 6379, 0.5) == "TimeoutError"
    assert tcp("out", B, 6379, 0.5) == "TimeoutError"
    assert ask("b", "::1", 6379).startswith("b ")


def test_rules_somebody_removed_are_healed(lab: Lab, web: Callable[..., str]) -> None:
    vip = web(["b1"])
    nft("a", "delete table ip6 sk8")
    eventually(lambda: tcp("a1", vip, 80, 1.0).startswith("b1 "), "the table is not healed", 60.0)


def test_an_agent_that_leaves_takes_both_families_along(lab: Lab) -> None:
    lab.machines.pop("a").stop()
    inside("a", lambda: clean_up(88))
    assert "sk8" not in nft("a", "list tables")
    assert tcp("out", STRANGER, 1, PATIENCE_S) == "ConnectionRefusedError"  # the lab still works
    assert udp("a", "::1", 1, PATIENCE_S) == "ConnectionRefusedError"
