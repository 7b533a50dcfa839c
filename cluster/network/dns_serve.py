"""Answers DNS over UDP and TCP on sockets that somebody else opened. IO shell; dns_core.py decides.

Used by the Proxy (`dns.py`) and by what stands in for it while it is away (`dns_standby.py`); both serve the same two
sockets, one at a time.

Invariant: a UDP query leaves the socket's queue only after its answer was sent (MSG_PEEK, answer, then receive). So a
process that is killed while it answers loses nothing: whoever serves the socket next finds the query still there. At
worst it is answered twice, which resolvers ignore. Queries that wait for an upstream are the exception.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from cluster.network.dns_core import Kept, Reply
from cluster.network.dns_elsewhere import Elsewhere, Lookups

log = logging.getLogger(__name__)

_IP_FREEBIND = 15
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 4 << 20
_RETRY_S = 0.3
_UDP_QUERY_BYTES = 4096
_UDP_BURST = 64
_TCP_IDLE_S = 10.0
_TCP_CONNECTIONS = 512
_TCP_BYTES = 65535

Count = Callable[[str, int, int, float], None]
"""(protocol, query type, response code, seconds) of every answer."""

Sockets = tuple[socket.socket, socket.socket]
"""UDP, and TCP that listens, on one address and port."""


async def bind(ip: str, port: int) -> Sockets:
    """Waits while somebody else holds the address; the address itself need not be there yet (IP_FREEBIND)."""
    warned = False
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            udp.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            _enlarge(udp)
            udp.bind((ip, port))
            tcp.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((ip, udp.getsockname()[1]))
            tcp.listen(256)
            return udp, tcp
        except OSError as err:
            udp.close()
            tcp.close()
            if not warned:
                log.warning("DNS cannot listen on %s:%d yet: %s", ip, port, err)
                warned = True
            await asyncio.sleep(_RETRY_S)


def _enlarge(udp: socket.socket) -> None:
    """Room for a burst of queries: as much as we like, or, in a pod, as much as the kernel gives everybody."""
    try:
        udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)


class Source(Protocol):
    """Where answers come from: `dns_core.py:Resolver`."""

    def quick(self, data: bytes, client: str) -> Kept | None: ...

    def answer(self, data: bytes, client: str = "", *, tcp: bool = False) -> Reply | Elsewhere | None: ...


class Answers:
    """`start` and `stop` reading the sockets, which stay open: they belong to the caller."""

    def __init__(self, resolver: Source, lookups: Lookups, count: Count) -> None:
        self._resolver = resolver
        self._lookups = lookups
        self._count = count
        self._udp: socket.socket | None = None
        self._tcp: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, sockets: Sockets) -> None:
        udp, tcp = sockets
        self._udp = udp
        asyncio.get_running_loop().add_reader(udp.fileno(), self._on_readable, udp)
        self._tcp = await asyncio.start_server(self._on_connection, sock=tcp.dup())  # the server closes its own

    def stop(self) -> None:
        """Read no more; what waits for an upstream, and open connections, are given up."""
        if self._udp is not None:
            asyncio.get_running_loop().remove_reader(self._udp.fileno())
            self._udp = None
        if self._tcp is not None:
            self._tcp.close()
            self._tcp = None
        for task in self._tasks:
            task.cancel()
        for writer in list(self._writers):
            writer.close()

    # ---- UDP

    def _on_readable(self, udp: socket.socket) -> None:
        """At most a burst in one turn of the loop, which has other work too."""
        peek, receive, quick, clock = udp.recvfrom, udp.recv, self._resolver.quick, time.perf_counter
        for _ in range(_UDP_BURST):
            try:
                data, address = peek(_UDP_QUERY_BYTES, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as err:  # an ICMP error of an earlier answer; reading it took it away
                log.debug("DNS: %s", err)
                continue
            started = clock()
            try:
                kept = quick(data, address[0])
                if kept is not None:
                    self._send(udp, address, data[:2] + kept[0])
                    self._count("udp", kept[1], kept[2], clock() - started)
                else:
                    self._answer(data, address[0], partial(self._send, udp, address), started)
            except Exception:  # one query must stop neither the others nor the process
                log.exception("a DNS query of %d bytes from %s failed", len(data), address)
            receive(1)

    @staticmethod
    def _send(udp: socket.socket, address: Any, response: bytes) -> None:
        try:
            udp.sendto(response, address)
        except OSError as err:  # the client asks again
            log.debug("a DNS answer could not be sent: %s", err)

    def _answer(self, data: bytes, client: str, send: Callable[[bytes], None], started: float) -> None:
        result = self._resolver.answer(data, client)
        if isinstance(result, Reply):
            send(result.data)
            self._count("udp", result.qtype, result.rcode, time.perf_counter() - started)
        elif result is not None:
            limit = result.query.udp_limit
            known = self._lookups.now(result, limit)
            if known is not None:
                send(known)
                self._count("udp", result.query.qtype, known[3] & 0xF, time.perf_counter() - started)
                return
            task = asyncio.get_running_loop().create_task(self._answer_later(result, limit, send, started))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer_later(self, result: Elsewhere, limit: int, send: Callable[[bytes], None], started: float) -> None:
        response = await self._lookups.later(result, limit)
        send(response)
        self._count("udp", result.query.qtype, response[3] & 0xF, time.perf_counter() - started)

    # ---- TCP

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Several queries on one connection, answered in order (RFC 7766)."""
        self._writers.add(writer)
        client = (writer.get_extra_info("peername") or ("",))[0]
        try:
            while len(self._writers) <= _TCP_CONNECTIONS:
                async with asyncio.timeout(_TCP_IDLE_S):
                    size = struct.unpack("!H", await reader.readexactly(2))[0]
                    data = await reader.readexactly(size)
                started = time.perf_counter()
                result = self._resolver.answer(data, client, tcp=True)
                if result is None:
                    return
                if isinstance(result, Reply):
                    response, qtype = result.data, result.qtype
                else:
                    response, qtype = await self._lookups.later(result, _TCP_BYTES), result.query.qtype
                writer.write(struct.pack("!H", len(response)) + response)
                await writer.drain()
                self._count("tcp", qtype, response[3] & 0xF, time.perf_counter() - started)
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()
