"""127.0.0.1:6443 -> an API server that answers: what every client on a machine, and kubectl on the host, talks to.

`Backends` is the pure choice (no clock, no IO); `Forwarder` is its asyncio shell. Bytes pass through unread: TLS ends
at the API server, so client certificates work. Two ways to learn that a backend is gone: actively, a TLS request for
/readyz with the cluster's CA every second; passively, a connection that could not be made. When a backend is down and
another is up, its connections are dropped: watches reconnect at once instead of hanging on a dead machine until
TCP gives up. While none is up they stay: an API server that only is slow answers in the end.

        probe ok (x1)                  probe bad (x2) or connect failed
 down --------------------> up       up ------------------------------> down (dropped once another is up)
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

log = logging.getLogger(__name__)

Endpoint = tuple[str, int]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_CHUNK = 1 << 16
_SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000),
)


@dataclass(frozen=True, slots=True)
class ForwarderConfig:
    """`ca_file` may appear later (a machine joins first). `prefer`: the backend on the same machine, if any."""

    listen: Endpoint
    backends: tuple[Endpoint, ...]
    ca_file: Path
    prefer: Endpoint | None = None
    interval_s: float = 1.0
    timeout_s: float = 1.5
    bad_after: int = 2


@dataclass(frozen=True, slots=True)
class Backend:
    endpoint: Endpoint
    up: bool = False
    bad_probes: int = 0


@dataclass(frozen=True, slots=True)
class Backends:
    """The known backends and the turn of the round robin."""

    items: tuple[Backend, ...]
    prefer: Endpoint | None = None
    bad_after: int = 2
    turn: int = 0

    @classmethod
    def of(cls, config: ForwarderConfig) -> Backends:
        return cls(tuple(Backend(e) for e in config.backends), config.prefer, config.bad_after)

    def probed(self, endpoint: Endpoint, ok: bool) -> Backends:
        """After one active probe."""
        return self._update(endpoint, lambda b: replace(b, up=True, bad_probes=0) if ok else self._bad(b))

    def failed(self, endpoint: Endpoint) -> Backends:
        """After a connection could not be made: at once, without waiting for probes."""
        return self._update(endpoint, lambda b: replace(b, up=False, bad_probes=self.bad_after))

    def choose(self) -> tuple[list[Endpoint], Backends]:
        """Whom to try, in order: the preferred one if up, others that are up in turn, then the rest as last hope."""
        up = [b.endpoint for b in self.items if b.up]
        down = [b.endpoint for b in self.items if not b.up]
        if up:
            at = self.turn % len(up)
            up = up[at:] + up[:at]
        if self.prefer in up:
            up = [e for e in up if e == self.prefer] + [e for e in up if e != self.prefer]
        return up + down, replace(self, turn=self.turn + 1)

    def given_up(self) -> list[Endpoint]:
        """Those whose connections are better made anew, to another."""
        down = [b.endpoint for b in self.items if not b.up]
        return down if len(down) < len(self.items) else []

    def is_up(self, endpoint: Endpoint) -> bool:
        return any(b.up for b in self.items if b.endpoint == endpoint)

    def _bad(self, backend: Backend) -> Backend:
        bad = backend.bad_probes + 1
        return replace(backend, bad_probes=bad, up=backend.up and bad < self.bad_after)

    def _update(self, endpoint: Endpoint, change: Callable[[Backend], Backend]) -> Backends:
        return replace(self, items=tuple(change(b) if b.endpoint == endpoint else b for b in self.items))


class Forwarder:
    """Listener and probes; `run()` returns only by cancellation, or raises OSError when it cannot listen."""

    def __init__(self, config: ForwarderConfig) -> None:
        self._config = config
        self._backends = Backends.of(config)
        self._connections: dict[Endpoint, set[asyncio.Task[None]]] = {b: set() for b in config.backends}
        self._served = 0
        self._refused = 0

    def health(self) -> dict[str, object]:
        up = [f"{h}:{p}" for h, p in (b.endpoint for b in self._backends.items if b.up)]
        open_now = sum(len(tasks) for tasks in self._connections.values())
        return {"ok": bool(up), "up": up, "open": open_now, "served": self._served, "refused": self._refused}

    async def run(self) -> None:
        server = await asyncio.start_server(self._serve, *self._config.listen, limit=_CHUNK, reuse_address=True)
        try:
            async with asyncio.TaskGroup() as group:
                for endpoint in self._config.backends:
                    group.create_task(self._watch(endpoint))
        finally:
            server.close()
            for endpoint in self._config.backends:
                self._drop(endpoint)

    # -- probes --------------------------------------------------------------------------------------------------
    async def _watch(self, endpoint: Endpoint) -> None:
        probe = Probe(endpoint, self._config.ca_file, self._config.timeout_s)
        try:
            while True:
                ok = await probe.ready()
                was = self._backends.is_up(endpoint)
                self._change(self._backends.probed(endpoint, ok), endpoint)
                # While it is down and the cluster is starting, look often; while it is up, once per interval.
                await asyncio.sleep(self._config.interval_s if was or ok else min(0.25, self._config.interval_s))
        finally:
            probe.close()

    def _change(self, backends: Backends, endpoint: Endpoint) -> None:
        was, self._backends = self._backends.is_up(endpoint), backends
        now = self._backends.is_up(endpoint)
        if was != now:
            log.info("API server %s:%d is %s", *endpoint, "up" if now else "down")
            for bad in self._backends.given_up():
                self._drop(bad)

    def _drop(self, endpoint: Endpoint) -> None:
        for task in tuple(self._connections[endpoint]):
            task.cancel()

    # -- connections ---------------------------------------------------------------------------------------------
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = await self._connect()
        if found is None:
            self._refused += 1
            writer.transport.abort()
            return
        endpoint, upstream = found
        self._served += 1
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served outside a task")
        self._connections[endpoint].add(task)
        try:
            await _relay((reader, writer), upstream)
        except asyncio.CancelledError:
            log.debug("dropped a connection to %s:%d", *endpoint)
        finally:
            self._connections[endpoint].discard(task)
            writer.transport.abort()
            upstream[1].transport.abort()

    async def _connect(self) -> tuple[Endpoint, tuple[asyncio.StreamReader, asyncio.StreamWriter]] | None:
        order, self._backends = self._backends.choose()
        for endpoint in order:
            try:
                async with asyncio.timeout(self._config.timeout_s):
                    streams = await asyncio.open_connection(*endpoint, limit=_CHUNK)
            except (OSError, TimeoutError):
                self._change(self._backends.failed(endpoint), endpoint)
                continue
            sock = streams[1].get_extra_info("socket")
            for option in _SOCKET_OPTIONS:
                sock.setsockopt(*option)
            return endpoint, streams
        return None


class Probe:
    """Asks one API server whether it is ready, over one TLS connection that is kept while it works."""

    def __init__(self, endpoint: Endpoint, ca_file: Path, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self._streams: Streams | None = None

    async def ready(self) -> bool:
        """True when it speaks TLS with a certificate of our CA and says so; a 401 or 403 hides it, but it is there."""
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._ask()
        except (OSError, TimeoutError, EOFError, ValueError, IndexError):
            self.close()
            return False
        return status in (200, 401, 403)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _ask(self) -> int:
        if self._streams is None:
            context = ssl.create_default_context(cafile=str(self._ca_file))
            self._streams = await asyncio.open_connection(*self._endpoint, ssl=context, server_hostname="kubernetes")
        reader, writer = self._streams
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: kubernetes\r\n\r\n")
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        headers = dict(line.split(b":", 1) for line in lines[1:] if b":" in line)
        await reader.readexactly(int(headers.get(b"content-length", b"0")))
        if b"content-length" not in headers or b"close" in headers.get(b"connection", b""):
            self.close()
        return int(lines[0].split()[1])


async def _relay(one: Streams, other: Streams) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(one[0], other[1]))
            group.create_task(_pump(other[0], one[1]))
    except* (OSError, EOFError) as broken:
        log.debug("a connection broke: %s", broken.exceptions[0])


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copies until the end of the source, then passes the half-close on."""
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()
