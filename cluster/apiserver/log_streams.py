"""Where the bytes of a container's log go: a chunked HTTP response, or the messages of a WebSocket.

IO: the client's connection. On a WebSocket a message is what the log had next: bytes (`binary.k8s.io`, or no
subprotocol), or base64 for clients that take text alone (`base64.binary.k8s.io`). An empty message comes first, so that
who follows a quiet log knows that it is open. Source: Kubernetes apiserver/pkg/util/wsstream/stream.go.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Protocol

from aiohttp import WSCloseCode, web

from cluster.apiserver.connection import on_close
from cluster.apiserver.one_way import OneWaySocket

_BASE64 = "base64.binary.k8s.io"
LOG_PROTOCOLS = ("binary.k8s.io", _BASE64)


class LogStream(Protocol):
    @property
    def response(self) -> web.StreamResponse: ...

    async def start(self, gone: Callable[[], None]) -> None:
        """`gone` is called when the client leaves."""

    async def write(self, chunk: bytes) -> None:
        """Waits for a client that lags; raises ConnectionError when it has left."""

    async def end(self) -> None: ...

    async def cut(self) -> None:
        """The log broke off: it is too late for a status, but the client sees that this was no end."""


class HttpLog:
    def __init__(self, request: web.BaseRequest, headers: Mapping[str, str]) -> None:
        self._request = request
        self.response = web.StreamResponse(headers=headers)

    async def start(self, gone: Callable[[], None]) -> None:
        on_close(self._request, gone)
        self.response.enable_chunked_encoding()
        await self.response.prepare(self._request)

    async def write(self, chunk: bytes) -> None:
        await self.response.write(chunk)

    async def end(self) -> None:
        await self.response.write_eof()

    async def cut(self) -> None:
        """A chunked body without its last chunk."""
        self.response.force_close()
        if self._request.transport is not None:
            self._request.transport.close()


class SocketLog:
    def __init__(self, request: web.BaseRequest, headers: Mapping[str, str], protocols: tuple[str, ...]) -> None:
        """`protocols`: those of LOG_PROTOCOLS that the client knows, if any."""
        self._text = protocols[:1] == (_BASE64,)
        self._socket = OneWaySocket(request, headers, protocols[:1])
        self.response = self._socket.response

    async def start(self, gone: Callable[[], None]) -> None:
        await self._socket.start(gone)
        await self.write(b"")

    async def write(self, chunk: bytes) -> None:
        if self._text:
            await self.response.send_str(base64.b64encode(chunk).decode())
        else:
            await self.response.send_bytes(chunk)

    async def end(self) -> None:
        await self._socket.end()

    async def cut(self) -> None:
        await self._socket.end(WSCloseCode.INTERNAL_ERROR)
