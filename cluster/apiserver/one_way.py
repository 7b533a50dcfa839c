"""A WebSocket on which only the server speaks: watches and logs. IO: the client's connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from aiohttp import WSCloseCode, web

from cluster.apiserver.connection import CLOSE_S, on_close


class OneWaySocket:
    """Sent on through `response`, once it has been started; `headers` but for Content-Type go with the upgrade."""

    def __init__(self, request: web.BaseRequest, headers: Mapping[str, str], protocols: tuple[str, ...]) -> None:
        self._request = request
        self.response = web.WebSocketResponse(protocols=protocols, compress=False, timeout=CLOSE_S)
        self.response.headers.update({k: v for k, v in headers.items() if k != "Content-Type"})
        self._reader: asyncio.Task[None] | None = None

    async def start(self, gone: Callable[[], None]) -> None:
        """`gone` is called when the client leaves."""
        on_close(self._request, gone)
        await self.response.prepare(self._request)
        self._reader = asyncio.create_task(self._read(gone), name="one-way-socket")

    async def _read(self, gone: Callable[[], None]) -> None:
        """What a client says is of no interest but that it goes; reading also answers its pings."""
        with contextlib.suppress(ConnectionError):
            async for _ in self.response:
                pass
        gone()

    async def end(self, code: int = WSCloseCode.OK) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self.response.close(code=code)
