"""A vendor's device plugin, as kubelets meet it: v1beta1 over a unix socket, two devices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

GPU = "example.com/gpu"


def field(number: int, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return bytes([number << 3 | 2, len(data)]) + data


class Plugin:
    """A vendor's plugin: two devices, the second of which falls ill when told."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ill = asyncio.Event()
        self.asked: list[bytes] = []
        self._server = grpc.aio.server()

    async def start(self) -> None:
        methods = {
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(self._watch),
            "Allocate": grpc.unary_unary_rpc_method_handler(self._allocate),
        }
        handler = grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", methods)
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(f"unix:{self._directory / 'gpu.sock'}")
        await self._server.start()

    async def register(self, version: bytes = b"v1beta1") -> None:
        async with grpc.aio.insecure_channel(f"unix:{self._directory / 'kubelet.sock'}") as channel:
            call = channel.unary_unary("/v1beta1.Registration/Register")
            await call(field(1, version) + field(2, b"gpu.sock") + field(3, GPU.encode()), wait_for_ready=True)

    async def stop(self) -> None:
        await self._server.stop(None)

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        healthy = [field(1, field(1, name), field(2, b"Healthy")) for name in (b"gpu-0", b"gpu-1")]
        yield b"".join(healthy)
        await self.ill.wait()
        yield healthy[0] + field(1, field(1, b"gpu-1"), field(2, b"Unhealthy"))
        await asyncio.Event().wait()

    async def _allocate(self, request: bytes, context: Any) -> bytes:
        self.asked.append(request)
        env = field(1, field(1, b"VISIBLE"), field(2, b"0"))
        mount = field(2, field(1, b"/lib/gpu"), field(2, b"/opt"), bytes([3 << 3, 1]))
        node = field(3, field(1, b"/dev/gpu0"), field(2, b"/dev/null"), field(3, b"rw"))
        return field(1, env, mount, node)
