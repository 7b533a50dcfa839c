"""Asks upstream resolvers about names outside the cluster, and keeps what they say. IO: UDP, and TCP for long answers.

Every query goes out from a source port of the kernel's choosing with an id of its own (RFC 5452), and only an answer
that repeats both and the question is believed. Upstreams are asked one after the other, each for `timeout_s`. Who asks
what is being asked already waits for that answer: a storm of equal queries is one query upstream.

Errors: `NoUpstream` (none configured), `Overloaded` (too many at once), `Unanswered` (all were silent).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import struct
import time
from collections.abc import Callable
from pathlib import Path

from cluster.api.pod_dns import parse_resolv_conf
from cluster.network import dns_message, dns_wire
from cluster.network.config import DnsConfig, host_port
from cluster.network.dns_cache import Cache, Kept, Key
from cluster.network.dns_message import Message
from cluster.network.dns_upstreams import Address, Upstreams
from cluster.network.families import V4

log = logging.getLogger(__name__)


class ForwardError(Exception):
    """A name outside the cluster got no answer; the text says why."""


class NoUpstream(ForwardError):
    pass


class Overloaded(ForwardError):
    pass


class Unanswered(ForwardError):
    pass


class Forwarder:
    def __init__(
        self,
        upstreams: Upstreams,
        timeout_s: float,
        max_concurrent: int,
        *,
        cache: Cache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.upstreams = upstreams
        self.cache = Cache() if cache is None else cache
        self.clock = clock
        self._timeout_s = timeout_s
        self._room = max_concurrent
        self._running: dict[Key, asyncio.Task[Kept]] = {}

    def kept(self, name: bytes, qtype: int, dnssec_ok: bool = False) -> Kept | None:
        """What is known already; ask here first, then `lookup`."""
        return self.cache.get((name, qtype, dnssec_ok), self.clock())

    async def lookup(self, name: bytes, qtype: int, dnssec_ok: bool = False) -> Kept:
        """What an upstream says about a (lower-case) name. Raises ForwardError."""
        key = (name, qtype, dnssec_ok)
        if not self.upstreams:
            raise NoUpstream("no upstream resolver is configured")
        self.cache.misses += 1
        task = self._running.get(key)
        if task is None:
            if self._room <= 0:
                raise Overloaded("too many queries are being forwarded")
            task = self._running[key] = asyncio.get_running_loop().create_task(self._ask(key))
            self._room -= 1
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)  # others may wait for the same answer

    def _ended(self, key: Key, task: asyncio.Task[Kept]) -> None:
        self._room += 1
        del self._running[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have

    async def _ask(self, key: Key) -> Kept:
        name, qtype, dnssec_ok = key
        asked = self.upstreams.in_order(self.clock())
        for upstream in asked:
            message = await self._one(upstream, dns_wire.query(name, qtype, dnssec_ok))
            if message is not None and message.rcode in (dns_wire.FORMERR, dns_wire.NOTIMP) and not message.edns:
                message = await self._one(upstream, dns_wire.query(name, qtype, dnssec_ok, edns=False))
            if message is not None:
                self.upstreams.answered(upstream)
                return self.cache.put(key, message, self.clock())
            self.upstreams.silent(upstream, self.clock())
        raise Unanswered(f"none of {len(asked)} upstream resolvers answered")

    async def _one(self, upstream: Address, query: bytes) -> Message | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                message = await _ask_udp(upstream, secrets.token_bytes(2) + query)
                if message.truncated:
                    message = await _ask_tcp(upstream, secrets.token_bytes(2) + query)
                return message
        except (TimeoutError, OSError, asyncio.IncompleteReadError, dns_wire.WireError):
            return None


def resolv_conf_of(config: DnsConfig) -> tuple[list[Address], list[str]]:
    """(upstreams, the machine's search domains). Nameservers that are not IPv4, or this server itself, are left out."""
    try:
        text = Path(config.resolv_conf).read_text() if config.resolv_conf else ""
    except OSError as err:
        log.warning("no upstream resolvers from %s: %s", config.resolv_conf, err)
        text = ""
    servers, searches, _ = parse_resolv_conf(text)
    listed = config.upstreams or [server for server in servers if V4.has(server) and server != config.listen_ip]
    return [host_port(server, 53) for server in listed], searches


def forwarder_of(config: DnsConfig, upstreams: Upstreams) -> Forwarder:
    cache = Cache(config.cache_entries, config.cache_ttl_s)
    return Forwarder(upstreams, config.upstream_timeout_s, config.max_concurrent, cache=cache)


class _UdpAsk(asyncio.DatagramProtocol):
    def __init__(self, query: bytes) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._query = query

    def datagram_received(self, data: bytes, addr: object) -> None:
        if matches(self._query, data) and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.cancel()


async def _ask_udp(upstream: Address, query: bytes) -> Message:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _UdpAsk(query), remote_addr=upstream)
    try:
        transport.sendto(query)
        return dns_message.parse(await protocol.answer)
    finally:
        transport.close()


async def _ask_tcp(upstream: Address, query: bytes) -> Message:
    reader, writer = await asyncio.open_connection(*upstream)
    try:
        writer.write(struct.pack("!H", len(query)) + query)
        size = struct.unpack("!H", await reader.readexactly(2))[0]
        answer = await reader.readexactly(size)
    finally:
        writer.close()
    if not matches(query, answer):
        raise dns_wire.WireError(dns_wire.FORMERR)
    return dns_message.parse(answer)


def matches(query: bytes, answer: bytes) -> bool:
    """Whether `answer` is a response to this very query: same id, same question (case ignored)."""
    if len(answer) < 12 or answer[:2] != query[:2] or not answer[2] & 0x80:
        return False
    end = query.find(b"\0", 12) + 5
    # Upstreams may leave the question out of an error.
    return answer[12:end].lower() == query[12:end].lower() or answer[4:6] == b"\0\0"
