"""Machines on two routed segments: their pods reach each other through VXLAN, and directly where a link is shared.

a1 - [a 10.89.77.11] --- r --- [b 10.89.78.12] - b1       the router knows no pods
c1 - [c 10.89.77.13] ---/
"""

from __future__ import annotations

import contextlib
import copy
import socket
import struct
import subprocess
from collections.abc import Collection
from typing import Any

import pytest

from cluster.network.config import OVERLAY_PORT, FirewallConfig, RouteConfig
from cluster.network.firewall import firewall_rules
from cluster.network.overlay import HEADERS_BYTES, VNI, vtep_mac
from cluster.network.routes import apply
from tests.support.network_lab import PREFIX, Echo, connect_ipv6, inside, ip, nft, tcp
from tests.support.segments_lab import MACHINES, NODES, links, route, segments

__all__ = ["segments"]
pytestmark = pytest.mark.root
Obj = dict[str, Any]


def sync(nodes: list[Obj], backend: str = "routes", *, on: Collection[str] = tuple(MACHINES)) -> None:
    for machine in on:
        config = RouteConfig(machine, MACHINES[machine][0], backend)
        assert inside(machine, lambda c=config: apply(c, nodes)) == {}, machine  # type: ignore[misc]


def test_pods_of_both_segments_reach_each_other_with_their_own_addresses(segments: None) -> None:
    assert tcp("a1", "10.244.2.2", 8080) != "b1 10.244.1.2", "the router knows pods: this proves nothing"
    sync(NODES)
    assert tcp("a1", "10.244.2.2", 8080) == "b1 10.244.1.2"
    assert tcp("b1", "10.244.3.2", 8080) == "c1 10.244.2.2"
    assert tcp("a", "10.244.2.2", 8080) == "b1 10.244.1.0", "the machine's own end of the tunnel"
    assert route("a", "10.244.2.0/24")["dev"] == "sk8-vxlan"
    assert route("a", "10.244.3.0/24")["gateway"] == "10.89.77.13", "c shares a link with a"
    sync(NODES)  # again changes nothing
    assert tcp("a1", "10.244.2.2", 8080) == "b1 10.244.1.2"


def listener_of_changes() -> socket.socket:
    """Hears of links, addresses and routes (RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE), as the keeper of routes does."""
    heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    heard.bind((0, 0))
    for group in (1, 5, 7):
        heard.setsockopt(270, 1, group)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
    heard.setblocking(False)
    return heard


@pytest.mark.parametrize("backend", ["routes", "vxlan"])
def test_a_sync_that_finds_all_in_place_changes_nothing_that_would_bring_about_the_next(
    segments: None, backend: str
) -> None:
    sync(NODES, backend)
    with inside("a", listener_of_changes) as heard:
        sync(NODES, backend, on=("a",))
        with pytest.raises(BlockingIOError):
            heard.recv(1 << 16)


def test_the_tunnels_mtu_leaves_room_for_its_headers_and_large_transfers_pass(segments: None) -> None:
    sync(NODES)
    assert links("a")["sk8-vxlan"]["mtu"] == links("a")["eth0"]["mtu"] - HEADERS_BYTES
    listener = inside("b1", lambda: socket.create_server(("10.244.2.2", 9000)))
    sender = inside("a1", lambda: socket.create_connection(("10.244.2.2", 9000), 30))
    with listener, sender:
        receiver, _ = listener.accept()
        with receiver:
            receiver.settimeout(60)
            sender.setblocking(False)
            sent = sender.send(b"x" * 100_000)
            received = 0
            while received < sent:  # a segment that does not fit would be lost for ever
                received += len(receiver.recv(1 << 16))


def test_both_families_go_through_the_one_tunnel(segments: None) -> None:
    ranges = {machine: f"fd00:10:244:{number}::/64" for number, machine in enumerate(MACHINES, 1)}
    pods = {machine: cidr.replace("::/64", "::2") for machine, cidr in ranges.items()}
    nodes = copy.deepcopy(NODES)
    for made, (machine, cidr) in zip(nodes, ranges.items(), strict=True):
        segment, number = MACHINES[machine][0].split(".")[2:]
        address = f"fd00:10:89:{segment}::{number}"
        made["spec"]["podCIDRs"].append(cidr)
        made["status"]["addresses"].append({"type": "InternalIP", "address": address})
        ip("addr", "add", f"{address}/64", "dev", "eth0", "nodad", ns=machine)
        connect_ipv6(machine, f"{machine}1", pods[machine], cidr)
    with contextlib.ExitStack() as stack:
        for machine, address in pods.items():
            stack.callback(Echo(f"{machine}1", 8080, address=address).close)
        for machine in MACHINES:
            config = RouteConfig(machine, MACHINES[machine][0], cluster_cidr_ipv6="fd00:10:244::/56")
            assert inside(machine, lambda c=config: apply(c, nodes)) == {}, machine  # type: ignore[misc]
        assert tcp("a1", pods["b"], 8080, 30.0) == f"b1 {pods['a']}", "through the tunnel"
        assert tcp("a1", pods["c"], 8080, 30.0) == f"c1 {pods['a']}", "where a link is shared"
        assert tcp("a1", "10.244.2.2", 8080, 30.0) == "b1 10.244.1.2"
        assert route("a", ranges["b"])["dev"] == "sk8-vxlan"
        assert route("a", ranges["c"])["gateway"] == "fd00:10:89:77::13"
        alone = [made for made in nodes if made["metadata"]["name"] == "a"]
        config = RouteConfig("a", MACHINES["a"][0], cluster_cidr_ipv6="fd00:10:244::/56")
        assert inside("a", lambda: apply(config, alone)) == {}
        assert route("a", ranges["b"]) == route("a", ranges["c"]) == {}, "the others are gone"


def forged(payload: bytes) -> bytes:
    """What whoever reaches b's end of the tunnel may send there: a datagram from a1 to port 9000 of b1."""
    addresses = socket.inet_aton("10.244.1.2") + socket.inet_aton("10.244.2.2")
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, socket.IPPROTO_UDP, 0)
    words = sum(struct.unpack("!10H", head + addresses))
    words = (words & 0xFFFF) + (words >> 16)
    ip_header = head[:10] + struct.pack("!H", ~words & 0xFFFF) + addresses
    udp = struct.pack("!HHHH", 9000, 9000, 8 + len(payload), 0)  # without checksum
    macs = bytes.fromhex((vtep_mac("10.89.78.12") + vtep_mac("10.89.77.11")).replace(":", ""))
    return struct.pack("!II", 0x08000000, VNI << 8) + macs + b"\x08\x00" + ip_header + udp + payload


def send(namespace: str, data: bytes, address: str, port: int) -> None:
    with inside(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.sendto(data, (address, port))


def test_only_machines_may_send_into_the_tunnel(segments: None) -> None:
    sync(NODES)
    with inside("b1", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as listener:
        listener.settimeout(30)
        listener.bind(("10.244.2.2", 9000))
        send("r", forged(b"unguarded"), "10.89.78.12", OVERLAY_PORT)
        assert listener.recvfrom(100) == (b"unguarded", ("10.244.1.2", 9000)), "the forgery works: refusing it counts"
        machine_ips = [address for address, _ in MACHINES.values()]
        for machine in MACHINES:
            nft(machine, firewall_rules(FirewallConfig(machine_cidrs=("10.89.76.0/24",)), machine_ips))
        for where in ("r", "c1", "b1"):  # an outsider, a pod of another machine, one of b's own
            send(where, forged(where.encode()), "10.89.78.12", OVERLAY_PORT)
        send("a1", b"through the tunnel", "10.244.2.2", 9000)
        assert listener.recv(100) == b"through the tunnel"


def test_vxlan_everywhere_when_asked_for_and_back(segments: None) -> None:
    sync(NODES, "vxlan")
    assert route("a", "10.244.3.0/24")["dev"] == "sk8-vxlan"
    assert tcp("a1", "10.244.3.2", 8080) == "c1 10.244.1.2"
    sync(NODES)
    assert route("a", "10.244.3.0/24")["dev"] == "eth0"
    assert tcp("a1", "10.244.3.2", 8080) == "c1 10.244.1.2"


def test_a_machine_that_left_is_forgotten_and_the_last_one_takes_the_link_along(segments: None) -> None:
    sync(NODES, "vxlan")
    sync([one for one in NODES if one["metadata"]["name"] != "b"], "vxlan", on=["a"])
    assert route("a", "10.244.2.0/24") == {}
    left = subprocess.run(
        ["bridge", "-n", f"{PREFIX}a", "fdb", "show", "dev", "sk8-vxlan"], check=True, capture_output=True, text=True
    ).stdout
    assert "10.89.78.12" not in left and "10.89.77.13" in left
    sync([NODES[0]], "vxlan", on=["a"])
    assert "sk8-vxlan" not in links("a")
