"""A request with Upgrade, passed on to another server: WebSocket, SPDY or what they agree on, byte for byte.

IO: a TLS connection of its own to that server, and the client's, taken over once the server has answered 101. What it
answers instead is the client's answer. Source: RFC 9110 section 7.8; apimachinery `pkg/util/proxy/upgradeaware.go`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDict

from cluster.api import errors
from cluster.apiserver.call import Call
from cluster.apiserver.connection import take_over

_CHUNK = 64 * 1024
_MAX_REFUSAL = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server's connection; its head was read."""

    status: int
    headers: CIMultiDict[str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


def asked(call: Call) -> bool:
    return "upgrade" in call.headers.get("Connection", "").lower() and bool(call.headers.get("Upgrade"))


def head_of(method: str, target: str, headers: CIMultiDict[str]) -> bytes:
    """The request's head. Raises ApiError 400 for a header with a line end in it, which a user's name could hold."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    if any(c in line for line in lines for c in "\r\n\0"):
        raise errors.bad_request("a header of the request, or the name of its user, holds a line end")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> Upstream:
    """Ask, and read the head of the answer. Raises OSError for a server that does not answer in HTTP."""
    writer.write(head)
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
        line, _, rest = raw.partition(b"\r\n")
        status = int(line.split(b" ", 2)[1])
        parsed = http.client.parse_headers(io.BytesIO(rest))
    except (
        asyncio.IncompleteReadError,
        asyncio.LimitOverrunError,
        http.client.HTTPException,
        LookupError,
        ValueError,
    ) as e:
        raise ConnectionError("the server did not answer in HTTP") from e
    return Upstream(status, CIMultiDict(parsed.items()), reader, writer)


async def refusal(upstream: Upstream) -> bytes:
    """The body of an answer that is no 101, as far as it is kept. Raises OSError when it breaks off."""
    headers, reader = upstream.headers, upstream.reader
    if upstream.status in (204, 304) or upstream.status < 200:  # RFC 9112 section 6.3: none, whatever the headers say
        return b""
    try:
        if "chunked" in headers.get("Transfer-Encoding", "").lower():
            return await _chunked(reader)
        if "Content-Length" in headers:
            return await reader.readexactly(min(int(headers["Content-Length"]), _MAX_REFUSAL))
    except (asyncio.IncompleteReadError, ValueError) as e:
        raise ConnectionError("the server's answer broke off") from e
    return await _until_end(reader)


async def _until_end(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while len(body) < _MAX_REFUSAL and (data := await reader.read(_MAX_REFUSAL - len(body))):
        body += data
    return bytes(body)


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while len(body) < _MAX_REFUSAL and (size := int((await reader.readline()).split(b";")[0], 16)):
        body += await reader.readexactly(min(size, _MAX_REFUSAL))
        await reader.readline()
    return bytes(body)


async def relay(call: Call, upstream: Upstream, headers: CIMultiDict[str]) -> web.StreamResponse:
    """Answer 101 with these headers, then bytes both ways until one side ends."""
    response, reader, writer = await take_over(call.request, headers, _CHUNK)
    ways = (
        asyncio.create_task(_pump(reader, upstream.writer)),
        asyncio.create_task(_pump(upstream.reader, writer)),
    )
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()  # what was written before is still sent
    return response


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Waits for a sink that lags, and so lets its source wait."""
    with contextlib.suppress(OSError):
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()
