"""One client connection: its TLS identity, and who wants to know when it ends. IO: aiohttp's protocol.

aiohttp's low-level server makes one protocol object per connection; ours reads the client certificate once, so that no
request pays for it, and closes connections that never send a request or never take their answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from cluster.apiserver.authn import CertIdentity, identity_of

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
_FIRST_REQUEST_S = 30.0
CLOSE_S = 2.0
"""How long the peer of a WebSocket may take to answer our close frame."""


class Connection(RequestHandler):
    """`identity` is None when the client showed no certificate."""

    __slots__ = ("_closers", "_deadline", "_unread_s", "identity", "served")

    def __init__(self, *args: Any, unread_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unread_s = unread_s
        self.identity: CertIdentity | None = None
        self.served = False
        self._closers: list[Callable[[], None]] = []
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.identity = identity_of(transport.get_extra_info("peercert"))
        self._deadline = asyncio.get_running_loop().call_later(_FIRST_REQUEST_S, self._idle)
        _limit_unread(transport, self._unread_s)

    def _idle(self) -> None:
        if not self.served and self.transport is not None:
            self.transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()
        closers, self._closers = self._closers, []
        for close in closers:
            close()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp calls it for every body that was read. Where nothing was paused it would have the parser look at
        nothing and the transport go on with what it does already."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def add_closer(self, close: Callable[[], None]) -> None:
        self._closers.append(close)

    def drop_closers(self) -> None:
        """A request ended: what it asked to be told is of no interest any more."""
        self._closers.clear()


class ConnectionServer(web.Server):
    """aiohttp's low-level server with our connections."""

    def __init__(self, handler: Handler, *, unread_s: float, **kwargs: Any) -> None:
        """A connection is cut when its client has taken nothing of what waits for it for `unread_s`."""
        super().__init__(handler, **kwargs)
        self._options = {**kwargs, "unread_s": unread_s}

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=asyncio.get_running_loop(), **self._options)


def connection_of(request: web.BaseRequest) -> Connection | None:
    protocol = request.protocol
    return protocol if isinstance(protocol, Connection) else None


def on_close(request: web.BaseRequest, close: Callable[[], None]) -> None:
    """Call `close` if the client goes away before the request ends."""
    connection = connection_of(request)
    if connection is not None:
        connection.add_closer(close)


def _limit_unread(transport: asyncio.BaseTransport, seconds: float) -> None:
    """The kernel cuts a connection whose peer takes none of what was sent for so long: it has crashed, is cut off, or
    reads no more (its window stays closed). One that reads slowly goes on, however long it takes.

    Buffers above it are bounded: writers wait until what they wrote before has left (RFC 5482, tcp(7)).
    """
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


class _Received:
    """What aiohttp's connection hands its bytes to after an upgrade, in place of its parser of WebSocket frames."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self._reader.feed_eof()


async def take_over(
    request: web.BaseRequest, headers: Mapping[str, str], limit_bytes: int
) -> tuple[web.StreamResponse, asyncio.StreamReader, asyncio.StreamWriter]:
    """Answer 101, and have the connection's bytes both ways. Raises ConnectionError when the client has gone."""
    response = web.StreamResponse(status=101, headers=headers)
    response.force_close()
    connection, transport = request.protocol, request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    reader = asyncio.StreamReader(limit_bytes)
    reader.set_transport(transport)
    connection.set_parser(_Received(reader))  # type: ignore[arg-type]  # it wants these two methods alone
    await response.prepare(request)
    # aiohttp's connection waits for a full transport like asyncio's own, whose StreamWriter can hence be used.
    return response, reader, asyncio.StreamWriter(transport, connection, reader, asyncio.get_running_loop())
