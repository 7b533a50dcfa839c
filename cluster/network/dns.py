"""The DNS server of one machine, at the kube-dns Service's address. IO shell; dns_core.py decides.

It listens on `sk8-dns`, a link of this namespace, so a pod's query never leaves its machine: the service proxy leaves
the address alone while the kube-dns Service has no endpoints, and the kernel finds it local. Names come from
informers on Services and EndpointSlices (and Pods when pod records are verified); nothing is polled.

Until those have listed once, names of the cluster get SERVFAIL at once (clients try again; a wrong NXDOMAIN they
would believe); later losses of the API server leave the last known names being served. Names outside the cluster go
to the upstreams, or get REFUSED at once when there are none.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from dnslib import DNSRecord
from prometheus_client import REGISTRY
from prometheus_client.registry import CollectorRegistry

from cluster.machinery.client import Client, key_of, split_key
from cluster.machinery.informer import Informers
from cluster.network import dns_wire as wire
from cluster.network import links
from cluster.network.config import SERVICE_LINK, DnsConfig
from cluster.network.dns_core import Ask, Chase, Reply, Resolver
from cluster.network.dns_forward import Forwarder, ForwardError, NoUpstream
from cluster.network.dns_zone import Zone, ZoneConfig, service_records
from cluster.network.endpoints import service_key
from cluster.network.metrics import DnsCounters

log = logging.getLogger(__name__)

Obj = dict[str, Any]
Address = tuple[Any, ...]
SERVICES = "services"
SLICES = "endpointslices.discovery.k8s.io"
PODS = "pods"
BY_SERVICE = "service"
_IP_FREEBIND = 15
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 4 << 20
_RETRY_S = 0.3
_TCP_IDLE_S = 10.0
_TCP_CONNECTIONS = 512
_NO_UPSTREAM = 23  # RFC 8914: Network Error; the text says what is missing


class DnsServer:
    """`run()` until cancelled. `informers` are shared with whoever else runs here."""

    def __init__(
        self,
        config: DnsConfig,
        client: Client,
        *,
        informers: Informers | None = None,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        config.validate()
        self._config = config
        self._own_informers = informers is None
        self._informers = informers or Informers(client)
        self._registry = registry
        self._zone = Zone(
            ZoneConfig(
                config.cluster_domain,
                config.listen_ip,
                config.cluster_cidr,
                config.service_cluster_ip_range,
                config.ttl_s,
                config.negative_ttl_s,
                config.pod_records,
            )
        )
        self._resolver = Resolver(self._zone)
        self._forwarder = Forwarder(config.upstreams, config.upstream_timeout_s, config.max_concurrent)
        self._counters = DnsCounters(f"dns://{config.listen_ip}:{config.port}")
        self._dirty: set[str] = set()
        self._flush: asyncio.Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        """The port it listens on once it does."""

    async def run(self) -> None:
        """Returns only by cancellation; waits while somebody else holds the address."""
        self._subscribe()
        self._registry.register(self._counters)
        try:
            async with asyncio.TaskGroup() as group:
                if self._own_informers:
                    group.create_task(self._informers.run(), name="dns-informers")
                group.create_task(self._become_ready(), name="dns-ready")
                group.create_task(self._serve(), name="dns-serve")
        finally:
            self._registry.unregister(self._counters)
            for task in self._tasks:
                task.cancel()

    def health(self) -> dict[str, object]:
        return {
            "ready": self._resolver.ready and self.port > 0,
            "listening": self.port > 0,
            "requests": self._counters.total,
            "zone_revision": self._zone.revision,
        }

    # ---- names in

    def _subscribe(self) -> None:
        slices = self._informers.of(SLICES)
        slices.add_index(BY_SERVICE, lambda obj: [key] if (key := service_key(obj)) else [])
        slices.add_handler(self._on_slice)
        self._informers.of(SERVICES).add_handler(lambda old, new: self._mark(key_of(new or old or {})))
        if self._config.pod_records == "verified":
            self._informers.of(PODS).add_handler(self._on_pod)

    def _on_slice(self, old: Obj | None, new: Obj | None) -> None:
        for obj in (old, new):
            if obj is not None and (key := service_key(obj)):
                self._mark(key)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        address = ((new or {}).get("status") or {}).get("podIP", "")
        self._zone.set_pod(key_of(new or old or {}), address)

    def _mark(self, key: str) -> None:
        """One update for all the events of this turn of the loop."""
        self._dirty.add(key)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_soon(self._update)

    def _update(self) -> None:
        self._flush = None
        dirty, self._dirty = self._dirty, set()
        for key in sorted(dirty):
            service = self._informers.of(SERVICES).get(*split_key(key))
            slices = self._informers.of(SLICES).by_index(BY_SERVICE, key)
            try:
                records = service_records(service, slices, self._config.cluster_domain) if service else {}
            except (KeyError, TypeError, ValueError, AttributeError) as err:
                log.error("service %s is malformed and keeps the names it had: %r", key, err)
                continue
            self._zone.set_owner(key, records)

    async def _become_ready(self) -> None:
        resources = [SERVICES, SLICES] + ([PODS] if self._config.pod_records == "verified" else [])
        for resource in resources:
            await self._informers.of(resource).wait_synced()
        self._update()
        self._resolver.ready = True

    # ---- listening

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        if self._config.make_link:
            await asyncio.to_thread(self._make_link)
        udp, tcp = await self._bind()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), sock=udp)
        server = await asyncio.start_server(self._on_connection, sock=tcp)
        self.port = int(udp.getsockname()[1])
        log.info("DNS for %s on %s:%d", self._config.cluster_domain, self._config.listen_ip, self.port)
        try:
            await asyncio.Event().wait()
        finally:
            self.port = 0
            transport.close()
            server.close()
            for writer in list(self._writers):
                writer.close()

    def _make_link(self) -> None:
        links.ensure_address(SERVICE_LINK, self._config.listen_ip)

    async def _bind(self) -> tuple[socket.socket, socket.socket]:
        address = (self._config.listen_ip, self._config.port)
        warned = False
        while True:
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                udp.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
                udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
                udp.bind(address)
                tcp.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tcp.bind((address[0], udp.getsockname()[1]))
                tcp.listen(256)
                return udp, tcp
            except OSError as err:
                udp.close()
                tcp.close()
                if not warned:
                    log.warning("DNS cannot listen on %s:%d yet: %s", *address, err)
                    warned = True
                await asyncio.sleep(_RETRY_S)

    # ---- answering

    def on_datagram(self, data: bytes, send: Callable[[bytes], None]) -> None:
        started = time.perf_counter()
        kept = self._resolver.quick(data)
        if kept is not None:
            send(data[:2] + kept[0])
            self._counters.count("udp", kept[1], kept[2], time.perf_counter() - started)
            return
        result = self._resolver.answer(data)
        if isinstance(result, Reply):
            send(result.data)
            self._counters.count("udp", result.qtype, result.rcode, time.perf_counter() - started)
        elif result is not None:
            task = asyncio.get_running_loop().create_task(self._answer_later(data, result, send, started))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer_later(
        self, data: bytes, result: Ask | Chase, send: Callable[[bytes], None], started: float
    ) -> None:
        response = await self._elsewhere(data, result, tcp=False)
        send(response)
        self._counters.count("udp", result.query.qtype, response[3] & 0xF, time.perf_counter() - started)

    async def _elsewhere(self, data: bytes, result: Ask | Chase, *, tcp: bool) -> bytes:
        """The answer for a name that is not (only) the cluster's. Never raises, never waits for more than upstreams."""
        query = result.query
        try:
            if isinstance(result, Ask):
                return await self._forwarder.ask(data, tcp=tcp)
            return await self._chase(result, tcp)
        except NoUpstream as err:
            if isinstance(result, Chase):
                return wire.response(query, wire.NOERROR, result.answers)
            return wire.response(query, wire.REFUSED, authoritative=False, extended_error=(_NO_UPSTREAM, str(err)))
        except ForwardError as err:
            return wire.response(query, wire.SERVFAIL, authoritative=False, extended_error=(_NO_UPSTREAM, str(err)))

    async def _chase(self, chase: Chase, tcp: bool) -> bytes:
        """Stub resolvers do not follow an alias: bring the target's records along (dnslib writes the names anew)."""
        header = b"\0\0\1\0\0\1\0\0\0\0\0\0"
        question = header + chase.target + chase.query.qtype.to_bytes(2) + b"\0\1"
        upstream = await self._forwarder.ask(question, tcp=tcp)
        if upstream[2] & 0x02 and not tcp:
            upstream = await self._forwarder.ask(question, tcp=True)
        limit = 65535 if tcp else chase.query.udp_limit
        return _joined(chase, upstream, limit)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Several queries on one connection, answered in order (RFC 7766)."""
        self._writers.add(writer)
        try:
            while len(self._writers) <= _TCP_CONNECTIONS:
                async with asyncio.timeout(_TCP_IDLE_S):
                    size = struct.unpack("!H", await reader.readexactly(2))[0]
                    data = await reader.readexactly(size)
                started = time.perf_counter()
                result = self._resolver.answer(data, tcp=True)
                if result is None:
                    return
                if isinstance(result, Reply):
                    response, qtype = result.data, result.qtype
                else:
                    response, qtype = await self._elsewhere(data, result, tcp=True), result.query.qtype
                writer.write(struct.pack("!H", len(response)) + response)
                await writer.drain()
                self._counters.count("tcp", qtype, response[3] & 0xF, time.perf_counter() - started)
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: Address) -> None:
        transport = self._transport
        if transport is not None:
            self._server.on_datagram(data, lambda response: transport.sendto(response, addr))

    def error_received(self, exc: Exception) -> None:
        log.debug("a DNS answer could not be sent: %s", exc)


def _joined(chase: Chase, upstream: bytes, limit: int) -> bytes:
    """The aliases with the answer records of `upstream` behind them, in one message of at most `limit` bytes."""
    rcode = upstream[3] & 0xF
    try:
        whole = DNSRecord.parse(wire.response(chase.query, rcode, chase.answers))
        for item in DNSRecord.parse(upstream).rr:
            whole.add_answer(item)
        packed = bytes(whole.pack())
    except Exception as err:  # noqa: BLE001 - dnslib raises many kinds for a malformed message
        log.warning("an upstream's answer cannot be read: %s", err)
        return wire.response(chase.query, wire.SERVFAIL, authoritative=False)
    if len(packed) <= limit:
        return packed
    return wire.truncated(chase.query)
