"""A stand-in that answers HTTP on loopback."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator

from aiohttp import web


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, ssl_context: ssl.SSLContext | None = None, *, shutdown_timeout_s: float = 60.0
) -> AsyncIterator[int]:
    """The port where the application answers. At the end its handlers get `shutdown_timeout_s` to return."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=shutdown_timeout_s)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
