"""Service rules: what one Service wants, what incremental changes add up to, and the text for nft."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.network.conntrack import Flow, orphaned_flows, stale_flows
from cluster.network.rules import RuleConfig, RuleTable, node_elements, service_elements
from cluster.network.ruleset import chain_rules, chains_for, render_delta, render_full
from cluster.network.ruleset_base import TableConfig

Obj = dict[str, Any]
CONFIG = RuleConfig("m1", "10.89.0.11")
TABLE = TableConfig("10.244.0.0/16", "10.96.0.0/12")


def service(name: str = "web", cluster_ip: str = "10.96.0.20", **spec: Any) -> Obj:
    spec.setdefault("ports", [{"port": 80, "protocol": "TCP"}])
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"clusterIP": cluster_ip, **spec}}


def endpoint(address: str, node: str = "m1", **conditions: bool) -> Obj:
    return {"addresses": [address], "nodeName": node, "conditions": conditions}


def slice_of(*endpoints: Obj, port: int = 8080, protocol: str = "TCP", name: str = "") -> Obj:
    return {
        "addressType": "IPv4",
        "ports": [{"name": name, "port": port, "protocol": protocol}],
        "endpoints": list(endpoints),
    }


def test_a_cluster_ip_is_one_front_and_numbered_endpoints() -> None:
    slices = [slice_of(endpoint("10.244.1.3"), endpoint("10.244.2.2", "m2"))]
    assert service_elements(service(), slices, CONFIG) == {
        ("svcs", "10.96.0.20 . tcp . 80"): "goto n-tcp-2",
        ("eps_tcp", "10.96.0.20 . 80 . 0"): "10.244.1.3 . 8080",
        ("eps_tcp", "10.96.0.20 . 80 . 1"): "10.244.2.2 . 8080",
        ("hairpin", "10.244.1.3 . 10.244.1.3"): "",
    }


@pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"type": "ExternalName", "clusterIP": ""}, {"clusterIP": ""}])
def test_services_without_an_address_have_no_rules(spec: Obj) -> None:
    bare = service()
    bare["spec"].update(spec)
    assert service_elements(bare, [slice_of(endpoint("10.244.1.3"))], CONFIG) == {}


def test_without_endpoints_an_address_has_no_element_and_a_node_port_is_refused() -> None:
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}]
    found = service_elements(service(ports=ports, externalIPs=["192.0.2.1"]), [], CONFIG)
    assert found == {("noports", "tcp . 30080"): "", ("noeps", "192.0.2.1 . tcp . 80"): ""}


def test_only_ready_endpoints_or_else_those_still_serving() -> None:
    ready = endpoint("10.244.1.3", ready=True)
    leaving = endpoint("10.244.1.4", ready=False, serving=True, terminating=True)
    broken = endpoint("10.244.1.5", ready=False)
    both = service_elements(service(), [slice_of(ready, leaving, broken)], CONFIG)
    assert {v for (m, _), v in both.items() if m == "eps_tcp"} == {"10.244.1.3 . 8080"}
    rest = service_elements(service(), [slice_of(leaving, broken)], CONFIG)
    assert {v for (m, _), v in rest.items() if m == "eps_tcp"} == {"10.244.1.4 . 8080"}


def test_ports_are_matched_by_name_and_protocol() -> None:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "web", "port": 80, "protocol": "TCP"}]
    slices = [
        slice_of(endpoint("10.244.1.3"), port=5353, protocol="UDP", name="dns"),
        slice_of(endpoint("10.244.1.3"), port=8080, name="web"),
    ]
    found = service_elements(service(ports=ports), slices, CONFIG)
    assert found["eps_udp", "10.96.0.20 . 53 . 0"] == "10.244.1.3 . 5353"
    assert found["eps_tcp", "10.96.0.20 . 80 . 0"] == "10.244.1.3 . 8080"


def test_traffic_policy_local() -> None:
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}]
    spec = {"ports": ports, "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}
    away = [slice_of(endpoint("10.244.2.2", "m2"))]
    found = service_elements(service(**spec), away, CONFIG)
    assert found["svcs", "10.96.0.20 . tcp . 80"] == "drop"
    assert found["ports", "tcp . 30080"] == "drop"
    assert found["inports", "tcp . 30080"] == "goto z-tcp-1"
    both = [slice_of(endpoint("10.244.2.2", "m2"), endpoint("10.244.1.2", "m1"))]
    found = service_elements(service(**spec), both, CONFIG)
    assert found["svcs", "10.96.0.20 . tcp . 80"] == "goto n-tcp-1"
    assert found["ports", "tcp . 30080"] == "goto y-tcp-1"
    assert found["inports", "tcp . 30080"] == "goto z-tcp-2"


def test_affinity_marks_are_shared_by_address_and_node_port_but_not_across_policies() -> None:
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}]
    slices = [slice_of(endpoint("10.244.1.2"))]
    timeout = {"clientIP": {"timeoutSeconds": 60}}
    found = service_elements(
        service(ports=ports, sessionAffinity="ClientIP", sessionAffinityConfig=timeout), slices, CONFIG
    )
    assert found["svcs", "10.96.0.20 . tcp . 80"] == "goto an-tcp-1"
    assert found["affids", "10.96.0.20 . tcp . 80"] == found["affportids", "tcp . 30080"]
    assert found["afflearn", found["affportids", "tcp . 30080"]] == "goto t-60"
    local = service_elements(
        service(ports=ports, sessionAffinity="ClientIP", externalTrafficPolicy="Local"), slices, CONFIG
    )
    assert local["affids", "10.96.0.20 . tcp . 80"] != local["affportids", "tcp . 30080"]


def test_a_rival_gets_an_element_when_the_holder_lets_go() -> None:
    table = RuleTable()
    table.set_owner("b", {("ports", "tcp . 30080"): "goto x-tcp-1"})
    table.set_owner("a", {("ports", "tcp . 30080"): "goto x-tcp-2"})
    assert table.take().added == {("ports", "tcp . 30080"): "goto x-tcp-2"}
    table.set_owner("a", {})
    delta = table.take()
    assert delta.removed == {("ports", "tcp . 30080"): "goto x-tcp-2"}
    assert delta.added == {("ports", "tcp . 30080"): "goto x-tcp-1"}


def test_what_changes_back_before_it_is_taken_is_no_change() -> None:
    table = RuleTable()
    table.set_owner("a", {("svcs", "x"): "1"})
    table.take()
    table.set_owner("a", {})
    table.set_owner("a", {("svcs", "x"): "1"})
    assert not table.take()


_keys = st.tuples(st.sampled_from(["svcs", "affids", "hairpin"]), st.sampled_from(["1", "2", "3"]))
_steps = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.dictionaries(_keys, st.sampled_from(["", "v", "w"]), max_size=4)),
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(_steps, st.sets(st.integers(0, 24)))
def test_incremental_equals_full(steps: list[tuple[str, dict[tuple[str, str], str]]], takes: set[int]) -> None:
    table, kernel = RuleTable(), dict[tuple[str, str], str]()
    last: dict[str, dict[tuple[str, str], str]] = {}
    for index, (owner, elements) in enumerate(steps):
        table.set_owner(owner, copy.deepcopy(elements))
        last[owner] = elements
        if index in takes:
            _apply(table, kernel)
    _apply(table, kernel)
    full = RuleTable()
    for owner in sorted(last, reverse=True):
        full.set_owner(owner, last[owner])
    assert kernel == dict(table.elements) == dict(full.elements)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sets(st.integers(1, 40)), min_size=2, max_size=12))
def test_a_change_of_endpoints_moves_no_others(members: list[set[int]]) -> None:
    """One that goes is replaced by the last, so a change of n endpoints is at most 2n numbers of a front."""
    config, table = RuleConfig("m1", "10.89.0.11"), RuleTable()
    spec = service(type="NodePort", externalTrafficPolicy="Local", ports=[{"port": 80, "nodePort": 30080}])
    before: set[int] = set()
    for now in members:
        slices = [slice_of(*(endpoint(f"10.244.1.{n}", f"m{n % 2}") for n in now))]
        wanted = service_elements(spec, slices, config)
        table.set_owner("default/web", wanted)
        delta = table.take()
        assert table.elements.keys() == wanted.keys()
        for name in ("eps_tcp", "porteps_tcp"):
            moved = [key for key in (*delta.added, *delta.removed) if key[0] == name]
            assert len(moved) <= 2 * 2 * 3 * len(now ^ before), "three series of numbers, removed and added"
            assert _values(table.elements, name) == _values(wanted, name)
        before = now


def _values(elements: Any, name: str) -> list[str]:
    return sorted(value for (map_name, _), value in elements.items() if map_name == name)


def _apply(table: RuleTable, kernel: dict[tuple[str, str], str]) -> None:
    delta = table.take()
    for key, value in delta.removed.items():
        assert kernel.pop(key) == value, "nft refuses to delete what is not there"
    for key, value in delta.added.items():
        assert key not in kernel, "nft refuses to change an element in place"
        kernel[key] = value


def test_a_change_is_a_few_elements_and_new_chains_only_when_needed() -> None:
    table = RuleTable()
    table.set_owner("default/web", service_elements(service(), [slice_of(endpoint("10.244.1.3"))], CONFIG))
    table.take()
    _, chains = render_full(TABLE, table.elements)
    assert chains == {"n-tcp-1"}
    two = [slice_of(endpoint("10.244.1.3"), endpoint("10.244.1.4"))]
    table.set_owner("default/web", service_elements(service(), two, CONFIG))
    text, chains = render_delta(TABLE, table.take(), chains)
    assert text.splitlines() == [
        "add chain ip sk8 n-tcp-2",
        "add rule ip sk8 n-tcp-2 ip saddr != 10.244.0.0/16 fib saddr type != local "
        "meta mark set meta mark | 0x00004000",
        "add rule ip sk8 n-tcp-2 dnat ip to ip daddr . tcp dport . numgen random mod 2 map @eps_tcp",
        "delete element ip sk8 svcs { 10.96.0.20 . tcp . 80 }",
        "add element ip sk8 eps_tcp { 10.96.0.20 . 80 . 1 : 10.244.1.4 . 8080 }",
        "add element ip sk8 hairpin { 10.244.1.4 . 10.244.1.4 }",
        "add element ip sk8 svcs { 10.96.0.20 . tcp . 80 : goto n-tcp-2 }",
    ]
    assert chains == {"n-tcp-1", "n-tcp-2"}


def test_an_affinity_chain_comes_after_the_one_it_goes_to() -> None:
    assert chains_for(["goto an-tcp-2", "goto t-60", "drop"]) == ["n-tcp-2", "t-60", "an-tcp-2"]
    assert chain_rules("an-tcp-2", TABLE)[-1] == "goto n-tcp-2"
    assert chain_rules("z-udp-3", TABLE) == (
        "dnat ip to udp dport . numgen random mod 3 offset 65536 map @porteps_udp",
    )


def test_nodes_addresses() -> None:
    node = {
        "status": {
            "addresses": [{"type": "Hostname", "address": "m1"}, {"type": "InternalIP", "address": "10.89.0.11"}]
        }
    }
    assert node_elements(node) == {("nodes", "10.89.0.11"): ""}
    assert node_elements({}) == {}


def test_stale_udp_flows_are_those_that_go_elsewhere_than_now() -> None:
    ports = [{"port": 53, "protocol": "UDP", "nodePort": 30053}]
    table = RuleTable()
    slices = [slice_of(endpoint("10.244.1.3"), protocol="UDP", port=5353)]
    table.set_owner("default/web", service_elements(service(ports=ports), slices, CONFIG))
    good = Flow("10.96.0.20", 53, "10.244.1.3", 5353, b"1")
    old = Flow("10.96.0.20", 53, "10.244.1.9", 5353, b"2")
    untranslated = Flow("10.96.0.20", 53, "10.96.0.20", 53, b"3")
    other = Flow("10.96.0.99", 53, "10.244.1.9", 5353, b"4")
    port_old = Flow("10.89.0.11", 30053, "10.244.1.9", 5353, b"5")
    elsewhere = Flow("192.0.2.1", 30053, "192.0.2.1", 30053, b"6")
    flows = [good, old, untranslated, other, port_old, elsewhere]
    assert stale_flows(flows, table, frozenset({"10.89.0.11"})) == [old, untranslated, port_old]
    assert orphaned_flows(flows, [("10.96.0.99", 53)]) == [other]
