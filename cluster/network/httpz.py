"""/healthz, /livez and /metrics of a component over plain HTTP on a loopback address. IO: one listening socket.

While the address is taken (a predecessor that is still stopping) it waits and tries again: metrics must not keep a
machine's network from working.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from cluster.network.config import host_port

log = logging.getLogger(__name__)

_RETRY_S = 1.0


async def serve_status(
    address: str, healthy: Callable[[], tuple[bool, str]], texts: Mapping[str, str] | None = None
) -> None:
    """Serve until cancelled. `texts` are further paths and their constant bodies."""

    async def healthz(_request: web.Request) -> web.Response:
        ok, why = healthy()
        return web.Response(text=why + "\n", status=200 if ok else 503)

    async def livez(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/livez", livez), web.get("/metrics", scrape)])
    for path, text in (texts or {}).items():
        app.router.add_get(path, _constant(text))
    await serve(app, address)


async def serve(app: web.Application, address: str) -> None:
    """Until cancelled."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await _bind(runner, *host_port(address))
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _constant(text: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=text)

    return handler


async def _bind(runner: web.AppRunner, host: str, port: int) -> None:
    warned = False
    while True:
        try:
            await web.TCPSite(runner, host, port, reuse_address=True).start()
            return
        except OSError as err:
            if not warned:
                log.warning("status on %s:%d is not served yet: %s", host, port, err)
                warned = True
            await asyncio.sleep(_RETRY_S)
