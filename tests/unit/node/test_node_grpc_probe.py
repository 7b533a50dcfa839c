"""gRPC probes against a real gRPC server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from cluster.node.core_probe import ProbeAnswer
from cluster.node.grpc_probe import request, status_of
from cluster.node.prober import Prober


@contextlib.asynccontextmanager
async def server(answers: dict[bytes, bytes]) -> AsyncIterator[int]:
    """A health service that answers raw messages by raw messages; gives its port."""

    async def check(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if message not in answers:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return answers[message]

    handler = grpc.unary_unary_rpc_method_handler(check)
    listening = grpc.aio.server()
    listening.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
    )
    port = listening.add_insecure_port("127.0.0.1:0")
    await listening.start()
    try:
        yield port
    finally:
        await listening.stop(None)


async def probe(port: int, **more: str) -> ProbeAnswer:
    return await Prober(None).probe({"grpc": {"port": port, **more}}, {}, "id", "127.0.0.1", 5.0)  # type: ignore[arg-type]


async def test_serving_and_not_serving() -> None:
    async with server({b"": b"\x08\x01", b"\x0a\x04shop": b"\x08\x02", b"\x0a\x01x": b""}) as port:
        assert await probe(port) == ProbeAnswer(True, 'service healthy (responded with "SERVING")')
        assert await probe(port, service="shop") == ProbeAnswer(
            False, 'service unhealthy (responded with "NOT_SERVING")'
        )
        assert (await probe(port, service="x")).output == 'service unhealthy (responded with "UNKNOWN")'
        ok, text, _ = await probe(port, service="none")
        assert not ok and "unknown service" in text


async def test_nobody_listens() -> None:
    async with server({}) as port:
        pass
    ok, text, _ = await probe(port)
    assert not ok and f"127.0.0.1:{port}" in text


def test_messages() -> None:
    assert request("") == b"" and request("a" * 200)[:3] == b"\x0a\xc8\x01"
    with pytest.raises(ValueError, match="no HealthCheckResponse"):
        status_of(b"\x10\x01")
