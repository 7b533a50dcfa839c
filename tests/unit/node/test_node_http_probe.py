"""An HTTP probe reads the answer's body to its end, or its first 10 KiB, and follows redirects on its host."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from cluster.node.core_probe import ProbeAnswer
from cluster.node.prober import Prober
from tests.support.stand_in import listening


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    release = asyncio.Event()

    async def redirect(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": request.query.get("loc", "/circle")}, text="elsewhere")

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
    for path in ("/redirect", "/circle"):
        app.router.add_get(path, redirect)
    app.router.add_get("/{what}", answer)
    async with listening(app) as port:
        yield port
        release.set()


@asynccontextmanager
async def probing() -> AsyncIterator[Callable[..., Awaitable[ProbeAnswer]]]:
    prober = Prober(None)  # type: ignore[arg-type]
    async with server() as port:

        async def probe(path: str, timeout_s: float = 60.0) -> ProbeAnswer:
            return await prober.probe({"httpGet": {"port": port, "path": path}}, {}, "id", "127.0.0.1", timeout_s)

        try:
            yield probe
        finally:
            await prober.close()


async def test_the_body_to_its_end_or_to_ten_kibibytes() -> None:
    async with probing() as probe:
        assert await probe("/up") == ProbeAnswer(True, "first, second")
        assert await probe("/down") == ProbeAnswer(False, "HTTP probe failed with statuscode: 503")
        endless = await probe("/endless")
        assert endless.ok and len(endless.output) == 10 * 1024
        stuck = await probe("/stuck", 1.0)
        assert not stuck.ok
        assert stuck.output.endswith("context deadline exceeded (Client.Timeout exceeded while reading body)")


async def test_what_a_redirect_on_the_same_host_leads_to_decides() -> None:
    async with probing() as probe:
        assert await probe("/redirect?loc=/up") == ProbeAnswer(True, "first, second")
        assert await probe("/redirect?loc=/down") == ProbeAnswer(False, "HTTP probe failed with statuscode: 503")
        in_circles = await probe("/circle")
        assert not in_circles.ok and in_circles.output.endswith("stopped after 10 redirects")


async def test_a_redirect_to_another_host_is_not_followed_but_warned_of() -> None:
    async with probing() as probe:
        away = await probe("/redirect?loc=http%3A%2F%2F0.0.0.0%2F")
        assert away == ProbeAnswer(True, "Probe terminated redirects, Response body: elsewhere", warning=True)


async def test_a_refused_connection_is_told_as_by_kubernetes() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        prober = Prober(None)  # type: ignore[arg-type]
        try:
            answer = await prober.probe({"httpGet": {"port": port, "path": "/up"}}, {}, "id", "127.0.0.1", 60)
        finally:
            await prober.close()
    where = f"127.0.0.1:{port}"
    assert answer == ProbeAnswer(False, f'Get "http://{where}/up": dial tcp {where}: connect: connection refused')


async def test_a_command_that_takes_too_long_is_named_as_it_was_given() -> None:
    class Slow:
        async def exec_sync(self, container_id: str, command: list[str], timeout_s: float) -> None:
            raise TimeoutError

    answer = await Prober(Slow()).probe({"exec": {"command": ["cat", "/ready"]}}, {}, "id", "", 1.0)  # type: ignore[arg-type]
    assert answer == ProbeAnswer(False, 'command timed out: "cat /ready" timed out after 1s')
