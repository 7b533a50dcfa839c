"""Speaking to a kubelet's server as the API server does, or as somebody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from typing import Any

import aiohttp

from tests.support.node_world import NodeWorld


class Caller:
    """Speaks to the kubelet as the holder of a certificate."""

    def __init__(self, world: NodeWorld, certificate: str = "kubelet-client") -> None:
        context = ssl.create_default_context(cafile=str(world.root / "pki" / "ca.crt"))
        context.check_hostname = False
        files = (str(world.root / "pki" / f"{certificate}.{end}") for end in ("crt", "key"))
        context.load_cert_chain(*files)
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
        assert world.kubelet is not None
        self.url = f"https://127.0.0.1:{world.kubelet.server.port}"

    async def get(self, path: str, **query: str) -> tuple[int, str]:
        async with self.session.get(self.url + path, params=query) as response:
            return response.status, await response.text()

    async def exec(
        self, path: str, *, stdin: list[bytes] | None = None, protocol: str = "v5.channel.k8s.io", close: bool = True
    ) -> tuple[dict[int, bytes], dict[str, Any]]:
        """All output by channel, and the status."""
        out: dict[int, bytes] = {}
        async with self.session.ws_connect(self.url + path, protocols=(protocol,)) as socket:
            assert socket.protocol == protocol
            feeding = asyncio.create_task(_feed(socket, stdin, close=close))
            async for message in socket:
                out[message.data[0]] = out.get(message.data[0], b"") + message.data[1:]
            await feeding
            assert socket.close_code == 1000
        return out, json.loads(out.pop(3, b"{}"))


async def _feed(socket: aiohttp.ClientWebSocketResponse, stdin: list[bytes] | None, *, close: bool) -> None:
    with contextlib.suppress(ConnectionError):
        for data in stdin or ():
            await socket.send_bytes(b"\0" + data)
        if stdin is not None and close:
            await socket.send_bytes(bytes([255, 0]))
