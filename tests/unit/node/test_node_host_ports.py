"""Host ports: what a pod asks for, and the nft table that says so."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from cluster.node.host_port_rules import PortMapping, ruleset
from cluster.node.host_ports import HostPortFailure, HostPorts, in_use, port_mappings, used_ports
from cluster.node.listeners import Listener, listeners, parse


def pod(**spec: Any) -> dict[str, Any]:
    ports = [
        {"containerPort": 8080, "hostPort": 80},
        {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1"},
        {"containerPort": 9000},
    ]
    return {"spec": {"containers": [{"name": "c", "ports": ports}], **spec}}


MAPPINGS = (PortMapping("tcp", 80, 8080), PortMapping("udp", 53, 53, "10.0.0.1"))


def test_mappings() -> None:
    assert port_mappings(pod()) == MAPPINGS
    assert port_mappings(pod(hostNetwork=True)) == ()
    assert used_ports(pod(hostNetwork=True)) == MAPPINGS


def test_sidecars_have_host_ports_and_init_containers_have_none() -> None:
    port = [{"containerPort": 1, "hostPort": 1}]
    init = [{"name": "i", "ports": port}, {"name": "s", "ports": [{"containerPort": 2, "hostPort": 2}]}]
    init[1]["restartPolicy"] = "Always"
    assert port_mappings({"spec": {"initContainers": init, "containers": []}}) == (PortMapping("tcp", 2, 2),)


def test_the_table_says_exactly_this() -> None:
    text = ruleset({"b": (("10.244.0.3",), MAPPINGS), "a": (("10.244.0.2",), (PortMapping("tcp", 443, 443),))})
    assert "elements = { tcp . 80 : 10.244.0.3 . 8080, tcp . 443 : 10.244.0.2 . 443 };" in text
    assert "elements = { 10.0.0.1 . udp . 53 : 10.244.0.3 . 53 };" in text
    assert "10.244.0.2 . 10.244.0.2, 10.244.0.3 . 10.244.0.3" in text
    assert text.startswith("add table ip sk8-hostports\ndelete table ip sk8-hostports\n")


def test_without_host_ports_there_is_no_table() -> None:
    assert ruleset({}) == "add table ip sk8-hostports\ndelete table ip sk8-hostports\n"
    assert ruleset({"a": (("10.244.0.2",), ())}) == ruleset({})


HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def row(local: str, state: str) -> str:
    return f"   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 1 1\n"


def test_listeners_are_read_from_the_kernels_tables() -> None:
    tcp = HEADER + row("0100007F:094D", "0A") + row("00000000:192B", "0A") + row("0100007F:A000", "01")
    assert sorted(parse("tcp", tcp)) == [Listener("tcp", 2381, "127.0.0.1"), Listener("tcp", 6443)]
    every, loopback, mapped = "0" * 32, "0" * 24 + "01000000", "0000000000000000FFFF00000B00590A"
    tcp6 = HEADER + row(f"{every}:192B", "0A") + row(f"{loopback}:0050", "0A") + row(f"{mapped}:0050", "0A")
    assert sorted(parse("tcp", tcp6)) == [Listener("tcp", 80, "10.89.0.11"), Listener("tcp", 6443)]
    udp = HEADER + row("00000000:0035", "07") + row("0100007F:0036", "01")
    assert list(parse("udp", udp)) == [Listener("udp", 53)]


def test_our_own_listener_is_seen_and_its_port_is_kept(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert Listener("tcp", port, "127.0.0.1") in listeners()
    assert listeners(tmp_path) == frozenset()


def test_a_port_of_the_machine_is_not_given_away() -> None:
    own = [Listener("tcp", 6443), Listener("udp", 53, "10.96.0.10")]
    assert in_use([PortMapping("tcp", 80, 80), PortMapping("tcp", 6443, 80)], own) == PortMapping("tcp", 6443, 80)
    assert in_use([PortMapping("udp", 6443, 80), PortMapping("tcp", 53, 53)], own) is None
    assert in_use([PortMapping("udp", 53, 53)], own) is not None
    assert in_use([PortMapping("udp", 53, 53, "10.89.0.11")], own) is None


async def test_a_pod_that_wants_the_api_servers_port_is_told_so() -> None:
    ports = HostPorts(lambda: [Listener("tcp", 6443)])
    with pytest.raises(HostPortFailure, match="cannot open hostport 6443: listen tcp4 :6443: bind: address already in"):
        await ports.set("sandbox", ("10.244.0.2",), (PortMapping("tcp", 6443, 80),))
    await ports.delete("sandbox")


def test_each_familys_table_has_its_own_addresses() -> None:
    mappings = (
        PortMapping("tcp", 80, 8080),
        PortMapping("tcp", 81, 8081, "10.0.0.1"),
        PortMapping("tcp", 82, 8082, "fd00::1"),
    )
    pods = {"a": (("10.244.0.2", "fd00:10:244::2"), mappings)}
    four = ruleset(pods)
    six = ruleset(pods, ipv6=True).removeprefix(four)
    assert "elements = { tcp . 80 : 10.244.0.2 . 8080 };" in four
    assert "elements = { 10.0.0.1 . tcp . 81 : 10.244.0.2 . 8081 };" in four and "fd00" not in four
    assert "elements = { tcp . 80 : fd00:10:244::2 . 8080 };" in six
    assert "elements = { fd00::1 . tcp . 82 : fd00:10:244::2 . 8082 };" in six and "10.0" not in six
    containers = [{"ports": [{"containerPort": 80, "hostPort": 80, "hostIP": "::"}]}]
    assert port_mappings({"spec": {"containers": containers}}) == (PortMapping("tcp", 80, 80),), "every address"
