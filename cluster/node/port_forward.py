"""port-forward: a client's connections carried to ports of a pod, over one WebSocket.

IO: the WebSocket, and sockets made in the pod's network namespace, connected to its localhost. Two ways to share the
WebSocket, both Kubernetes':
- `SPDY/3.1+portforward.k8s.io` (KEP-4006, kubectl): its messages are the bytes of a SPDY connection. The client opens
  two streams per connection, with headers `streamtype` (error, data), `port` and `requestid`.
- `v4.channel.k8s.io`, `portforward.k8s.io` (client libraries): channels 2i (data) and 2i+1 (error) belong to the i-th
  `ports` of the query; each begins with its port, two bytes, little-endian. One connection per port.

What goes wrong with a connection is said on its error stream or channel; the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from cluster.api.errors import bad_request
from cluster.api.spdy import Data, GoAway, Opened, Ping, Reset, SpdyConnection, SpdyError

log = logging.getLogger(__name__)
SPDY = "SPDY/3.1+portforward.k8s.io"
CHANNELS = ("v4.channel.k8s.io", "portforward.k8s.io")
PROTOCOLS = (SPDY, *CHANNELS)
_CHUNK = 32 * 1024
_INBOX = 64  # messages a connection may lie behind before the WebSocket is read no further

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[int], Awaitable[Connection]]
Send = Callable[[bytes], Awaitable[None]]


def ports_of(values: list[str]) -> list[int]:
    """The query's `ports`. Raises ApiError 400."""
    ports: list[int] = []
    for text in ",".join(values).split(","):
        if not text.isdigit() or not 0 < int(text) < 65536:
            raise bad_request(f"unable to parse port {text!r}: must be between 1 and 65535")
        ports.append(int(text))
    return ports


async def serve(socket: web.WebSocketResponse, dial: Dial, ports: list[int]) -> None:
    """Until the client closes the WebSocket, or breaks the protocol. `dial(port)` raises OSError."""
    session: _Spdy | _Channels
    session = _Spdy(socket, dial) if socket.ws_protocol == SPDY else _Channels(socket, dial, ports)
    try:
        await session.begin()
        async for message in socket:
            if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                data = message.data if isinstance(message.data, bytes) else message.data.encode()
                await session.receive(data)
    except (SpdyError, ConnectionError) as err:
        log.info("port-forward: %s", err)
    finally:
        await session.close()
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(4):
                await socket.close()


class _Pipe:
    """One connection to the pod: what the client sends goes through a bounded inbox, what comes back to `deliver`."""

    def __init__(self, port: int, dial: Dial, deliver: Send, fail: Callable[[str], Awaitable[None]]) -> None:
        self._port = port
        self._dial = dial
        self._deliver = deliver
        self._fail = fail
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue(_INBOX)
        self._over = asyncio.Event()

    async def put(self, data: bytes | None) -> None:
        """Give data from the client, None for its end; waits while the pod does not read."""
        if self._over.is_set():
            return
        put, over = asyncio.ensure_future(self._inbox.put(data)), asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait([put, over], return_when=asyncio.FIRST_COMPLETED)
        finally:
            put.cancel()
            over.cancel()

    async def run(self) -> None:
        """Returns when the pod has ended its side, or could not be reached."""
        try:
            reader, writer = await self._dial(self._port)
        except OSError as err:
            self._over.set()
            await self._fail(str(err))
            return
        feeding = asyncio.get_running_loop().create_task(self._feed(writer))
        try:
            while data := await reader.read(_CHUNK):
                await self._deliver(data)
        except ConnectionError as err:
            await self._fail(f"reading from port {self._port}: {err}")
        finally:
            self._over.set()
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            writer.close()

    async def _feed(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while (data := await self._inbox.get()) is not None:
                writer.write(data)
                await writer.drain()
            writer.write_eof()


class _Session:
    """What both ways share: a lock around the WebSocket's sending side, and the running connections."""

    def __init__(self, socket: web.WebSocketResponse, dial: Dial) -> None:
        self._socket = socket
        self._dial = dial
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        return

    async def _send(self, data: bytes) -> None:
        async with self._lock:
            await self._socket.send_bytes(data)

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Any) -> None:
        with contextlib.suppress(ConnectionError):  # the client is gone: the reading side ends the session
            await work

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class _Pair:
    """The streams of one connection, until both are there."""

    port: int
    streams: dict[str, int] = field(default_factory=dict)


class _Spdy(_Session):
    def __init__(self, socket: web.WebSocketResponse, dial: Dial) -> None:
        super().__init__(socket, dial)
        self._spdy = SpdyConnection()
        self._pairs: dict[str, _Pair] = {}
        self._pipes: dict[int, _Pipe] = {}

    async def receive(self, data: bytes) -> None:
        for event in self._spdy.receive(data):
            if isinstance(event, Opened):
                await self._opened(event)
            elif isinstance(event, Data):
                await self._to_pod(event.stream, event.data, event.fin)
            elif isinstance(event, Reset):
                await self._to_pod(event.stream, b"", True)
            elif isinstance(event, Ping):
                await self._send(self._spdy.pong(event.id))
            elif isinstance(event, GoAway):
                continue

    async def _to_pod(self, stream: int, data: bytes, fin: bool) -> None:
        pipe = self._pipes.get(stream)
        if pipe is None:
            return  # an error stream, or a connection that is over
        if data:
            await pipe.put(data)
        if fin:
            await pipe.put(None)

    async def _opened(self, event: Opened) -> None:
        kind, request = event.headers.get("streamtype", ""), event.headers.get("requestid", "")
        text = event.headers.get("port", "")
        if kind not in ("error", "data") or not text.isdigit() or not 0 < int(text) < 65536:
            await self._send(self._spdy.reset(event.stream, 1))  # PROTOCOL_ERROR
            return
        await self._send(self._spdy.reply(event.stream))
        pair = self._pairs.setdefault(request or text, _Pair(int(text)))
        pair.streams[kind] = event.stream
        if len(pair.streams) == 2:
            del self._pairs[request or text]
            self._connect(pair)

    def _connect(self, pair: _Pair) -> None:
        data, error = pair.streams["data"], pair.streams["error"]

        async def deliver(chunk: bytes) -> None:
            await self._send(self._spdy.data(data, chunk))

        async def fail(message: str) -> None:
            await self._send(self._spdy.data(error, _failure(pair.port, message)))

        pipe = self._pipes[data] = _Pipe(pair.port, self._dial, deliver, fail)

        async def run() -> None:
            try:
                await pipe.run()
                await self._send(self._spdy.data(data, b"", fin=True) + self._spdy.data(error, b"", fin=True))
            finally:
                self._pipes.pop(data, None)

        self._run(run())


class _Channels(_Session):
    def __init__(self, socket: web.WebSocketResponse, dial: Dial, ports: list[int]) -> None:
        super().__init__(socket, dial)
        self._ports = ports
        self._pipes: list[_Pipe] = []

    async def begin(self) -> None:
        for index, port in enumerate(self._ports):
            for channel in (2 * index, 2 * index + 1):
                await self._send(bytes([channel]) + struct.pack("<H", port))
            self._pipes.append(self._pipe(index, port))
        self._run(self._run_all())

    async def _run_all(self) -> None:
        """Channels cannot be closed one by one: the WebSocket ends with the last connection."""
        await asyncio.gather(*(pipe.run() for pipe in self._pipes))
        await self._socket.close()

    def _pipe(self, index: int, port: int) -> _Pipe:
        async def deliver(chunk: bytes) -> None:
            await self._send(bytes([2 * index]) + chunk)

        async def fail(message: str) -> None:
            await self._send(bytes([2 * index + 1]) + _failure(port, message))

        return _Pipe(port, self._dial, deliver, fail)

    async def receive(self, data: bytes) -> None:
        if len(data) > 1 and data[0] % 2 == 0 and data[0] // 2 < len(self._pipes):
            await self._pipes[data[0] // 2].put(data[1:])


def _failure(port: int, message: str) -> bytes:
    return f"error forwarding port {port} to pod: {message}".encode()
