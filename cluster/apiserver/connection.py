"""One client connection: its TLS identity, and who wants to know when it ends. IO: aiohttp's protocol.

aiohttp's low-level server makes one protocol object per connection; ours reads the client certificate once, so that no
request pays for it, and closes connections that never send a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from cluster.apiserver.authn import CertIdentity, identity_of

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
_FIRST_REQUEST_S = 30.0


class Connection(RequestHandler):
    """`identity` is None when the client showed no certificate."""

    __slots__ = ("_closers", "_deadline", "identity", "served")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.identity: CertIdentity | None = None
        self.served = False
        self._closers: list[Callable[[], None]] = []
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.identity = identity_of(transport.get_extra_info("peercert"))
        self._deadline = asyncio.get_running_loop().call_later(_FIRST_REQUEST_S, self._idle)

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

    def add_closer(self, close: Callable[[], None]) -> None:
        self._closers.append(close)

    def drop_closers(self) -> None:
        """A request ended: what it asked to be told is of no interest any more."""
        self._closers.clear()


class ConnectionServer(web.Server):
    """aiohttp's low-level server with our connections."""

    def __init__(self, handler: Handler, **kwargs: Any) -> None:
        super().__init__(handler, **kwargs)
        self._options = kwargs

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
