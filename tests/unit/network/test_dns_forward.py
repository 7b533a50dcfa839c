"""Names outside the cluster: asked once, kept for as long as they may be, and shed when it is too much."""

from __future__ import annotations

import asyncio

import pytest
from dnslib import CNAME, MX, QTYPE, RR, TXT, DNSHeader, DNSQuestion, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from cluster.network import dns_message
from cluster.network import dns_wire as wire
from cluster.network.dns_cache import Cache
from cluster.network.dns_message import Message, Record
from cluster.network.dns_upstreams import Upstreams
from tests.support.dns_server import PATIENT_S, FakeApi, Running, Upstream, address, over_udp, upstreams

NXDOMAIN, SERVFAIL = 3, 2


def shown(answer: DNSRecord) -> list[str]:
    return [f"{rr.rname} {QTYPE[rr.rtype]} {rr.rdata}" for rr in answer.rr]


async def test_an_answer_is_asked_for_once_and_comes_back_as_the_client_asked(
    running: Running, upstream: Upstream
) -> None:
    upstream.records["example.com"] = [
        RR("example.com", QTYPE.CNAME, ttl=60, rdata=CNAME("real.example.com")),
        *address("real.example.com", "192.0.2.7"),
    ]
    server = await running(FakeApi({}), upstreams=upstreams(upstream), upstream_timeout_s=PATIENT_S)
    for name in ("example.com", "EXAMPLE.com"):
        answer = await over_udp(server, name)
        assert str(answer.q.qname) == f"{name}."
        assert shown(answer) == [f"{answer.q.qname} CNAME real.example.com.", "real.example.com. A 192.0.2.7"]
        assert not answer.header.aa and not answer.ar and answer.rr[0].ttl <= 30
    assert [QTYPE[rr.rtype] for rr in (await over_udp(server, "example.com", edns=1232)).ar] == ["OPT"]
    assert upstream.asked == ["example.com"]


async def test_a_denial_is_kept_too(running: Running, upstream: Upstream) -> None:
    server = await running(FakeApi({}), upstreams=upstreams(upstream), upstream_timeout_s=PATIENT_S)
    for _ in range(3):
        answer = await over_udp(server, "nosuch.example.com")
        assert answer.header.rcode == NXDOMAIN and QTYPE[answer.auth[0].rtype] == "SOA"
    assert upstream.asked == ["nosuch.example.com"]


async def test_an_alias_of_the_cluster_is_chased(running: Running, upstream: Upstream) -> None:
    upstream.records["db.example.com"] = address("db.example.com", "192.0.2.8")
    alias = {
        "metadata": {"name": "alias", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "db.example.com"},
    }
    server = await running(FakeApi({"services": [alias]}), upstreams=upstreams(upstream), upstream_timeout_s=PATIENT_S)
    for _ in range(2):
        answer = await over_udp(server, "alias.default.svc.cluster.local")
        assert shown(answer) == [
            "alias.default.svc.cluster.local. CNAME db.example.com.",
            "db.example.com. A 192.0.2.8",
        ]


async def test_a_storm_of_equal_queries_is_one_query_upstream(running: Running, upstream: Upstream) -> None:
    upstream.records["example.com"] = address("example.com", "192.0.2.7")
    upstream.holds = asyncio.Event()
    server = await running(FakeApi({}), upstreams=upstreams(upstream), upstream_timeout_s=PATIENT_S)
    storm = [asyncio.create_task(over_udp(server, "example.com")) for _ in range(50)]
    while not upstream.asked:
        await asyncio.sleep(0.01)
    upstream.holds.set()
    assert {str(answer.short()) for answer in await asyncio.gather(*storm)} == {"192.0.2.7"}
    assert upstream.asked == ["example.com"]


async def test_beyond_its_capacity_it_refuses_new_names_at_once_and_lives(running: Running, upstream: Upstream) -> None:
    upstream.records |= {f"n{i}.example.com": address(f"n{i}.example.com", "192.0.2.7") for i in range(3)}
    upstream.holds = asyncio.Event()
    server = await running(FakeApi({}), upstreams=upstreams(upstream), upstream_timeout_s=PATIENT_S, max_concurrent=2)
    held = [asyncio.create_task(over_udp(server, f"n{i}.example.com")) for i in range(2)]
    while len(upstream.asked) < 2:
        await asyncio.sleep(0.01)
    assert (await over_udp(server, "n2.example.com")).header.rcode == SERVFAIL
    upstream.holds.set()
    assert [answer.header.rcode for answer in await asyncio.gather(*held)] == [0, 0]
    assert str((await over_udp(server, "n2.example.com")).short()) == "192.0.2.7"


async def test_a_long_answer_comes_over_tcp_and_is_cut_for_who_has_no_room(
    running: Running, upstream: Upstream
) -> None:
    upstream.records["long.example.com"] = [
        RR("long.example.com", QTYPE.TXT, ttl=60, rdata=TXT(f"{i}" * 200)) for i in range(5)
    ]
    upstream.truncates = True
    server = await running(FakeApi({}), upstreams=upstreams(upstream), upstream_timeout_s=PATIENT_S)
    assert (await over_udp(server, "long.example.com", "TXT")).header.tc
    whole = await over_udp(server, "long.example.com", "TXT", edns=1232)
    assert not whole.header.tc and len(whole.rr) == 5


async def test_a_resolver_without_edns_is_asked_without(running: Running, upstream: Upstream) -> None:
    upstream.records["example.com"] = address("example.com", "192.0.2.7")
    upstream.understands_edns = False
    server = await running(FakeApi({}), upstreams=upstreams(upstream), upstream_timeout_s=PATIENT_S)
    assert str((await over_udp(server, "example.com", edns=1232)).short()) == "192.0.2.7"


async def test_silence_of_all_is_servfail(running: Running, upstream: Upstream) -> None:
    upstream.silent = True
    server = await running(FakeApi({}), upstreams=upstreams(upstream), upstream_timeout_s=0.05)
    assert (await over_udp(server, "example.com")).header.rcode == SERVFAIL


async def test_the_pods_of_the_coredns_deployment_are_asked_first(running: Running, upstream: Upstream) -> None:
    upstream.records["example.com"] = address("example.com", "192.0.2.7")
    kube_dns = {"metadata": {"name": "kube-dns", "namespace": "kube-system"}, "spec": {"clusterIP": "10.96.0.10"}}
    slice_ = {
        "metadata": {
            "name": "kube-dns-x",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "ports": [{"name": "dns", "port": upstream.port, "protocol": "UDP"}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
    }
    api = FakeApi({"services": [kube_dns], "endpointslices.discovery.k8s.io": [slice_]})
    server = await running(
        api, upstreams=("127.0.0.1:9",), upstream_service="kube-system/kube-dns", upstream_timeout_s=PATIENT_S
    )
    assert str((await over_udp(server, "example.com")).short()) == "192.0.2.7"


def test_one_that_was_silent_is_asked_last_for_a_while() -> None:
    known = Upstreams([("192.0.2.1", 53)])
    known.set_cluster([("10.244.1.5", 53), ("10.244.2.5", 53)])
    firsts = {known.in_order(0.0)[0] for _ in range(4)}
    assert firsts == set(known.cluster), "the pods take turns"
    known.silent(("10.244.1.5", 53), 0.0)
    assert {known.in_order(1.0)[-1] for _ in range(4)} == {("10.244.1.5", 53)}
    assert {known.in_order(6.0)[-1] for _ in range(4)} == {("192.0.2.1", 53)}
    known.silent(("10.244.1.5", 53), 6.0)
    known.answered(("10.244.1.5", 53))
    assert {known.in_order(7.0)[-1] for _ in range(4)} == {("192.0.2.1", 53)}


def message(ttl_s: int, rcode: int = 0) -> Message:
    return Message(rcode, False, (Record(b"\1a\0", wire.A, ttl_s, b"\1\2\3\4"),))


def test_the_cache_believes_nothing_for_longer_than_its_ttl() -> None:
    cache = Cache(max_ttl_s=30)
    for name, ttl_s, life_s in ((b"short", 10, 10), (b"long", 3600, 30)):
        cache.put((name, wire.A, False), message(ttl_s), 100.0)
        assert cache.get((name, wire.A, False), 100.0 + life_s - 0.1) is not None
        assert cache.get((name, wire.A, False), 100.0 + life_s) is None
    cache.put((b"never", wire.A, False), message(0), 100.0)
    assert cache.get((b"never", wire.A, False), 100.0) is None
    cache.put((b"failed", wire.A, False), Message(wire.SERVFAIL, False), 100.0)
    assert cache.get((b"failed", wire.A, False), 104.0) is not None
    assert cache.get((b"failed", wire.A, False), 105.0) is None


def test_a_full_cache_forgets_the_oldest() -> None:
    cache = Cache(max_entries=10)
    for number in range(25):
        cache.put((b"%d" % number, wire.A, False), message(60), float(number))
    assert len(cache) <= 10
    assert cache.get((b"24", wire.A, False), 25.0) is not None
    assert cache.get((b"0", wire.A, False), 25.0) is None


def test_names_inside_records_are_written_out() -> None:
    answer = DNSRecord(DNSHeader(qr=1), q=DNSQuestion("example.com", QTYPE.MX))
    answer.add_answer(RR("example.com", QTYPE.MX, ttl=60, rdata=MX("mail.example.com", 10)))
    parsed = dns_message.parse(bytes(answer.pack()))
    assert parsed.answers == (Record(wire.name("example.com"), 15, 60, b"\0\x0a" + wire.name("mail.example.com")),)


@pytest.mark.parametrize(
    "tail",
    [
        b"\xc0\x0c\0\5\0\1\0\0\0\1\0\2\xc0\x1c",  # an alias that points at itself
        b"\xc0\xff\0\1\0\1\0\0\0\1\0\4\1\2\3\4",  # a name that points ahead
        b"\xc0\x0c\0\1\0\1\0\0\0\1\0\xff\1\2\3\4",  # longer than the message
    ],
)
def test_what_leads_nowhere_is_refused(tail: bytes) -> None:
    head = b"\0\1\x81\x80\0\1\0\1\0\0\0\0" + b"\1a\0\0\1\0\1"
    with pytest.raises(wire.WireError):
        dns_message.parse(head + tail)


@given(st.binary(max_size=80), st.booleans())
def test_no_answer_of_an_upstream_does_more_than_be_refused(data: bytes, dressed: bool) -> None:
    if dressed:
        data = b"\0\1\x81\x80\0\1\0\1\0\1\0\1" + b"\1a\0\0\1\0\1" + data
    try:
        dns_message.parse(data)
    except wire.WireError as err:
        assert err.code == wire.FORMERR
