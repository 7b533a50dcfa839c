"""Host ports: what a pod asks for, and the nft table that says so."""

from __future__ import annotations

from typing import Any

from cluster.node.host_ports import PortMapping, port_mappings, ruleset, used_ports


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
    text = ruleset({"b": ("10.244.0.3", MAPPINGS), "a": ("10.244.0.2", (PortMapping("tcp", 443, 443),))})
    assert "elements = { tcp . 80 : 10.244.0.3 . 8080, tcp . 443 : 10.244.0.2 . 443 };" in text
    assert "elements = { 10.0.0.1 . udp . 53 : 10.244.0.3 . 53 };" in text
    assert "10.244.0.2 . 10.244.0.2, 10.244.0.3 . 10.244.0.3" in text
    assert text.startswith("add table ip sk8-hostports\ndelete table ip sk8-hostports\n")


def test_without_host_ports_there_is_no_table() -> None:
    assert ruleset({}) == "add table ip sk8-hostports\ndelete table ip sk8-hostports\n"
    assert ruleset({"a": ("10.244.0.2", ())}) == ruleset({})
