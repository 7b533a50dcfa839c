"""Clients that upgrade to plain SPDY/3.1: exec, attach, port-forward of client-go before 1.30, kubectl before 1.31.

IO: the client's connection, taken over from aiohttp once 101 was answered, and a WebSocket to the kubelet.

    exec, attach    SPDY streams <-> v5.channel.k8s.io messages (spdy_exec.py says which is which)
    port-forward    the bytes of the SPDY connection as messages: the kubelet speaks SPDY itself

Flow control is TCP's on each side, as between Kubernetes' own: neither its clients nor its servers send WINDOW_UPDATE.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aiohttp import ClientWebSocketResponse, WSMsgType, web

from cluster.api import errors
from cluster.api.spdy import SpdyError
from cluster.apiserver.call import Call
from cluster.apiserver.connection import take_over
from cluster.apiserver.spdy_exec import ExecTranslation

log = logging.getLogger(__name__)
PORT_FORWARD = "portforward.k8s.io"
_VERSION = "SPDY/3.1"
_CHUNK = 64 * 1024
_STREAMS_S = 30.0
"""How long a client may take to open its streams, as in Kubernetes."""
LINGER_S = 2.0
"""How long a client that was told the end may take to close its side; a cut before could cost it what was said last."""


def asked(call: Call) -> bool:
    return call.headers.get("Upgrade", "").lower().startswith("spdy")


def negotiate(call: Call, served: Sequence[str]) -> str:
    """The first protocol of the client's that is served. Raises ApiError 400, or 403 with a header that names those."""
    if call.headers["Upgrade"].lower() != _VERSION.lower():
        raise errors.bad_request(f"unable to upgrade: only {_VERSION} is spoken here")
    given = ",".join(call.headers.getall("X-Stream-Protocol-Version", []))
    offered = [p.strip() for p in given.split(",") if p.strip()]
    if not offered:
        raise errors.bad_request("unable to upgrade: X-Stream-Protocol-Version is required")
    chosen = next((p for p in offered if p in served), None)
    if chosen is None:
        call.answer_headers["X-Accepted-Stream-Protocol-Versions"] = ", ".join(served)
        told = f"client supports [{' '.join(offered)}], server accepts [{' '.join(served)}]"
        raise errors.ApiError(403, "Forbidden", f"unable to upgrade: unable to negotiate protocol: {told}")
    return chosen


class SpdyClient:
    """The client's connection after the 101: bytes both ways."""

    def __init__(
        self, response: web.StreamResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.response = response
        self.reader = reader
        self.writer = writer

    @classmethod
    async def accept(cls, call: Call, protocol: str) -> SpdyClient:
        """Answer 101. Raises ConnectionError when the client has gone already."""
        headers = {"Connection": "Upgrade", "Upgrade": _VERSION, "X-Stream-Protocol-Version": protocol}
        return cls(*await take_over(call.request, {**headers, "Audit-Id": call.audit_id}, _CHUNK))

    async def close(self, last: bytes = b"") -> None:
        """Say `last`, read away what still comes until the client has closed (LINGER_S at most), and close."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            if last:
                self.writer.write(last)
                await self.writer.drain()
                async with asyncio.timeout(LINGER_S):
                    while await self.reader.read(_CHUNK):
                        pass
        self.writer.close()


async def serve_exec(client: SpdyClient, kubelet: ClientWebSocketResponse, exec_: ExecTranslation) -> None:
    """Until the kubelet ends or the client leaves. Closing the kubelet's side is the caller's."""
    ready = asyncio.Event()
    ended = await _first_of(_exec_in(client, kubelet, exec_, ready), _exec_out(client, kubelet, exec_, ready))
    await client.close(exec_.end() if ended else b"")


async def _exec_in(
    client: SpdyClient, kubelet: ClientWebSocketResponse, exec_: ExecTranslation, ready: asyncio.Event
) -> bool:
    """Until the client leaves. A kubelet that takes no more ends nothing: its last words are still to be read."""
    listens = True
    while not exec_.left and (data := await client.reader.read(_CHUNK)):
        step = exec_.from_client(data)
        if step.client:
            client.writer.write(step.client)
            await client.writer.drain()
        if exec_.ready:
            ready.set()
        for message in step.kubelet:
            try:
                if listens:
                    await kubelet.send_bytes(message)
            except ConnectionError:
                listens = False
    return False


async def _exec_out(
    client: SpdyClient, kubelet: ClientWebSocketResponse, exec_: ExecTranslation, ready: asyncio.Event
) -> bool:
    """True when the kubelet has ended. Raises TimeoutError for a client that does not open its streams."""
    async with asyncio.timeout(_STREAMS_S):
        await ready.wait()
    return await _messages(client, kubelet, exec_.from_kubelet)


async def serve_port_forward(client: SpdyClient, kubelet: ClientWebSocketResponse) -> None:
    """Until either side ends. Closing the kubelet's side is the caller's."""
    await _first_of(_bytes(client, kubelet), _messages(client, kubelet, bytes))
    await client.close()


async def _bytes(client: SpdyClient, kubelet: ClientWebSocketResponse) -> bool:
    while data := await client.reader.read(_CHUNK):
        await kubelet.send_bytes(data)
    return False


async def _messages(client: SpdyClient, kubelet: ClientWebSocketResponse, translated: Callable[[bytes], bytes]) -> bool:
    """The kubelet's messages to the client until the kubelet closes."""
    async for message in kubelet:
        if message.type is WSMsgType.BINARY and (data := translated(message.data)):
            client.writer.write(data)
            await client.writer.drain()
    return True


async def _first_of(*ways: Coroutine[Any, Any, bool]) -> bool:
    """What the way that ends first says; the other is cancelled. One that breaks says False."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        try:
            if task.result():
                return True
        except (ConnectionError, SpdyError, TimeoutError) as err:
            log.info("SPDY client: %s", err or "it did not open its streams")
    return False
