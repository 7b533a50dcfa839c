"""The client of the API benchmarks: keep-alive TLS connections that cost little, the same one against every target.

One request at a time per connection (RFC 9112). A response is read to its end, by Content-Length or by chunks, and its
body is looked at only where the caller wants it. IO; runs on any asyncio loop.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks._stack import Target

_END = b"\r\n\r\n"


def head_of(target: Target) -> str:
    """The header lines of every request to it."""
    token = f"Authorization: Bearer {target.token}\r\n" if target.token else ""
    return f"Host: {target.host}:{target.port}\r\n{token}Accept: application/json\r\n"


@contextmanager
def undisturbed() -> Iterator[None]:
    """The client collects no garbage meanwhile: its own pauses would be counted as the server's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class HttpError(RuntimeError):
    """A status that the benchmark did not expect, with the body's beginning."""


class Connection:
    """`call` sends one request and waits for its response."""

    def __init__(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._fixed = head_of(target)

    @classmethod
    async def open(cls, target: Target) -> Connection:
        reader, writer = await asyncio.open_connection(
            target.host, target.port, ssl=target.tls, server_hostname=target.host, limit=1 << 22
        )
        return cls(target, reader, writer)

    async def call(self, method: str, path: str, body: bytes = b"", *, expect: Sequence[int] = (200, 201)) -> bytes:
        """The body. Raises HttpError unless the status is one of `expect`."""
        self._send(method, path, body)
        head = await self._reader.readuntil(_END)
        status = int(head[9:12])
        lower = head.lower()
        at = lower.find(b"content-length:")
        if at >= 0:
            data = await self._reader.readexactly(int(lower[at + 15 : lower.index(b"\r\n", at)]))
        elif b"transfer-encoding: chunked" in lower:
            data = await self._chunks()
        else:
            data = b""
        if status not in expect:
            raise HttpError(f"{method} {path}: {status} {data[:300]!r}")
        return data

    async def watch(self, path: str, on_lines: Callable[[bytes], bool]) -> None:
        """Gives `on_lines` the bytes of whole events as they come, until it says True."""
        self._send("GET", path, b"")
        head = await self._reader.readuntil(_END)
        if int(head[9:12]) != 200:
            raise HttpError(f"GET {path}: {head[:200]!r}")
        rest = b""
        while True:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            data = rest + (await self._reader.readexactly(size + 2))[:-2]
            whole, _, rest = data.rpartition(b"\n")
            if whole and on_lines(whole):
                return
            if size == 0:
                raise HttpError(f"the watch of {path} ended")

    def close(self) -> None:
        self._writer.close()

    def _send(self, method: str, path: str, body: bytes) -> None:
        head = f"{method} {path} HTTP/1.1\r\n{self._fixed}"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)

    async def _chunks(self) -> bytes:
        parts = []
        while True:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            parts.append((await self._reader.readexactly(size + 2))[:-2])
            if size == 0:
                return b"".join(parts)


async def spread(
    connections: Sequence[Connection], count: int, one: Callable[[Connection, int], Awaitable[None]]
) -> None:
    """`one(connection, i)` for i in range(count), each connection taking the next as it gets free."""
    numbers = iter(range(count))

    async def work(connection: Connection) -> None:
        for number in numbers:
            await one(connection, number)

    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(work(connection))
