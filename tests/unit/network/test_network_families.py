"""What the network parts make of a dual-stack cluster's objects, family by family; the kernel's side of it is in
tests/integration/test_network_dual_stack.py."""

from __future__ import annotations

import ipaddress
from typing import Any

from dnslib import DNSRecord

from actors.wiring.proxy import network_config
from cluster.machine.config import ClusterConfig
from cluster.network import dns_wire as wire
from cluster.network.config import FirewallConfig
from cluster.network.dns_core import Reply, Resolver
from cluster.network.dns_zone import Zone, ZoneConfig, service_records
from cluster.network.families import V4, V6
from cluster.network.firewall import firewall_rules
from cluster.network.policy import compile_policy
from cluster.network.policy_table import PolicyTable, PolicyTableConfig, render_full
from cluster.network.routes import wanted_routes
from cluster.network.rules import Elements, RuleConfig, node_elements, service_elements
from cluster.network.ruleset import chain_rules
from cluster.network.ruleset import render_full as service_table
from cluster.network.ruleset_base import TableConfig

Obj = dict[str, Any]
PODS, SERVICES = "fd00:10:244::/56", "fd00:10:96::/112"
IPV4, IPV6 = RuleConfig("m1", "10.89.0.11"), RuleConfig("m1", "fd00:10:89::11", family=V6)
NODE = {
    "metadata": {"name": "m2"},
    "spec": {"podCIDR": "10.244.2.0/24", "podCIDRs": ["10.244.2.0/24", "fd00:10:244:2::/64"]},
    "status": {
        "addresses": [
            {"type": "InternalIP", "address": "10.89.0.12"},
            {"type": "InternalIP", "address": "fd00:10:89::12"},
            {"type": "Hostname", "address": "m2"},
        ]
    },
}


def service(*ips: str, **spec: Any) -> Obj:
    spec.setdefault("ports", [{"name": "http", "port": 80, "protocol": "TCP"}])
    meta = {"name": "web", "namespace": "default"}
    return {"metadata": meta, "spec": {"clusterIP": ips[0], "clusterIPs": list(ips), **spec}}


def slices(*addresses: str) -> list[Obj]:
    """One slice of each family."""
    return [
        {
            "addressType": family.name,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip], "nodeName": "m1"} for ip in addresses if family.has(ip)],
        }
        for family in (V4, V6)
    ]


BOTH = service("10.96.0.20", "fd00:10:96::20", externalIPs=["192.0.2.1", "2001:db8::1"])
ENDPOINTS = slices("10.244.1.3", "fd00:10:244:1::3")


def test_each_familys_rules_know_its_own_addresses_alone() -> None:
    found = service_elements(BOTH, ENDPOINTS, IPV6)
    assert found["svcs", "fd00:10:96::20 . tcp . 80"] == "goto n-tcp-1"
    assert found["eps_tcp", "fd00:10:96::20 . 80 . 0"] == "fd00:10:244:1::3 . 8080"
    assert found["svcs", "2001:db8::1 . tcp . 80"] == "goto m-tcp-1"
    assert not any("10." in key or "192." in key for _, key in found)
    assert not any("fd00" in key or "2001" in key for _, key in service_elements(BOTH, ENDPOINTS, IPV4))
    assert node_elements(NODE, V6) == {("nodes", "fd00:10:89::12"): ""}


def test_a_service_of_the_other_family_has_no_rules() -> None:
    for only, config in (("10.96.0.20", IPV6), ("fd00:10:96::20", IPV4)):
        assert service_elements(service(only), ENDPOINTS, config) == {}


def test_source_ranges_are_of_the_addresss_family() -> None:
    ranged = service("10.96.0.20", "fd00:10:96::20", type="LoadBalancer")
    ranged["spec"]["loadBalancerSourceRanges"] = ["10.0.0.0/8", "fd00:77::/64"]
    ranged["status"] = {"loadBalancer": {"ingress": [{"ip": "10.89.0.200"}, {"ip": "fd00:10:89::c8"}]}}
    found = service_elements(ranged, ENDPOINTS, IPV6)
    assert [key for name, key in found if name == "lbranges"] == ["fd00:10:89::c8 . tcp . 80 . fd00:77::/64"]
    assert ("lbguard", "fd00:10:89::c8 . tcp . 80") in found


def test_session_affinity_of_ipv6_needs_no_memory() -> None:
    found = service_elements(service("fd00:10:96::20", sessionAffinity="ClientIP"), ENDPOINTS, IPV6)
    assert found["svcs", "fd00:10:96::20 . tcp . 80"] == "goto an-tcp-1"
    assert not any(name.startswith("aff") for name, _ in found)
    config = TableConfig(PODS, SERVICES)
    assert "jhash ip6 saddr mod 3 seed" in chain_rules("an-tcp-3", config)[-1]
    assert "jhash" not in chain_rules("n-tcp-3", config)[-1]


def test_the_text_of_a_table_names_one_family() -> None:
    elements: Elements = dict(service_elements(BOTH, ENDPOINTS, IPV6))
    text, _ = service_table(TableConfig(PODS, SERVICES), elements)
    assert "table ip6 sk8" in text
    assert "ipv4_addr" not in text and "ip saddr" not in text and "dnat ip to" not in text
    text, _ = service_table(TableConfig("10.244.0.0/16", "10.96.0.0/12"), service_elements(BOTH, ENDPOINTS, IPV4))
    assert "ip6" not in text and "ipv6" not in text


def test_routes_of_each_family_lead_to_the_address_of_that_family() -> None:
    assert wanted_routes([NODE], "m1", PODS) == {"fd00:10:244:2::/64": "fd00:10:89::12"}
    assert wanted_routes([NODE], "m1", "10.244.0.0/16") == {"10.244.2.0/24": "10.89.0.12"}


def test_a_single_stack_firewall_has_no_word_of_pods_ipv6() -> None:
    assert "ip6" not in firewall_rules(FirewallConfig(), [])
    assert f"ip6 saddr {PODS} fib saddr . iif oif missing drop" in firewall_rules(
        FirewallConfig(cluster_cidr_ipv6=PODS), []
    )


def test_a_dual_stack_config_is_the_single_stack_one_and_more() -> None:
    alone, both = ClusterConfig.local(), ClusterConfig.local(dual_stack=True)
    single, config = network_config(alone, alone.machine("m1")), network_config(both, both.machine("m1"))
    config.validate()
    assert config.proxy == single.proxy
    assert config.proxy_ipv6 is not None and config.proxy_ipv6.local_dns_ip == ""


# ---- policies


def test_a_policys_blocks_and_pods_are_each_in_their_familys_table() -> None:
    blocks = [{"ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {"cidr": "fd00::/16", "except": ["fd00:1::/32"]}}]
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": blocks}]}
    policy = compile_policy({"metadata": {"name": "p", "namespace": "default"}, "spec": spec})
    pod = {
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"nodeName": "m1", "containers": []},
        "status": {"podIP": "10.244.1.3", "podIPs": [{"ip": "10.244.1.3"}, {"ip": "fd00:10:244:1::3"}]},
    }
    for config, own, others in (
        (PolicyTableConfig("m1", "10.96.0.10"), "10.244.1.3", "fd00"),
        (PolicyTableConfig("m1", "", family=V6), "fd00:10:244:1::3", "10."),
    ):
        table = PolicyTable(config, [policy])
        table.set_pod(pod)
        assert ("in", own) in table.elements
        assert others not in render_full(config, table)


# ---- names


def answers(zone: Zone, name: str, qtype: str) -> list[str]:
    resolver = Resolver(zone)
    resolver.ready = True
    result = resolver.answer(bytes(DNSRecord.question(name, qtype).pack()))
    assert isinstance(result, Reply)
    return [str(item.rdata) for item in DNSRecord.parse(result.data).rr]


def zone_of(obj: Obj, found: list[Obj], **options: Any) -> Zone:
    zone = Zone(ZoneConfig(ranges_ipv6=(PODS, SERVICES), **options))
    zone.set_owner("default/web", service_records(obj, found, "cluster.local"))
    return zone


def reverse(address: str) -> str:
    return ipaddress.ip_address(address).reverse_pointer


def test_a_services_name_has_both_addresses() -> None:
    zone, name = zone_of(BOTH, ENDPOINTS), "web.default.svc.cluster.local"
    assert answers(zone, name, "A") == ["10.96.0.20"]
    assert answers(zone, name, "AAAA") == ["fd00:10:96::20"]
    for address in ("10.96.0.20", "fd00:10:96::20"):
        assert answers(zone, reverse(address), "PTR") == [f"{name}."]
    zone.set_owner("default/web", service_records(service("10.96.0.20"), [], "cluster.local"))
    assert answers(zone, name, "AAAA") == []


def test_a_headless_services_pods_have_names_in_both_families() -> None:
    zone = zone_of(service("None"), ENDPOINTS)
    assert answers(zone, "web.default.svc.cluster.local", "AAAA") == ["fd00:10:244:1::3"]
    host = "fd00-10-244-1--3.web.default.svc.cluster.local"
    assert answers(zone, host, "AAAA") == ["fd00:10:244:1::3"]
    assert answers(zone, reverse("fd00:10:244:1::3"), "PTR") == [f"{host}."]


def test_names_of_pods() -> None:
    zone = zone_of(BOTH, ENDPOINTS)
    assert answers(zone, "fd00-10-244-1--3.default.pod.cluster.local", "AAAA") == ["fd00:10:244:1::3"]
    assert answers(zone, "fd00-10-244-1--3.default.pod.cluster.local", "A") == []
    verified = zone_of(BOTH, ENDPOINTS, pod_records="verified")
    verified.set_pod("default/a", "10.244.1.3 fd00:10:244:1::3")
    assert answers(verified, "fd00-10-244-1-0-0-0-3.default.pod.cluster.local", "AAAA") == ["fd00:10:244:1::3"]
    assert answers(verified, "10-244-1-3.default.pod.cluster.local", "A") == ["10.244.1.3"]
    assert answers(verified, "fd00-10-244-1--4.default.pod.cluster.local", "AAAA") == []


def test_other_reverse_names_are_not_the_clusters() -> None:
    zone = zone_of(BOTH, ENDPOINTS)
    for name in (reverse("2001:db8::1"), "x.ip6.arpa", "1.2.ip6.arpa"):
        assert zone.answer(wire.name(name), wire.PTR) is None, name
    assert zone.answer(wire.name(reverse("fd00:10:96::99")), wire.PTR) is not None
