"""NetworkPolicies: what they say, whom the table lets speak (against a plain oracle), and the text for nft."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.api.selectors import from_label_selector
from cluster.network.policy import block_networks, compile_policy
from cluster.network.policy_table import PolicyTable, PolicyTableConfig, render_delta, render_full

Obj = dict[str, Any]
CONFIG = PolicyTableConfig("m1", "10.96.0.10")
NAMESPACES = [
    {"metadata": {"name": "default", "labels": {"team": "a"}}},
    {"metadata": {"name": "other", "labels": {"team": "b"}}},
    {"metadata": {"name": "kube-system", "labels": {"kubernetes.io/metadata.name": "kube-system"}}},
]


def pod(name: str, ip: str, namespace: str = "default", node: str = "m1", **labels: str) -> Obj:
    ports = [{"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": ports}]},
        "status": {"podIP": ip, "phase": "Running"},
    }


def policy(name: str = "p", namespace: str = "default", **spec: Any) -> Obj:
    spec.setdefault("podSelector", {})
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def table_of(policies: list[Obj], pods: list[Obj]) -> PolicyTable:
    table = PolicyTable(CONFIG, [compile_policy(p) for p in policies], NAMESPACES)
    for one in pods:
        table.set_pod(one)
    return table


def chain_of(table: PolicyTable, direction: str, ip: str) -> tuple[str, ...]:
    return table.chains[table.elements[direction, ip].removeprefix("jump ")]


def test_default_deny_lets_nothing_through() -> None:
    table = table_of([policy(policyTypes=["Ingress", "Egress"])], [pod("a", "10.244.0.2")])
    assert chain_of(table, "in", "10.244.0.2") == chain_of(table, "out", "10.244.0.2") == ("drop",)


def test_without_types_egress_is_isolated_only_when_there_are_egress_rules() -> None:
    assert set(compile_policy(policy()).rules) == {"in"}
    assert set(compile_policy(policy(egress=[{}])).rules) == {"in", "out"}
    assert set(compile_policy(policy(policyTypes=["Egress"])).rules) == {"out"}


def test_an_empty_rule_allows_all_and_no_rule_allows_none() -> None:
    table = table_of([policy(ingress=[{}])], [pod("a", "10.244.0.2")])
    assert chain_of(table, "in", "10.244.0.2") == ("return", "drop")


def test_pods_of_other_machines_on_the_host_network_or_ended_are_not_isolated() -> None:
    host, ended = pod("h", "10.89.0.11"), pod("e", "10.244.0.5")
    host["spec"]["hostNetwork"] = True
    ended["status"]["phase"] = "Succeeded"
    table = table_of([policy()], [pod("far", "10.244.1.2", node="m2"), host, ended])
    assert not [key for name, key in table.elements if name in ("in", "out", "known")]


def test_peers_are_sets_of_addresses_that_follow_the_pods() -> None:
    allow = policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}])
    web = pod("w", "10.244.1.7", node="m2", app="web")
    table = table_of([allow], [pod("a", "10.244.0.2"), web, pod("x", "10.244.1.8", "other", app="web")])
    rule, drop = chain_of(table, "in", "10.244.0.2")
    name = rule.removeprefix("ip saddr @").removesuffix(" return")
    assert drop == "drop" and {key for n, key in table.elements if n == name} == {"10.244.1.7"}
    table.take()
    web["metadata"]["labels"] = {"app": "else"}
    table.set_pod(web)
    delta = table.take()
    assert delta.removed == {(name, "10.244.1.7"): ""} and not delta.added


def test_the_machines_dns_server_stands_for_kube_dns() -> None:
    allow = policy(
        policyTypes=["Egress"],
        egress=[
            {
                "to": [
                    {
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
                    }
                ],
                "ports": [{"port": 53, "protocol": "UDP"}, {"port": "dns", "protocol": "UDP"}],
            }
        ],
    )
    table = table_of([allow], [pod("a", "10.244.0.2")])
    assert "10.96.0.10" in {key for name, key in table.elements if name.startswith("g-")}
    assert "10.96.0.10 . udp . 53" in {key for name, key in table.elements if name.startswith("n-")}


def test_named_ports_of_ingress_are_the_selected_pods() -> None:
    named = policy(ingress=[{"ports": [{"port": "web"}]}])
    table = table_of([named], [pod("a", "10.244.0.2")])
    (rule, _) = chain_of(table, "in", "10.244.0.2")
    assert rule.startswith("ip daddr . meta l4proto . th dport @n-")
    assert {key for name, key in table.elements if name.startswith("n-")} == {"10.244.0.2 . tcp . 8080"}


def test_ports_and_ranges_are_joined_where_they_overlap() -> None:
    ports = [{"port": 80}, {"port": 79, "endPort": 90}, {"port": 53, "protocol": "UDP"}, {"protocol": "SCTP"}]
    table = table_of([policy(ingress=[{"ports": ports}])], [pod("a", "10.244.0.2")])
    assert chain_of(table, "in", "10.244.0.2") == (
        "meta l4proto . th dport { tcp . 79-90, udp . 53 } return",
        "meta l4proto { sctp } return",
        "drop",
    )


def test_pods_that_the_same_policies_select_share_a_chain() -> None:
    table = table_of([policy()], [pod("a", "10.244.0.2"), pod("b", "10.244.0.3")])
    assert table.elements["in", "10.244.0.2"] == table.elements["in", "10.244.0.3"] and len(table.chains) == 1


@pytest.mark.parametrize(
    ("cidr", "holes", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.1.0.0/16"], ["10.0.0.1", "10.2.0.1"], ["10.1.2.3", "11.0.0.1"]),
        ("10.0.0.0/8", ["10.0.0.0/8"], [], ["10.0.0.1"]),
        ("0.0.0.0/0", ["10.244.0.0/16", "192.168.0.0/16"], ["1.2.3.4"], ["10.244.3.3", "192.168.1.1"]),
        ("10.0.0.4/8", [], ["10.9.9.9"], []),
        ("fd00::/8", [], [], ["10.0.0.1"]),
    ],
)
def test_blocks_less_their_exceptions(cidr: str, holes: list[str], inside: list[str], outside: list[str]) -> None:
    networks = [ipaddress.ip_network(n) for n in block_networks({"cidr": cidr, "except": holes})]

    def has(address: str) -> bool:
        return any(ipaddress.ip_address(address) in network for network in networks)

    assert all(map(has, inside)) and not any(map(has, outside))


def test_a_rule_with_only_ipv6_blocks_allows_nobody() -> None:
    table = table_of([policy(ingress=[{"from": [{"ipBlock": {"cidr": "fd00::/8"}}]}])], [pod("a", "10.244.0.2")])
    assert chain_of(table, "in", "10.244.0.2") == ("drop",)


def test_texts_declare_every_set_they_name() -> None:
    allow = policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "none"}}}], "ports": [{"port": "web"}]}])
    table = table_of([allow], [])
    table.take()
    table.set_pod(pod("a", "10.244.0.2"))
    text = render_full(CONFIG, table)
    for word in text.replace("{", " ").split():
        if word.startswith(("@g-", "@n-")):
            assert f"add set ip sk8-policy {word[1:]} " in text
    assert text.index("add chain ip sk8-policy in-") < text.index("add element ip sk8-policy in ")
    fresh = render_delta(CONFIG, table.take(), table.chains)
    assert fresh.index("add chain") < fresh.index("add element ip sk8-policy in ")


# ---- against an oracle

_LABELS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["x", "y"]), max_size=2)
_SELECTOR = st.one_of(st.just({}), st.builds(lambda labels: {"matchLabels": labels}, _LABELS))
_PEER = st.one_of(
    st.builds(lambda s: {"podSelector": s}, _SELECTOR),
    st.sampled_from([{"namespaceSelector": {}}, {"namespaceSelector": {"matchLabels": {"team": "b"}}}]),
    st.builds(lambda s: {"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": s}, _SELECTOR),
)
_RULE = st.one_of(st.just({}), st.builds(lambda peers: {"from": peers}, st.lists(_PEER, min_size=1, max_size=2)))
_POLICY = st.builds(
    lambda namespace, selector, rules: policy("", namespace, podSelector=selector, ingress=rules),
    st.sampled_from(["default", "other"]),
    _SELECTOR,
    st.lists(_RULE, max_size=2),
)


def _peer_has(peer: Obj, namespace: str, sender: Obj) -> bool:
    spoken = {n["metadata"]["name"]: n["metadata"]["labels"] for n in NAMESPACES}[sender["metadata"]["namespace"]]
    labels = sender["metadata"]["labels"]
    if "podSelector" in peer and not from_label_selector(peer["podSelector"]).matches(labels):
        return False
    if "namespaceSelector" in peer:
        return from_label_selector(peer["namespaceSelector"]).matches(spoken)
    return bool(sender["metadata"]["namespace"] == namespace)


def _allowed(policies: list[Obj], receiver: Obj, sender: Obj) -> bool:
    """The documentation's words: isolated if selected by any, then allowed if any rule of any allows."""
    chosen = [
        p
        for p in policies
        if p["metadata"]["namespace"] == receiver["metadata"]["namespace"]
        and from_label_selector(p["spec"]["podSelector"]).matches(receiver["metadata"]["labels"])
    ]
    rules = [(p["metadata"]["namespace"], rule) for p in chosen for rule in p["spec"]["ingress"]]
    return not chosen or any(not r.get("from") or any(_peer_has(x, ns, sender) for x in r["from"]) for ns, r in rules)


def _passes(table: PolicyTable, receiver: str, sender: str) -> bool:
    """Walk the chain as the kernel does."""
    if ("in", receiver) not in table.elements:
        return True
    for rule in chain_of(table, "in", receiver):
        match = rule.removesuffix("return").strip()
        if rule == "drop":
            return False
        if not match or (match.removeprefix("ip saddr @"), sender) in table.elements:
            return True
    raise AssertionError("a chain without an end")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(_POLICY, max_size=4),
    st.lists(st.tuples(st.sampled_from(["default", "other"]), _LABELS), min_size=2, max_size=5),
    st.data(),
)
def test_the_table_lets_through_what_the_documentation_says(
    policies: list[Obj], specs: list[tuple[str, dict[str, str]]], data: st.DataObject
) -> None:
    for number, one in enumerate(policies):
        one["metadata"]["name"] = f"p{number}"
    pods = [pod(f"pod{i}", f"10.244.0.{i + 2}", namespace, **labels) for i, (namespace, labels) in enumerate(specs)]
    table = table_of(policies, pods)
    changed = data.draw(st.integers(0, len(pods) - 1))
    pods[changed]["metadata"]["labels"] = data.draw(_LABELS)  # the same pod, event by event
    table.set_pod(pods[changed])
    assert table.elements == table_of(policies, pods).elements
    for receiver in pods:
        for sender in pods:
            assert _passes(table, receiver["status"]["podIP"], sender["status"]["podIP"]) == _allowed(
                policies, receiver, sender
            )
