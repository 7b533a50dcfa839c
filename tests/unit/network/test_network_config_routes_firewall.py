"""Configs that explain what is wrong, routes from Nodes, the firewall's text, netlink framing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actors.wiring.proxy import network_config
from cluster.machine.config import ClusterConfig
from cluster.network.config import (
    OVERLAY_PORT,
    ConfigError,
    DnsConfig,
    FirewallConfig,
    ProxyConfig,
    RouteConfig,
    port_range,
)
from cluster.network.conntrack import parse_flow
from cluster.network.firewall import firewall_rules, merged
from cluster.network.netlink import attribute, attributes, table_name
from cluster.network.routes import RouteChanges, internal_ip, route_changes, wanted_routes


def node(name: str, address: str, cidr: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def test_a_config_for_a_node_is_valid_and_consistent() -> None:
    cluster = ClusterConfig.local()
    config = network_config(cluster, cluster.machine("m1"))
    config.validate()
    assert config.dns.listen_ip == config.proxy.local_dns_ip == "10.96.0.10"
    assert "6379" in config.firewall.protected_ports


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (ProxyConfig("", "10.89.0.11"), "node_name: empty"),
        (ProxyConfig("m1", "nowhere"), "node_ip: 'nowhere' is not an IP address"),
        (ProxyConfig("m1", "10.89.0.11", local_dns_ip="8.8.8.8"), "choose one inside it"),
        (ProxyConfig("m1", "10.89.0.11", masquerade_bit=40), "must be 0 to 31"),
        (RouteConfig("m1", protocol=4), "must be 16 to 255"),
        (FirewallConfig(protected_ports=("80-70",)), "rising range"),
        (FirewallConfig(protected_ports=("http",)), "is not a port"),
        (FirewallConfig(machine_cidrs=()), "machine_cidrs: empty"),
        (DnsConfig(upstreams=("10.96.0.10",)), "is this server itself"),
        (DnsConfig(pod_records="maybe"), "must be insecure, verified or disabled"),
        (DnsConfig(cluster_domain="cluster..local"), "is not a domain"),
    ],
)
def test_a_wrong_config_says_what_would_be_right(part: Any, words: str) -> None:
    with pytest.raises(ConfigError, match="|".join([words.replace("(", ".").replace(")", ".")])):
        part.validate()


def test_dns_and_proxy_must_agree() -> None:
    config = network_config(cluster := ClusterConfig.local(), cluster.machine("m1"))
    with pytest.raises(ConfigError, match="make them one"):
        replace(config, dns=DnsConfig(listen_ip="10.96.0.11")).validate()


def test_routes_lead_to_every_other_node() -> None:
    nodes = [
        node("m1", "10.89.0.11", "10.244.1.0/24"),
        node("m2", "10.89.0.12", "10.244.2.0/24"),
        node("m3", "", "10.244.3.0/24"),
        node("m4", "10.89.0.14", ""),
        node("twin", "10.89.0.15", "10.244.2.0/24"),
    ]
    assert wanted_routes(nodes, "m1", "10.244.0.0/16") == {"10.244.2.0/24": "10.89.0.12"}
    assert wanted_routes(nodes, "m1", "10.0.0.0/16") == {}
    assert internal_ip({}) == ""


def test_route_changes_are_the_difference() -> None:
    wanted = {"10.244.2.0/24": "10.89.0.12", "10.244.3.0/24": "10.89.0.13"}
    present = {"10.244.2.0/24": "10.89.0.99", "10.244.9.0/24": "10.89.0.19", "10.244.3.0/24": "10.89.0.13"}
    assert route_changes(wanted, present) == RouteChanges(
        replace=(("10.244.2.0/24", "10.89.0.12"),), remove=(("10.244.9.0/24", "10.89.0.19"),)
    )


def test_firewall_text_names_ports_and_machines() -> None:
    text = firewall_rules(FirewallConfig(protected_ports=("6379", "2379-2381", "2380-2390")), ["10.0.0.2", "10.0.0.1"])
    assert "th dport { 2379-2390, 6379 }" in text
    assert "elements = { 10.0.0.1, 10.0.0.2 }" in text
    assert firewall_rules(FirewallConfig(protected_ports=()), []).count("dport") == 0


def names(rule: str, port: int) -> bool:
    """Whether a rule of the firewall is about that port."""
    ranges = rule.partition("dport {")[2].partition("}")[0].split(",")
    return any(low <= port <= high for low, high in (port_range("rule", each.strip()) for each in ranges))


def test_load_balancers_anywhere_ask_for_a_machines_health() -> None:
    """Regression: those outside the machines' network saw every machine dead. Pods reach the API's port alone."""
    cluster = ClusterConfig.local()
    rules = firewall_rules(network_config(cluster, cluster.machine("m1")).firewall, []).splitlines()
    about = [line for line in rules if "dport" in line and names(line, cluster.proxy_health_port)]
    pods = [line for line in rules if f"ip saddr {cluster.pod_cidr} " in line and "dport" in line]
    assert about == pods and len(pods) == 3 and all(line.endswith("goto refuse") for line in pods)
    with pytest.raises(ConfigError, match=r"refused_to_pods\[0\]"):
        FirewallConfig(refused_to_pods=("health",)).validate()


def test_kubelets_are_open_to_pods_when_the_cluster_says_so() -> None:
    for settings, want in (({}, 0), ({"kubelet_open_to_pods": True}, 2)):
        cluster = ClusterConfig.local(**settings)
        rules = [
            line.strip()
            for line in firewall_rules(network_config(cluster, cluster.machine("m1")).firewall, []).splitlines()
        ]
        opened = [at for at, line in enumerate(rules) if line.endswith(f"ip saddr {cluster.pod_cidr} accept")]
        assert len(opened) == want
        for at in opened:  # before what refuses them
            assert names(rules[at], cluster.kubelet_port) and rules[at + 1].endswith("goto refuse")
            assert not names(rules[at], cluster.state_client_port)


def test_only_machines_reach_the_tunnels_port() -> None:
    cluster = ClusterConfig.local()
    for firewall in (FirewallConfig(), network_config(cluster, cluster.machine("m1")).firewall):
        rules = firewall_rules(firewall, [])
        guarding = [line for line in rules.splitlines() if "dport" in line]
        assert guarding and all(names(line, OVERLAY_PORT) for line in guarding)
        assert rules.count("dport") == rules.count("meta l4proto { tcp, udp } th dport")


def test_merged_ranges_do_not_overlap() -> None:
    assert merged([(1, 5), (3, 4), (6, 9), (11, 12)]) == [(1, 9), (11, 12)]


def test_netlink_attributes_round_trip() -> None:
    data = attribute(1, b"sk8\0") + attribute(7, b"abcde", nested=True)
    assert list(attributes(data)) == [(1, b"sk8\0"), (7, b"abcde")]
    assert table_name(data) == "sk8"
    assert table_name(b"") == ""


def test_a_conntrack_message_is_read() -> None:
    def side(src: bytes, dst: bytes, sport: int, dport: int) -> bytes:
        addresses = attribute(1, attribute(1, src) + attribute(2, dst), nested=True)
        ports = attribute(1, b"\x11") + attribute(2, sport.to_bytes(2)) + attribute(3, dport.to_bytes(2))
        return addresses + attribute(2, ports, nested=True)

    original = side(b"\x0a\xf4\1\2", b"\x0a\x60\0\x0a", 40000, 53)
    reply = side(b"\x0a\xf4\2\2", b"\x0a\xf4\1\2", 5353, 40000)
    flow = parse_flow(b"\2\0\0\0" + attribute(1, original, nested=True) + attribute(2, reply, nested=True))
    assert flow is not None
    assert (flow.original_dst, flow.original_port, flow.reply_src, flow.reply_port) == (
        "10.96.0.10",
        53,
        "10.244.2.2",
        5353,
    )
    assert flow.key == original
    assert parse_flow(b"\x0a\0\0\0") is None
