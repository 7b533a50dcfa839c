"""An HTTP probe reads the answer's body to its end, or its first 10 KiB, as Kubernetes' prober does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from cluster.node.prober import Prober


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=503 if request.path == "/down" else 200)
        await response.prepare(request)
        await response.write(b"first, ")
        if request.path == "/stuck":
            await release.wait()
        while request.path == "/endless":
            await response.write(b"x" * 4096)
        await asyncio.sleep(0.1)
        await response.write(b"second")
        return response

    app = web.Application()
    app.router.add_get("/{what}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        release.set()
        await runner.cleanup()


async def test_the_body_to_its_end_or_to_ten_kibibytes() -> None:
    prober = Prober(None)  # type: ignore[arg-type]

    async def probe(path: str, timeout_s: float = 60.0) -> tuple[bool, str]:
        return await prober.probe({"httpGet": {"port": port, "path": path}}, {}, "id", "127.0.0.1", timeout_s)

    async with server() as port:
        try:
            assert await probe("/up") == (True, "first, second")
            assert await probe("/down") == (False, "HTTP probe failed with statuscode: 503")
            ok, text = await probe("/endless")
            assert ok and len(text) == 10 * 1024
            ok, text = await probe("/stuck", 1.0)
            assert not ok and text.endswith("context deadline exceeded (Client.Timeout exceeded while reading body)")
        finally:
            await prober.close()
