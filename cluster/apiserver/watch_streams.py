"""Where the lines of a watch go: a chunked HTTP response, or a WebSocket with one event a text message.

IO: the client's connection. Browsers open few HTTP connections to one server but many WebSockets, so it is the second
that they watch by. Source: Kubernetes apiserver/pkg/endpoints/handlers/watch.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from aiohttp import web

from cluster.apiserver.authn import websocket_protocols
from cluster.apiserver.connection import on_close
from cluster.apiserver.one_way import OneWaySocket

AT_ONCE_BYTES = 256 * 1024
"""More than this is written in parts, each once the client has taken the one before."""


class WatchStream(Protocol):
    """Lines end with a newline. `send` waits for a client that lags; raises ConnectionError when it has left."""

    @property
    def response(self) -> web.StreamResponse: ...

    async def start(self, gone: Callable[[], None]) -> None:
        """`gone` is called when the client leaves."""

    async def send(self, lines: Iterable[bytes]) -> None: ...

    def at_once(self, framed: bytes) -> bool:
        """Send one HTTP chunk without waiting; False when that cannot be."""

    async def end(self) -> None: ...


def stream_for(request: web.BaseRequest, headers: Mapping[str, str]) -> WatchStream:
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return SocketStream(request, headers)
    return HttpStream(request, headers)


class HttpStream:
    def __init__(self, request: web.BaseRequest, headers: Mapping[str, str]) -> None:
        self._request = request
        self.response = web.StreamResponse(headers=headers)

    async def start(self, gone: Callable[[], None]) -> None:
        on_close(self._request, gone)
        self.response.enable_chunked_encoding()
        await self.response.prepare(self._request)

    def at_once(self, framed: bytes) -> bool:
        """Straight to a connection that has nothing left to send: with thousands of watches it is the writing that
        costs. A client that lags is written to by aiohttp, which waits for it."""
        transport = self._request.transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return False
        transport.write(framed)
        return True

    async def send(self, lines: Iterable[bytes]) -> None:
        pending: list[bytes] = []
        size = 0
        for line in lines:
            pending.append(line)
            size += len(line)
            if size >= AT_ONCE_BYTES:
                await self.response.write(b"".join(pending))
                pending, size = [], 0
        if pending:
            await self.response.write(b"".join(pending))

    async def end(self) -> None:
        await self.response.write_eof()


class SocketStream:
    def __init__(self, request: web.BaseRequest, headers: Mapping[str, str]) -> None:
        protocols = websocket_protocols(request.headers, with_token=False)[:1]
        self._socket = OneWaySocket(request, headers, tuple(protocols))
        self.response = self._socket.response

    async def start(self, gone: Callable[[], None]) -> None:
        await self._socket.start(gone)

    def at_once(self, framed: bytes) -> bool:
        return False

    async def send(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            await self.response.send_str(line.decode())

    async def end(self) -> None:
        await self._socket.end()
