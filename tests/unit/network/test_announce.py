"""Who answers for a load balancer's address, what a load balancer's probe is told, and which hints are followed."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.network.announce import EXCLUDE_LABEL, gratuitous_arp, held, holder, may_hold
from cluster.network.endpoints import Port, usable
from cluster.network.health_check import HealthCheck, HealthCheckServers, check_of
from cluster.network.rules import RuleConfig, service_elements

Obj = dict[str, Any]
NODES = ["m1", "m2", "m3"]


def balanced(*addresses: str, **spec: Any) -> Obj:
    return {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.20", "ports": [{"port": 80}], **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": address} for address in addresses]}},
    }


def slice_of(*endpoints: Obj) -> Obj:
    return {"ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": list(endpoints)}


def endpoint(address: str, node: str, **more: Any) -> Obj:
    return {"addresses": [address], "nodeName": node, "conditions": {"ready": True}, **more}


def test_one_machine_holds_an_address_and_keeps_it_when_another_leaves() -> None:
    addresses = [f"10.89.0.{n}" for n in range(100, 200)]
    before = {a: holder(a, NODES) for a in addresses}
    assert set(before.values()) == set(NODES)
    after = {a: holder(a, ["m1", "m3"]) for a in addresses}
    assert all(after[a] == name for a, name in before.items() if name != "m2")
    assert holder("10.89.0.100", []) == ""


def test_with_policy_local_only_a_machine_with_endpoints_holds_it() -> None:
    service = balanced("10.89.0.100", externalTrafficPolicy="Local")
    slices = [slice_of(endpoint("10.244.2.5", "m2"), endpoint("10.244.3.5", "m3", conditions={"ready": False}))]
    assert [name for name in NODES if held(service, slices, NODES, name)] == ["m2"]
    assert [name for name in NODES if held(balanced("10.89.0.100"), slices, NODES, name)] == [
        holder("10.89.0.100", NODES)
    ]
    assert held(balanced("10.89.0.100", type="ClusterIP"), slices, ["m1"], "m1") == []


@pytest.mark.parametrize(
    ("node", "may"),
    [
        ({"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}, True),
        ({"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, False),
        ({"metadata": {}, "status": {}}, False),
        (
            {
                "metadata": {"labels": {EXCLUDE_LABEL: ""}},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            },
            False,
        ),
    ],
)
def test_only_a_ready_machine_that_is_not_excluded_may_hold(node: Obj, may: bool) -> None:
    assert may_hold(node) is may


def test_a_gratuitous_arp_names_the_address_twice() -> None:
    frame = gratuitous_arp(b"\2\0\0\0\0\1", "10.89.0.100")
    assert frame[:6] == b"\xff" * 6 and frame[6:12] == b"\2\0\0\0\0\1" and len(frame) == 42
    assert frame[28:32] == frame[38:42] == bytes([10, 89, 0, 100])


def test_a_health_check_counts_the_ready_endpoints_here() -> None:
    service = balanced(externalTrafficPolicy="Local", healthCheckNodePort=31000)
    slices = [
        slice_of(
            endpoint("10.244.1.5", "m1"),
            endpoint("10.244.1.6", "m1", conditions={"ready": False}),
            endpoint("10.244.2.5", "m2"),
        )
    ]
    assert check_of(service, slices, "m1") == (31000, HealthCheck("default", "web", 1))
    assert check_of(service, slices, "m3") == (31000, HealthCheck("default", "web", 0))
    assert check_of(balanced(healthCheckNodePort=31000), slices, "m1") is None


async def test_a_health_check_port_that_changes_hands_is_the_new_owners_whoever_is_told_first() -> None:
    a, b = HealthCheck("ns", "a", 1), HealthCheck("ns", "b", 2)
    servers = HealthCheckServers(lambda: True)
    try:
        servers.set_owner("ns/b", (31000, b))
        servers.set_owner("ns/a", (31000, a))
        servers.set_owner("ns/b", None)
        assert servers.checks == {31000: a}
        servers.set_owner("ns/b", (31000, b))
        servers.set_owner("ns/b", (31001, b))
        assert servers.checks == {31000: a, 31001: b}, "what a still has is not b's any more"
        servers.set_owner("ns/a", None)
        assert servers.checks == {31001: b}
    finally:
        await servers.close()


def test_source_ranges_guard_the_load_balancers_address_alone() -> None:
    ranges = ["10.1.0.0/16", " 10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]
    service = balanced("10.89.0.100", loadBalancerSourceRanges=ranges, externalIPs=["10.89.0.101"])
    found = service_elements(service, [slice_of(endpoint("10.244.1.5", "m1"))], RuleConfig("m1", "10.89.0.11"))
    assert sorted(key for name, key in found if name == "lbguard") == ["10.89.0.100 . tcp . 80"]
    assert sorted(key for name, key in found if name == "lbranges") == [
        "10.89.0.100 . tcp . 80 . 10.0.0.0/8",
        "10.89.0.100 . tcp . 80 . 192.0.2.0/24",
    ]


def test_hints_are_followed_when_every_endpoint_has_one_and_one_is_meant_for_us() -> None:
    def hints(zone: str = "", node: str = "") -> Obj:
        return {key: [{"name": value}] for key, value in (("forZones", zone), ("forNodes", node)) if value}

    near = endpoint("10.244.1.5", "m1", hints=hints("a"))
    far = endpoint("10.244.2.5", "m2", hints=hints("b"))

    def chosen(*endpoints: Obj, zone: str = "a") -> list[str]:
        return [e.ip for e in usable([slice_of(*endpoints)], Port("", "TCP", "m1", zone))[0]]

    assert chosen(near, far) == ["10.244.1.5"]
    assert chosen(near, far, zone="c") == ["10.244.1.5", "10.244.2.5"], "nobody is meant for us"
    assert chosen(near, far, zone="") == ["10.244.1.5", "10.244.2.5"], "we have no zone"
    assert len(chosen(near, far, endpoint("10.244.3.5", "m3"))) == 3, "one has no hint"
    same_node = [endpoint(e["addresses"][0], e["nodeName"], hints=hints("a", e["nodeName"])) for e in (near, far)]
    assert chosen(*same_node) == ["10.244.1.5"], "a hint for the node comes before that for its zone"
