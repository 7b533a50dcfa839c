"""Calls of CRI's two services over the runtime's unix socket.

IO: gRPC. What the runtime refuses becomes a RuntimeFailure with its own words; NotFound keeps its reason, and what
it does not do in time has UNANSWERED.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from cluster.node.cri.protos import METHODS, message, message_class
from cluster.node.runtime import UNANSWERED, RuntimeFailure

_TIMEOUT_S = 120.0
_MAX_MESSAGE = 16 << 20
_REASONS = {
    grpc.StatusCode.NOT_FOUND: "NotFound",
    grpc.StatusCode.UNIMPLEMENTED: "Unimplemented",
    grpc.StatusCode.DEADLINE_EXCEEDED: UNANSWERED,
}


class CriClient:
    """Belongs to the loop it is first used on."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint`: unix:///run/containerd/containerd.sock, or the path alone."""
        self.endpoint = endpoint if "://" in endpoint else f"unix://{endpoint}"
        self._channel: Any = None

    def _open(self) -> Any:
        if self._channel is None:
            options = [("grpc.max_receive_message_length", _MAX_MESSAGE)]
            self._channel = grpc.aio.insecure_channel(self.endpoint, options=options)
        return self._channel

    async def call(self, method: str, *, timeout_s: float = _TIMEOUT_S, **fields: Any) -> Any:
        """`method` is `Service/Method`. Raises RuntimeFailure."""
        request, response = METHODS[method]
        stub = self._open().unary_unary(
            f"/runtime.v1.{method}",
            request_serializer=message_class(request).SerializeToString,
            response_deserializer=message_class(response).FromString,
        )
        try:
            return await stub(message(request, **fields), timeout=timeout_s)
        except grpc.aio.AioRpcError as err:
            raise self._failure(err) from err

    async def stream(self, method: str, **fields: Any) -> AsyncIterator[Any]:
        """The answers of a streaming method. Raises RuntimeFailure."""
        request, response = METHODS[method]
        stub = self._open().unary_stream(
            f"/runtime.v1.{method}",
            request_serializer=message_class(request).SerializeToString,
            response_deserializer=message_class(response).FromString,
        )
        try:
            async for answer in stub(message(request, **fields)):
                yield answer
        except grpc.aio.AioRpcError as err:
            raise self._failure(err) from err

    def _failure(self, err: Any) -> Exception:
        if err.code() is grpc.StatusCode.UNAVAILABLE:
            return RuntimeFailure(f"the container runtime does not answer at {self.endpoint}: {err.details()}")
        return RuntimeFailure(str(err.details()), _REASONS.get(err.code(), ""))

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
