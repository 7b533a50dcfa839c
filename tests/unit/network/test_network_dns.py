"""DNS: which names exist, messages as an independent library reads them, and the server on a loopback port."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest
from dnslib import EDNS0, QTYPE, DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from cluster.network import dns_snapshot
from cluster.network import dns_wire as wire
from cluster.network.dns_core import Reply, Resolver
from cluster.network.dns_elsewhere import Elsewhere
from cluster.network.dns_forward import matches
from cluster.network.dns_zone import Zone, ZoneConfig, service_records
from tests.support.dns_server import FakeApi, Running, over_udp

Obj = dict[str, Any]
NXDOMAIN, SERVFAIL, REFUSED, NOTIMP, FORMERR = 3, 2, 5, 4, 1


def service(name: str, cluster_ip: str = "10.96.0.20", namespace: str = "default", **spec: Any) -> Obj:
    spec.setdefault("ports", [{"name": "http", "port": 80, "protocol": "TCP"}])
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": cluster_ip, **spec}}


def slice_of(name: str, *endpoints: Obj, port: int = 5432) -> Obj:
    return {
        "metadata": {
            "name": f"{name}-x",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "db", "port": port, "protocol": "TCP"}],
        "endpoints": list(endpoints),
    }


HEADLESS = service("db", "None")
MEMBERS = slice_of(
    "db",
    {"addresses": ["10.244.1.5"], "hostname": "db-0"},
    {"addresses": ["10.244.2.5"]},
    {"addresses": ["10.244.3.5"], "conditions": {"ready": False}},
)


def zone_of(*services: tuple[Obj, list[Obj]], pod_records: str = "insecure") -> Zone:
    zone = Zone(ZoneConfig(pod_records=pod_records))
    for obj, slices in services:
        zone.set_owner(f"default/{obj['metadata']['name']}", service_records(obj, slices, "cluster.local"))
    return zone


def resolver_of(zone: Zone) -> Resolver:
    resolver = Resolver(zone)
    resolver.ready = True
    return resolver


def ask(zone: Zone, name: str, qtype: str = "A", *, tcp: bool = False, edns: int = 0) -> DNSRecord:
    question = DNSRecord.question(name, qtype)
    if edns:
        question.add_ar(EDNS0(udp_len=edns))
    result = resolver_of(zone).answer(bytes(question.pack()), tcp=tcp)
    assert isinstance(result, Reply)
    answer = DNSRecord.parse(result.data)
    assert answer.header.id == question.header.id
    assert str(answer.q.qname) == str(question.q.qname)
    return answer


def texts(answer: DNSRecord) -> list[str]:
    return sorted(f"{rr.rname} {rr.ttl} {QTYPE[rr.rtype]} {rr.rdata}" for rr in answer.rr)


def test_a_cluster_ip() -> None:
    zone = zone_of((service("web"), []))
    answer = ask(zone, "web.default.svc.cluster.local")
    assert texts(answer) == ["web.default.svc.cluster.local. 30 A 10.96.0.20"]
    assert answer.header.aa and answer.header.ra and answer.header.rd


def test_names_are_found_in_any_case_and_the_question_comes_back_as_asked() -> None:
    zone = zone_of((service("web"), []))
    answer = ask(zone, "WEB.Default.svc.CLUSTER.local")
    assert str(answer.short()) == "10.96.0.20"


def test_the_wrong_type_is_nodata_with_soa() -> None:
    answer = ask(zone_of((service("web"), [])), "web.default.svc.cluster.local", "AAAA")
    assert (answer.header.rcode, answer.rr) == (0, [])
    assert [(str(rr.rname), rr.ttl, QTYPE[rr.rtype]) for rr in answer.auth] == [("cluster.local.", 5, "SOA")]


@pytest.mark.parametrize(
    "name",
    [
        "nosuch.default.svc.cluster.local",
        "google.com.default.svc.cluster.local",
        "web.default.svc.cluster.local.default.svc.cluster.local",
        "99.0.96.10.in-addr.arpa",
    ],
)
def test_what_does_not_exist_is_nxdomain_with_a_short_life(name: str) -> None:
    answer = ask(zone_of((service("web"), [])), name)
    assert answer.header.rcode == NXDOMAIN
    assert answer.auth[0].ttl == 5


@pytest.mark.parametrize("name", ["svc.cluster.local", "default.svc.cluster.local", "cluster.local"])
def test_a_name_with_names_below_it_exists(name: str) -> None:
    answer = ask(zone_of((service("web"), [])), name)
    assert (answer.header.rcode, answer.rr) == (0, [])


def test_a_namespace_without_services_is_gone() -> None:
    zone = zone_of((service("web"), []))
    zone.set_owner("default/web", {})
    assert ask(zone, "default.svc.cluster.local").header.rcode == NXDOMAIN


def test_srv_of_a_named_port() -> None:
    answer = ask(zone_of((service("web"), [])), "_http._tcp.web.default.svc.cluster.local", "SRV")
    assert texts(answer)[0].endswith("SRV 0 100 80 web.default.svc.cluster.local.")
    assert [str(rr) for rr in answer.ar] == ["web.default.svc.cluster.local. 30      IN      A       10.96.0.20"]


def test_a_headless_service_is_its_ready_endpoints() -> None:
    zone = zone_of((HEADLESS, [MEMBERS]))
    assert texts(ask(zone, "db.default.svc.cluster.local")) == [
        "db.default.svc.cluster.local. 30 A 10.244.1.5",
        "db.default.svc.cluster.local. 30 A 10.244.2.5",
    ]
    assert texts(ask(zone, "db-0.db.default.svc.cluster.local")) == [
        "db-0.db.default.svc.cluster.local. 30 A 10.244.1.5"
    ]
    assert ask(zone, "10-244-2-5.db.default.svc.cluster.local").header.rcode == 0
    srv = ask(zone, "_db._tcp.db.default.svc.cluster.local", "SRV")
    assert [str(rr.rdata) for rr in srv.rr] and all("5432" in str(rr.rdata) for rr in srv.rr)
    assert len(srv.rr) == len(srv.ar) == 2


def test_a_headless_service_without_endpoints_has_no_name() -> None:
    assert ask(zone_of((HEADLESS, [])), "db.default.svc.cluster.local").header.rcode == NXDOMAIN


def test_several_addresses_take_turns() -> None:
    resolver = resolver_of(zone_of((HEADLESS, [MEMBERS])))
    firsts = set()
    for _ in range(4):
        result = resolver.answer(bytes(DNSRecord.question("db.default.svc.cluster.local").pack()))
        assert isinstance(result, Reply)
        firsts.add(str(DNSRecord.parse(result.data).rr[0].rdata))
    assert firsts == {"10.244.1.5", "10.244.2.5"}


def test_reverse_names() -> None:
    zone = zone_of((service("web"), []), (HEADLESS, [MEMBERS]))
    assert str(ask(zone, "20.0.96.10.in-addr.arpa", "PTR").short()) == "web.default.svc.cluster.local."
    assert str(ask(zone, "5.1.244.10.in-addr.arpa", "PTR").short()) == "db-0.db.default.svc.cluster.local."


def test_pod_names() -> None:
    assert str(ask(zone_of(), "10-244-1-7.default.pod.cluster.local").short()) == "10.244.1.7"
    assert ask(zone_of(), "10-244-1-300.default.pod.cluster.local").header.rcode == NXDOMAIN
    off = zone_of(pod_records="disabled")
    assert ask(off, "10-244-1-7.default.pod.cluster.local").header.rcode == NXDOMAIN
    known = zone_of(pod_records="verified")
    known.set_pod("default/p", "10.244.1.7")
    assert str(ask(known, "10-244-1-7.default.pod.cluster.local").short()) == "10.244.1.7"
    assert ask(known, "10-244-1-7.other.pod.cluster.local").header.rcode == NXDOMAIN
    known.set_pod("default/p", "")
    assert ask(known, "10-244-1-7.default.pod.cluster.local").header.rcode == NXDOMAIN


def test_an_external_name_inside_the_cluster_is_followed() -> None:
    alias = service("alias", "", type="ExternalName", externalName="web.default.svc.cluster.local")
    answer = ask(zone_of((service("web"), []), (alias, [])), "alias.default.svc.cluster.local")
    assert texts(answer) == [
        "alias.default.svc.cluster.local. 30 CNAME web.default.svc.cluster.local.",
        "web.default.svc.cluster.local. 30 A 10.96.0.20",
    ]


def test_an_alias_of_itself_ends() -> None:
    alias = service("alias", "", type="ExternalName", externalName="alias.default.svc.cluster.local")
    assert len(ask(zone_of((alias, [])), "alias.default.svc.cluster.local", tcp=True).rr) == 8


def test_an_external_name_elsewhere_is_chased_upstream_and_other_names_are_asked() -> None:
    alias = service("alias", "", type="ExternalName", externalName="db.example.com")
    resolver = resolver_of(zone_of((alias, [])))
    chase = resolver.answer(bytes(DNSRecord.question("alias.default.svc.cluster.local").pack()))
    assert isinstance(chase, Elsewhere) and chase.otherwise is None
    direct = resolver.answer(bytes(DNSRecord.question("alias.default.svc.cluster.local", "CNAME").pack()))
    assert isinstance(direct, Reply)
    assert isinstance(resolver.answer(bytes(DNSRecord.question("example.com").pack())), Elsewhere)
    assert isinstance(resolver.answer(bytes(DNSRecord.question("1.1.1.1.in-addr.arpa", "PTR").pack())), Elsewhere)


def test_the_apex_and_the_version() -> None:
    assert "2" in str(ask(zone_of(), "cluster.local", "SOA").rr[0].rdata)
    assert str(ask(zone_of(), "cluster.local", "NS").short()) == "ns.dns.cluster.local."
    assert "1.1.0" in str(ask(zone_of(), "dns-version.cluster.local", "TXT").short())


def test_too_much_for_udp_is_truncated_and_whole_over_tcp() -> None:
    many = slice_of("db", *[{"addresses": [f"10.244.1.{n}"]} for n in range(1, 101)])
    zone = zone_of((HEADLESS, [many]))
    small = ask(zone, "db.default.svc.cluster.local")
    assert small.header.tc and 0 < len(small.rr) < 100 and len(small.pack()) <= 512
    medium = ask(zone, "db.default.svc.cluster.local", edns=4096)
    assert medium.header.tc and len(medium.rr) > len(small.rr)
    assert medium.ar[0].rtype == QTYPE.OPT
    whole = ask(zone, "db.default.svc.cluster.local", tcp=True)
    assert not whole.header.tc and len(whole.rr) == 100


def test_until_the_first_list_names_are_unknown_not_absent() -> None:
    resolver = Resolver(zone_of())
    result = resolver.answer(bytes(DNSRecord.question("web.default.svc.cluster.local").pack()))
    assert isinstance(result, Reply) and result.rcode == SERVFAIL


def test_odd_queries_get_their_error() -> None:
    resolver = resolver_of(zone_of())

    def code(data: bytes) -> int | None:
        result = resolver.answer(data)
        assert result is None or isinstance(result, Reply)
        return None if result is None else result.data[3] & 0xF

    question = bytes(DNSRecord.question("cluster.local").pack())
    assert code(b"") is None
    assert code(question[:2] + b"\x80\0" + question[4:]) is None, "an answer is never answered"
    assert code(question[:2] + b"\x28\0" + question[4:]) == NOTIMP
    assert code(question[:4] + struct.pack("!HHHH", 2, 0, 0, 0) + question[12:]) == FORMERR
    assert code(question[:-3]) == FORMERR
    assert code(question[:-2] + b"\0\3") == REFUSED, "class CHAOS"
    assert code(bytes(DNSRecord.question("cluster.local", "AXFR").pack())) == NOTIMP


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.booleans())
def test_no_datagram_raises(data: bytes, dressed: bool) -> None:
    head = b"\0\1\1\0\0\1\0\0\0\0\0\0" if dressed else b""
    resolver_of(zone_of((service("web"), []))).answer(head + data)


def test_the_cache_forgets_when_the_zone_changes_and_never_keeps_cookies() -> None:
    zone = zone_of((service("web"), []))
    resolver = resolver_of(zone)
    question = bytes(DNSRecord.question("web.default.svc.cluster.local").pack())
    assert resolver.quick(question, "") is None
    resolver.answer(question)
    kept = resolver.quick(b"zz" + question[2:], "")
    assert kept is not None and str(DNSRecord.parse(question[:2] + kept[0]).short()) == "10.96.0.20"
    zone.set_owner("default/web", service_records(service("web", "10.96.0.21"), [], "cluster.local"))
    assert resolver.quick(question, "") is None
    cookie = question[:11] + b"\1" + question[12:] + b"\0\0\x29\x10\0\0\0\0\0\0\x0c\0\x0a\0\x08abcdefgh"
    assert isinstance(resolver.answer(cookie), Reply)
    assert resolver.quick(cookie, "") is None


_services = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["gone", "10.96.0.1", "10.96.0.2", "None"])), max_size=12
)


@settings(max_examples=100, deadline=None)
@given(_services)
def test_incremental_zone_equals_full(steps: list[tuple[str, str]]) -> None:
    zone, last = Zone(ZoneConfig()), {}
    for name, address in steps:
        records = {} if address == "gone" else service_records(service(name, address), [MEMBERS], "cluster.local")
        zone.set_owner(f"default/{name}", records)
        last[name] = records
    full = Zone(ZoneConfig())
    for name in sorted(last, reverse=True):
        full.set_owner(f"default/{name}", last[name])
    assert zone._ready == full._ready
    assert zone._existing == full._existing


def test_an_upstreams_answer_must_repeat_id_and_question() -> None:
    question = bytes(DNSRecord.question("example.com").pack())
    answer = question[:2] + b"\x81\x80" + question[4:]
    assert matches(question, answer)
    assert not matches(question, b"xx" + answer[2:])
    assert not matches(question, question)
    other = bytes(DNSRecord.question("example.org").pack())
    assert not matches(question, question[:2] + b"\x81\x80" + other[4:])


# ---- the server


async def test_the_server_answers_over_udp_and_tcp(running: Running) -> None:
    server = await running(FakeApi({"services": [service("web")]}))
    for _ in range(2):
        assert str((await over_udp(server, "web.default.svc.cluster.local")).short()) == "10.96.0.20"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for name in ("web.default.svc.cluster.local", "nosuch.default.svc.cluster.local"):
        packed = bytes(DNSRecord.question(name).pack())
        writer.write(struct.pack("!H", len(packed)) + packed)
        size = struct.unpack("!H", await reader.readexactly(2))[0]
        answer = DNSRecord.parse(await reader.readexactly(size))
        assert answer.header.rcode == (0 if name.startswith("web") else NXDOMAIN)
    writer.close()
    await writer.wait_closed()
    assert server.health()["requests"] == 4


async def test_requests_are_counted_under_coredns_names(running: Running) -> None:
    server = await running(FakeApi({"services": [service("web")]}))
    await over_udp(server, "web.default.svc.cluster.local")
    text = generate_latest(server._registry).decode()
    assert 'proto="udp",server="dns://127.0.0.1:0",type="A"' in text
    assert "coredns_dns_request_duration_seconds_count" in text


async def test_without_upstreams_other_names_are_refused_at_once(running: Running) -> None:
    server = await running(FakeApi({}))
    assert (await over_udp(server, "example.com")).header.rcode == REFUSED


async def test_while_the_api_is_down_from_the_start_names_fail_softly(running: Running) -> None:
    api = FakeApi({})
    api.down = True
    server = await running(api)
    assert (await over_udp(server, "web.default.svc.cluster.local")).header.rcode == SERVFAIL
    assert server.health()["ready"] is False


def test_a_zone_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    zone = Zone(ZoneConfig(pod_records="verified"))
    zone.set_owner("default/web", service_records(service("web"), [], "cluster.local"))
    headless = service("db", "None")
    zone.set_owner(
        "default/db", service_records(headless, [slice_of("db", {"addresses": ["10.244.1.5"]})], "cluster.local")
    )
    zone.set_pod("default/p", "10.244.1.9")
    (tmp_path / "zone").write_bytes(dns_snapshot.pack(zone))
    copy = Zone(ZoneConfig(pod_records="verified"))
    assert dns_snapshot.load(copy, tmp_path / "zone")
    for text in ("web.default.svc", "db.default.svc", "10-244-1-9.default.pod", "10-244-1-8.default.pod", "no.such"):
        for qtype in (wire.A, wire.SRV, wire.AAAA):
            name = wire.name(f"{text}.cluster.local")
            ours, theirs = zone.answer(name, qtype), copy.answer(name, qtype)
            assert ours is not None and theirs is not None
            assert (ours.rcode, ours.answers, ours.additional) == (theirs.rcode, theirs.answers, theirs.additional)


@pytest.mark.parametrize("data", [b"", b"\x93\x09\x90\x90", b"\xc1", b"\x93\x01\x91\x01\x90"])
def test_a_zone_file_that_cannot_be_read_is_not_believed(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "zone").write_bytes(data)
    assert not dns_snapshot.load(Zone(ZoneConfig()), tmp_path / "zone")
    assert not dns_snapshot.load(Zone(ZoneConfig()), tmp_path / "absent")
