"""Two machines, pods and a stranger (tests/support/network_lab.py); real nftables, routes and DNS under them."""

from __future__ import annotations

import itertools
import socket
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.network.agent import clean_up
from cluster.network.nft import BinaryNft, LibNft, NftError, NftRunner
from cluster.network.ruleset import render_full
from cluster.network.ruleset_base import TableConfig
from tests.support.network_lab import (
    DNS,
    MACHINES,
    PODS,
    PREFIX,
    SLICES,
    STRANGER,
    Lab,
    dns,
    endpoints,
    eventually,
    inside,
    ip,
    nft,
    node,
    running_lab,
    service,
    tcp,
    udp,
    udp_ask,
)

pytestmark = pytest.mark.root
Obj = dict[str, Any]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab() as made:
        yield made


_numbers = itertools.count(1)


@pytest.fixture
def web(lab: Lab) -> Iterator[Callable[..., str]]:
    """`web(pods, **spec)` makes a Service with endpoints and returns its ClusterIP; taken away afterwards."""
    made: list[str] = []

    def make(pods: list[str], *, udp_too: bool = False, **spec: Any) -> str:
        number = next(_numbers)
        name, cluster_ip = f"web{number}", f"10.96.1.{number}"
        made.append(name)
        lab.api.put(SLICES, endpoints(name, pods))
        if udp_too:
            lab.api.put(SLICES, endpoints(name, pods, protocol="UDP", port_name="u"))
        lab.api.put("services", service(name, cluster_ip, **spec))
        lab.wait()
        return cluster_ip

    yield make
    for name in made:
        lab.api.remove("services", "default", name)
    lab.wait()


def test_cluster_ip_answers_from_pods_and_machines_on_both_sides(lab: Lab, web: Callable[..., str]) -> None:
    vip = web(["a1"])
    assert tcp("a2", vip, 80) == "a1 10.244.1.3"
    assert tcp("b1", vip, 80) == "a1 10.244.2.2", "pods talk to pods on other machines without NAT"
    assert tcp("a", vip, 80) == "a1 10.89.77.11", "the machine itself is seen by its own address"
    assert tcp("b", vip, 80) == "a1 10.89.77.12"


def test_connections_spread_evenly(lab: Lab, web: Callable[..., str]) -> None:
    vip = web(["a1", "a2", "b1"])
    seen = Counter(inside("a", lambda: [_one(vip) for _ in range(300)]))
    assert set(seen) == {"a1", "a2", "b1"}
    assert min(seen.values()) > 60, seen


def _one(vip: str) -> str:
    with socket.create_connection((vip, 80), 2.0) as conn:
        return conn.recv(100).decode().split()[0]


def test_a_pod_reaches_itself_through_its_service(lab: Lab, web: Callable[..., str]) -> None:
    vip = web(["a1"])
    answer = tcp("a1", vip, 80)
    assert answer.startswith("a1 ")
    assert answer != "a1 10.244.1.2", "its own address would have been dropped as a martian"


def test_udp_services(lab: Lab, web: Callable[..., str]) -> None:
    ports = [{"name": "p", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP", "nodePort": 30901}]
    vip = web(["b1"], udp_too=True, ports=ports, type="NodePort")
    assert udp("a1", vip, 80) == "b1 10.244.1.2"
    assert udp("a", vip, 80) == "b1 10.89.77.11"
    assert udp("out", "10.89.77.11", 30901) == "b1 10.89.77.11"
    assert udp("out", "10.89.77.12", 30901).startswith("b1 ")


def test_node_ports_on_every_machine_and_from_everywhere(lab: Lab, web: Callable[..., str]) -> None:
    web(["b1"], type="NodePort", ports=[{"name": "p", "port": 80, "nodePort": 30900}])
    assert tcp("out", "10.89.77.11", 30900) == "b1 10.89.77.11", "masqueraded: the answer must come back this way"
    assert tcp("out", "10.89.77.12", 30900).startswith("b1 ")
    for where in ("a", "b", "a1", "b1"):
        assert tcp(where, "10.89.77.11", 30900).startswith("b1 "), where
        assert tcp(where, "10.89.77.12", 30900).startswith("b1 "), where


def test_external_traffic_policy_local_keeps_the_source_and_drops_elsewhere(lab: Lab, web: Callable[..., str]) -> None:
    web(
        ["b1"],
        type="NodePort",
        externalTrafficPolicy="Local",
        ports=[{"name": "p", "port": 80, "nodePort": 30902}],
    )
    assert tcp("out", "10.89.77.12", 30902) == "b1 10.89.77.1"
    assert tcp("out", "10.89.77.11", 30902, 0.4) == "TimeoutError"
    assert tcp("a1", "10.89.77.11", 30902).startswith("b1 "), "from inside the cluster any endpoint will do"


def test_no_endpoints_is_refused_at_once(lab: Lab, web: Callable[..., str]) -> None:
    ports = [{"name": "p", "port": 80, "nodePort": 30903}, {"name": "u", "port": 80, "protocol": "UDP"}]
    vip = web([], type="NodePort", ports=ports)
    for where in ("a", "a1"):
        assert tcp(where, vip, 80) == "ConnectionRefusedError", where
        # The kernel tells a program on the machine itself EPERM when its own datagram is rejected on the way out.
        assert udp(where, vip, 80) == ("PermissionError" if where == "a" else "ConnectionRefusedError"), where
        assert tcp(where, "10.89.77.11", 30903) == "ConnectionRefusedError", where
    assert tcp("out", "10.89.77.11", 30903) == "ConnectionRefusedError"
    assert tcp("a1", "10.96.9.9", 80) == "ConnectionRefusedError", "an address of no Service"


def test_an_open_connection_survives_changes_and_a_restart(lab: Lab, web: Callable[..., str]) -> None:
    listener = inside("b1", lambda: socket.create_server(("10.244.2.2", 9090)))
    with listener:
        number = next(_numbers)
        lab.api.put(SLICES, endpoints(f"keep{number}", ["b1"], port=9090))
        lab.api.put("services", service(f"keep{number}", f"10.96.2.{number}"))
        lab.wait()
        client = inside("a1", lambda: socket.create_connection((f"10.96.2.{number}", 80), 2.0))
        server, _ = listener.accept()
        with client, server:
            client.settimeout(2.0)
            lab.machines["a"].stop()
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            lab.start("a")
            lab.api.put(SLICES, endpoints(f"keep{number}", ["a2"], port=9090))
            lab.wait()
            server.sendall(b"y")
            assert client.recv(1) == b"y"
    lab.api.remove("services", "default", f"keep{number}")
    lab.wait()


def test_a_udp_flow_follows_the_endpoints(lab: Lab, web: Callable[..., str]) -> None:
    ports = [{"name": "u", "port": 80, "protocol": "UDP"}]
    vip = web(["b1"], udp_too=True, ports=ports)
    name = f"web{vip.rpartition('.')[2]}"
    sock = inside("a1", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.settimeout(2.0)
        assert udp_ask(sock, vip, 80) == "b1 10.244.1.2"
        lab.api.put(SLICES, endpoints(name, ["a2"], protocol="UDP", port_name="u"))
        lab.wait()
        eventually(lambda: udp_ask(sock, vip, 80) == "a2 10.244.1.2", "the old endpoint is still used")


def test_session_affinity_keeps_a_client_at_its_pod(lab: Lab, web: Callable[..., str]) -> None:
    vip = web(["a1", "a2", "b1"], sessionAffinity="ClientIP")
    name = f"web{vip.rpartition('.')[2]}"
    seen = Counter(inside("b", lambda: [_one(vip) for _ in range(20)]))
    assert len(seen) == 1
    first = next(iter(seen))
    others = [pod for pod in PODS if pod != first]
    lab.api.put(SLICES, endpoints(name, [first, others[0]]))
    lab.wait()
    assert set(inside("b", lambda: [_one(vip) for _ in range(10)])) == {first}, "others' coming and going is no reason"
    lab.api.put(SLICES, endpoints(name, others))
    lab.wait()
    assert len(set(inside("b", lambda: [_one(vip) for _ in range(10)]))) == 1
    assert _one_of(inside("b", lambda: _one(vip)), others)


def _one_of(name: str, names: list[str]) -> bool:
    return name in names


def test_endpoints_on_the_machines_themselves(lab: Lab, web: Callable[..., str]) -> None:
    """As the `kubernetes` Service has them: the API servers' own addresses."""
    for machine in MACHINES:
        lab.serve(machine, 7443)
    vip = web([])
    name = f"web{vip.rpartition('.')[2]}"
    for machine, (address, _) in MACHINES.items():
        host = endpoints(name, [], port=7443)
        host["endpoints"] = [{"addresses": [address], "nodeName": machine, "conditions": {"ready": True}}]
        lab.api.put(SLICES, host)
        lab.wait()
        for where in ("a1", "b1", "a", "b"):
            assert tcp(where, vip, 80).startswith(f"{machine} "), (where, machine)
    assert tcp("a1", vip, 80) == "b 10.244.1.2", "pods reach machines without NAT"


def test_a_link_that_was_down_gets_its_routes_back(lab: Lab) -> None:
    ip("link", "set", "dev", "eth0", "down", ns="b")
    eventually(lambda: "10.244.1.0/24" not in _routes("b"), "the kernel keeps the route of a link that is down")
    ip("link", "set", "dev", "eth0", "up", ns="b")
    eventually(lambda: tcp("b1", "10.244.1.2", 8080, 0.5) == "a1 10.244.2.2", "no route after the link came back")
    ip("route", "replace", "default", "via", STRANGER, ns="b")


def test_the_nft_program_does_what_the_library_does(lab: Lab) -> None:
    elements = {("svcs", "10.96.0.9 . udp . 53"): "goto an-udp-1", ("eps_udp", "10.96.0.9 . 53 . 0"): "10.244.1.2 . 53"}
    text, _ = render_full(TableConfig("10.244.0.0/16", "10.96.0.0/12"), elements)

    def listing(kind: Callable[[], NftRunner]) -> list[Obj]:
        runner = kind()
        try:
            runner.run(text)
            found = runner.listing("table ip sk8")
            with pytest.raises(NftError, match="No such file"):
                runner.run("delete element ip sk8 svcs { 10.96.0.77 . tcp . 1 }")
            runner.run("delete table ip sk8")
        finally:
            runner.close()
        return [{key: {k: v for k, v in value.items() if k != "handle"} for key, value in o.items()} for o in found]

    by_library = inside("out", lambda: listing(LibNft))
    assert len(by_library) > 20
    assert inside("out", lambda: listing(BinaryNft)) == by_library


def test_hand_made_changes_are_healed(lab: Lab, web: Callable[..., str]) -> None:
    vip = web(["b1"])
    nft("a", "flush map ip sk8 svcs")
    eventually(lambda: tcp("a1", vip, 80) == "b1 10.244.1.2", "a flushed map stays flushed")
    nft("a", "delete table ip sk8")
    eventually(lambda: tcp("a1", vip, 80) == "b1 10.244.1.2", "a deleted table stays deleted")
    nft("a", "delete table inet sk8")
    eventually(lambda: "set machines" in nft("a", "list ruleset"), "a deleted firewall stays deleted")


def test_routes_come_back_and_only_ours_are_touched(lab: Lab) -> None:
    ip("route", "add", "10.244.200.0/24", "via", "10.89.77.12", ns="a")
    ip("route", "del", "10.244.2.0/24", ns="a")
    eventually(lambda: tcp("a1", "10.244.2.2", 8080).startswith("b1 "), "a removed route stays removed")
    lab.api.put("nodes", node("ghost", "10.89.77.12", "10.244.9.0/24"))
    eventually(lambda: "10.244.9.0/24" in _routes("a"), "a new node gets no route")
    lab.api.remove("nodes", "", "ghost")
    eventually(lambda: "10.244.9.0/24" not in _routes("a"), "a removed node keeps its route")
    assert "10.244.200.0/24" in _routes("a"), "not ours"
    ip("route", "del", "10.244.200.0/24", ns="a")


def _routes(machine: str) -> str:
    return subprocess.run(
        ["ip", "-n", f"{PREFIX}{machine}", "route"], check=True, capture_output=True, text=True
    ).stdout


def test_firewall_keeps_pods_and_strangers_from_protected_ports(lab: Lab) -> None:
    for machine in MACHINES:
        for port in (6379, 2379, 6443):
            lab.serve(machine, port)
    for port in (6379, 2379):
        for pod in ("a1", "b1"):
            assert tcp(pod, "10.89.77.11", port) == "ConnectionRefusedError"
            assert tcp(pod, "10.244.1.1", port) == "ConnectionRefusedError", "nor by another address of the machine"
        assert tcp("a", "10.89.77.12", port) == "b 10.89.77.11", "machines reach each other"
        assert tcp("a", "10.89.77.11", port).startswith("a ")
        assert _from("out", "10.89.77.200", "10.89.77.11", port) == "TimeoutError", "outside the machines' subnet"
    assert tcp("b1", "10.89.77.11", 6443) == "a 10.244.2.2", (
        "the API server is for everybody, seen by one's own address"
    )


def _from(namespace: str, source: str, address: str, port: int) -> str:
    def ask() -> str:
        try:
            with socket.create_connection((address, port), 0.4, (source, 0)) as conn:
                return conn.recv(100).decode()
        except OSError as err:
            return type(err).__name__

    return inside(namespace, ask)


def test_a_pod_cannot_pose_as_a_machine(lab: Lab) -> None:
    ip("addr", "add", "10.89.77.13/32", "dev", "eth0", ns="a1")
    sock = inside("a1", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    listener = inside("a", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock, listener:
        listener.bind(("10.89.77.11", 4001))
        listener.settimeout(0.4)
        sock.bind(("10.89.77.13", 0))
        sock.sendto(b"!", ("10.89.77.11", 4001))
        with pytest.raises(TimeoutError):
            listener.recv(10)
    ip("addr", "del", "10.89.77.13/32", "dev", "eth0", ns="a1")


def test_pods_leave_the_cluster_masqueraded(lab: Lab) -> None:
    lab.serve("out", 7070)
    assert tcp("a1", STRANGER, 7070) == "out 10.89.77.11"


def test_dns_answers_on_its_service_address_from_pods_and_machines(lab: Lab, web: Callable[..., str]) -> None:
    lab.api.put("services", service("kube-dns", DNS, ports=[{"name": "dns", "port": 53, "protocol": "UDP"}]))
    vip = web(["a1"])
    name = f"web{vip.rpartition('.')[2]}.default.svc.cluster.local"
    for where in ("a1", "b1", "a", "b"):
        assert str(dns(where, name).short()) == vip, where
    assert dns("a1", f"{name}.default.svc.cluster.local").header.rcode == 3
    assert dns("a1", "example.com").header.rcode == 5
    lab.api.remove("services", "default", "kube-dns")


def test_status_is_served_on_loopback(lab: Lab) -> None:
    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:10249{path}", timeout=2) as answer:
            return str(answer.read().decode())

    assert inside("a", lambda: get("/healthz")) == "ok\n"
    assert inside("a", lambda: get("/proxyMode")) == "nftables"
    text = inside("a", lambda: get("/metrics"))
    assert "kubeproxy_sync_proxy_rules_duration_seconds_count" in text
    assert "kubeproxy_network_programming_duration_seconds_count" in text


def test_clean_up_leaves_nothing(lab: Lab) -> None:
    """Last: machine a is taken down."""
    lab.machines.pop("a").stop()
    inside("a", lambda: clean_up(88))
    assert nft("a", "list ruleset") == ""
    links = subprocess.run(["ip", "-n", f"{PREFIX}a", "link"], capture_output=True, text=True, check=True).stdout
    assert "sk8-dns" not in links
    assert "proto 88" not in _routes("a")
