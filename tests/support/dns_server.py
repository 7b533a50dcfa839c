"""A DNS server on a loopback port, an upstream resolver beside it, and a client, for tests. All on the test's loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from dnslib import EDNS0, QTYPE, RR, SOA, A, DNSHeader, DNSQuestion, DNSRecord
from prometheus_client import CollectorRegistry

from cluster.api.errors import ApiError
from cluster.machinery.client import ObjectList, WatchEvent
from cluster.network.config import DnsConfig
from cluster.network.dns import DnsServer

Obj = dict[str, Any]
FORMERR, NXDOMAIN = 1, 3
PATIENT_S = 30.0
"""Upstream timeout for tests that are not about silence."""


class FakeApi:
    """One list, then silence; `down` refuses."""

    def __init__(self, objects: dict[str, list[Obj]]) -> None:
        self.objects = objects
        self.down = False

    async def list(self, resource: str, namespace: str = "", **_: str) -> ObjectList:
        if self.down:
            raise ApiError(503, "ServiceUnavailable", "down")
        return ObjectList(self.objects.get(resource, []), "5")

    async def watch(self, resource: str, namespace: str = "", **_: str) -> AsyncIterator[WatchEvent]:
        await asyncio.Event().wait()
        yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "6"}})


class Upstream(asyncio.DatagramProtocol):
    """A resolver that says what `records` has (None: NXDOMAIN) and remembers what it was `asked`."""

    def __init__(self) -> None:
        self.records: dict[str, list[RR] | None] = {}
        self.asked: list[str] = []
        self.silent = False
        self.understands_edns = True
        self.truncates = False
        self.holds: asyncio.Event | None = None
        """Answers wait until it is set."""
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        asked = DNSRecord.parse(data)
        self.asked.append(f"{asked.q.qname}".rstrip("."))
        if not self.silent:
            task = asyncio.get_running_loop().create_task(self._send(self.answer(asked, tcp=False), addr))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, answer: bytes, addr: Any) -> None:
        if self.holds is not None:
            await self.holds.wait()
        if self._transport is not None:
            self._transport.sendto(answer, addr)

    def answer(self, asked: DNSRecord, *, tcp: bool) -> bytes:
        name = str(asked.q.qname).rstrip(".")
        header = DNSHeader(id=asked.header.id, qr=1, ra=1)
        out = DNSRecord(header, q=DNSQuestion(asked.q.qname, asked.q.qtype))
        if not self.understands_edns and asked.ar:
            header.rcode = FORMERR
        elif self.truncates and not tcp:
            header.tc = 1
        else:
            found = self.records.get(name)
            header.rcode = NXDOMAIN if found is None else 0
            for rr in found or ():
                out.add_answer(rr)
            if not found:
                times = (1, 3600, 600, 86400, 7)
                out.add_auth(
                    RR("example.com", QTYPE.SOA, ttl=60, rdata=SOA("ns.example.com", "root.example.com", times))
                )
        return bytes(out.pack())

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2))
        answer = self.answer(DNSRecord.parse(await reader.readexactly(size)), tcp=True)
        writer.write(len(answer).to_bytes(2) + answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def running_upstream() -> AsyncIterator[Upstream]:
    """On UDP and TCP of one loopback port; one that is free for UDP may be taken for TCP."""
    loop = asyncio.get_running_loop()
    for attempts in range(20, 0, -1):
        transport, upstream = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", 0))
        try:
            server = await asyncio.start_server(upstream.on_connection, "127.0.0.1", upstream.port)
            break
        except OSError:
            transport.close()
            if attempts == 1:
                raise
    try:
        yield upstream
    finally:
        server.close()
        transport.close()
        await asyncio.sleep(0)


def upstreams(*resolvers: Upstream) -> tuple[str, ...]:
    return tuple(f"127.0.0.1:{resolver.port}" for resolver in resolvers)


def address(name: str, ip: str, ttl_s: int = 60) -> list[RR]:
    return [RR(name, QTYPE.A, ttl=ttl_s, rdata=A(ip))]


Running = Callable[..., Awaitable[DnsServer]]


@contextlib.asynccontextmanager
async def running_servers() -> AsyncIterator[Running]:
    """A function that starts a server for an API; all end with the block."""
    tasks: list[asyncio.Task[None]] = []

    async def start(api: FakeApi, **options: Any) -> DnsServer:
        config = DnsConfig(listen_ip="127.0.0.1", port=0, make_link=False, **options)
        server = DnsServer(config, api, registry=CollectorRegistry())  # type: ignore[arg-type]
        tasks.append(asyncio.create_task(server.run()))
        async with asyncio.timeout(30):
            while not _ready(server, api):
                await asyncio.sleep(0.005)
        return server

    try:
        yield start
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


def _ready(server: DnsServer, api: FakeApi) -> bool:
    health = server.health()
    paths = len(api.objects.get("pods", ()))
    return bool(health["listening"]) and (api.down or (bool(health["ready"]) and health["search_paths"] == paths))


class _Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if not self.answer.done():
            self.answer.set_result(data)


async def over_udp(server: DnsServer, name: str, qtype: str = "A", *, edns: int = 0) -> DNSRecord:
    question = DNSRecord.question(name, qtype)
    if edns:
        question.add_ar(EDNS0(udp_len=edns))
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        _Client, remote_addr=("127.0.0.1", server.port)
    )
    try:
        transport.sendto(question.pack())
        async with asyncio.timeout(30):
            return DNSRecord.parse(await protocol.answer)
    finally:
        transport.close()
        await asyncio.sleep(0)
