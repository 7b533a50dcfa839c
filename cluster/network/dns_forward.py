"""Asks the configured upstream resolvers about names outside the cluster. IO: one UDP socket or TCP connection a query.

Every query goes out from a source port of the kernel's choosing with an id of its own (RFC 5452), and only an answer
that repeats both and the question is believed. Upstreams are asked in turn, the one that answered last first; each
gets `timeout_s`. No answer is cached here.

Errors: `NoUpstream` (none configured), `Overloaded` (too many at once), `Unanswered` (all were silent).
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Sequence

from cluster.network.config import host_port


class ForwardError(Exception):
    """A name outside the cluster got no answer; the text says why."""


class NoUpstream(ForwardError):
    pass


class Overloaded(ForwardError):
    pass


class Unanswered(ForwardError):
    pass


class Forwarder:
    def __init__(self, upstreams: Sequence[str], timeout_s: float, max_concurrent: int) -> None:
        self._upstreams = [host_port(upstream, 53) for upstream in upstreams]
        self._timeout_s = timeout_s
        self._room = max_concurrent

    @property
    def configured(self) -> bool:
        return bool(self._upstreams)

    async def ask(self, data: bytes, *, tcp: bool = False) -> bytes:
        """The upstream's message for this query, with the query's own id. Raises ForwardError."""
        if not self._upstreams:
            raise NoUpstream("no upstream resolver is configured")
        if self._room <= 0:
            raise Overloaded("too many queries are being forwarded")
        self._room -= 1
        try:
            for upstream in list(self._upstreams):
                answer = await self._one(upstream, data, tcp)
                if answer is not None:
                    if self._upstreams[0] != upstream:
                        self._upstreams.remove(upstream)
                        self._upstreams.insert(0, upstream)
                    return data[:2] + answer[2:]
            raise Unanswered(f"none of {len(self._upstreams)} upstream resolvers answered")
        finally:
            self._room += 1

    async def _one(self, upstream: tuple[str, int], data: bytes, tcp: bool) -> bytes | None:
        query = secrets.token_bytes(2) + data[2:]
        try:
            async with asyncio.timeout(self._timeout_s):
                return await (_ask_tcp if tcp else _ask_udp)(upstream, query)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            return None


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


async def _ask_udp(upstream: tuple[str, int], query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _UdpAsk(query), remote_addr=upstream)
    try:
        transport.sendto(query)
        return await protocol.answer
    finally:
        transport.close()


async def _ask_tcp(upstream: tuple[str, int], query: bytes) -> bytes | None:
    reader, writer = await asyncio.open_connection(*upstream)
    try:
        writer.write(struct.pack("!H", len(query)) + query)
        size = struct.unpack("!H", await reader.readexactly(2))[0]
        answer = await reader.readexactly(size)
    finally:
        writer.close()
    return answer if matches(query, answer) else None


def matches(query: bytes, answer: bytes) -> bool:
    """Whether `answer` is a response to this very query: same id, same question (case ignored)."""
    if len(answer) < 12 or answer[:2] != query[:2] or not answer[2] & 0x80:
        return False
    end = query.find(b"\0", 12) + 5
    # Upstreams may leave the question out of an error.
    return answer[12:end].lower() == query[12:end].lower() or answer[4:6] == b"\0\0"
