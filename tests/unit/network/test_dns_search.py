"""Look-ups along a pod's search path are answered in one round, and only for the pods whose path it is."""

from __future__ import annotations

from typing import Any

import pytest
from dnslib import QTYPE, DNSRecord

from cluster.network import dns_wire as wire
from cluster.network.dns_core import Reply, Resolver
from cluster.network.dns_elsewhere import Elsewhere
from cluster.network.dns_search import SearchPaths, expansions
from cluster.network.dns_zone import Zone, ZoneConfig, service_records
from tests.support.dns_server import PATIENT_S, FakeApi, Running, Upstream, address, over_udp, upstreams

Obj = dict[str, Any]
CLIENT, STRANGER = "10.244.1.7", "10.244.1.8"
NXDOMAIN = 3


def pod(namespace: str = "shop", ip: str = CLIENT, **spec: Any) -> Obj:
    return {"metadata": {"name": "p", "namespace": namespace}, "spec": spec, "status": {"podIP": ip}}


def resolver(*pods: Obj) -> Resolver:
    zone = Zone(ZoneConfig())
    for name, namespace in (("web", "shop"), ("api", "other")):
        obj = {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": "10.96.0.20", "ports": [{"port": 80}]},
        }
        zone.set_owner(f"{namespace}/{name}", service_records(obj, [], "cluster.local"))
    paths = SearchPaths("cluster.local")
    for index, one in enumerate(pods):
        paths.set_pod(f"p{index}", one)
    made = Resolver(zone, paths)
    made.ready = True
    return made


def ask(made: Resolver, name: str, qtype: str = "A", client: str = CLIENT) -> DNSRecord | Elsewhere:
    """As dns_serve.py asks: what is kept comes first."""
    question = bytes(DNSRecord.question(name, qtype).pack())
    kept = made.quick(question, client)
    if kept is not None:
        return DNSRecord.parse(question[:2] + kept[0])
    result = made.answer(question, client)
    assert result is not None
    return DNSRecord.parse(result.data) if isinstance(result, Reply) else result


def test_a_name_of_another_namespace_is_found_with_the_first_question() -> None:
    made = resolver(pod())
    for _ in range(2):
        answer = ask(made, "api.other.shop.svc.cluster.local")
        assert isinstance(answer, DNSRecord)
        assert [f"{rr.rname} {QTYPE[rr.rtype]} {rr.rdata}" for rr in answer.rr] == [
            "api.other.shop.svc.cluster.local. CNAME api.other.svc.cluster.local.",
            "api.other.svc.cluster.local. A 10.96.0.20",
        ]
    nothing = ask(made, "api.other.shop.svc.cluster.local", "AAAA")
    assert isinstance(nothing, DNSRecord)
    assert (nothing.header.rcode, [QTYPE[rr.rtype] for rr in nothing.rr]) == (0, ["CNAME"])


def test_who_has_another_path_is_told_the_truth_before_and_after() -> None:
    made = resolver(pod(), pod("elsewhere", STRANGER))
    for client in (STRANGER, CLIENT, STRANGER, "192.0.2.1"):
        answer = ask(made, "api.other.shop.svc.cluster.local", client=client)
        assert isinstance(answer, DNSRecord)
        assert answer.header.rcode == (0 if client == CLIENT else NXDOMAIN)


def test_a_name_outside_is_looked_for_at_once() -> None:
    answer = ask(resolver(pod()), "example.com.shop.svc.cluster.local")
    assert isinstance(answer, Elsewhere) and answer.names == (wire.name("example.com"),)


def test_dns_config_and_the_machines_domains_are_followed_in_their_order() -> None:
    paths = SearchPaths("cluster.local", ["lan"])
    paths.set_pod("a", pod(dnsConfig={"searches": ["corp.example.com"]}))
    assert paths.of(CLIENT) == tuple(
        wire.name(domain)
        for domain in ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan", "corp.example.com")
    )
    paths.set_pod("a", pod(dnsPolicy="None", dnsConfig={"searches": ["corp.example.com"]}))
    assert paths.of(CLIENT) == (wire.name("corp.example.com"),)


def test_a_pod_that_is_gone_or_finished_or_on_the_machines_network_has_no_path() -> None:
    paths = SearchPaths("cluster.local")
    finished = pod()
    finished["status"]["phase"] = "Succeeded"
    for last in (None, finished, pod(hostNetwork=True)):
        paths.set_pod("a", pod())
        assert len(paths) == 1
        paths.set_pod("a", last)
        assert len(paths) == 0


@pytest.mark.parametrize("name", ["shop.svc.cluster.local", "xshop.svc.cluster.local", "example.com"])
def test_only_a_name_within_the_first_domain_begins_a_search(name: str) -> None:
    path = (wire.name("shop.svc.cluster.local"), wire.name("svc.cluster.local"))
    assert expansions(wire.name(name), path) == ()


async def test_a_search_that_leads_outside_is_one_round(running: Running, upstream: Upstream) -> None:
    upstream.records["example.com"] = address("example.com", "192.0.2.7")
    local = pod("shop", "127.0.0.1")
    server = await running(
        FakeApi({"pods": [local]}), upstreams=upstreams(upstream), upstream_timeout_s=PATIENT_S, node_name="m1"
    )
    for _ in range(2):
        answer = await over_udp(server, "example.com.shop.svc.cluster.local")
        assert [str(rr.rdata) for rr in answer.rr] == ["example.com.", "192.0.2.7"]
    denied = await over_udp(server, "nosuch.example.com.shop.svc.cluster.local")
    assert (denied.header.rcode, str(denied.auth[0].rname)) == (NXDOMAIN, "cluster.local.")
    assert upstream.asked == ["example.com", "nosuch.example.com"]


async def test_when_nobody_outside_answers_the_search_goes_on(running: Running) -> None:
    server = await running(FakeApi({"pods": [pod("shop", "127.0.0.1")]}), node_name="m1")
    answer = await over_udp(server, "example.com.shop.svc.cluster.local")
    assert answer.header.rcode == NXDOMAIN
