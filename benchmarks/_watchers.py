"""Thousands of watches from one process, cheap enough that the server is what is measured. IO on the event loop.

A watcher is a protocol that sends one request and notes when each event's bytes arrive; nothing is parsed.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

from benchmarks._load import head_of
from benchmarks._stack import Target

_EVENT = b'{"type":"'
_CONNECTING = 50
"""Handshakes under way at a time."""


class Watcher(asyncio.Protocol):
    """`seen`: when each event arrived, on the monotonic clock."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._tail = b""
        self._transport: asyncio.Transport | None = None
        self.answered = asyncio.get_running_loop().create_future()
        self.seen: list[float] = []
        self._enough: tuple[int, asyncio.Future[None]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            self.answered.set_result(data[9:12])
        data = self._tail + data
        self.seen += [time.monotonic()] * data.count(_EVENT)
        self._tail = data[-len(_EVENT) + 1 :]
        if self._enough is not None and len(self.seen) >= self._enough[0] and not self._enough[1].done():
            self._enough[1].set_result(None)

    async def saw(self, events: int) -> None:
        """Wait until it has seen so many."""
        if len(self.seen) < events:
            self._enough = (events, asyncio.get_running_loop().create_future())
            await self._enough[1]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(ConnectionError("closed before the answer"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def watch(target: Target, path: str, count: int) -> list[Watcher]:
    """`count` watches of `path`, each on a connection of its own, all of them answered."""
    request = f"GET {path} HTTP/1.1\r\n{head_of(target)}\r\n".encode()
    turns = asyncio.Semaphore(_CONNECTING)

    async def one() -> Watcher:
        async with turns:
            _, watcher = await asyncio.get_running_loop().create_connection(
                lambda: Watcher(request), target.host, target.port, ssl=target.tls, server_hostname=target.host
            )
            if await watcher.answered != b"200":
                raise RuntimeError(f"watch of {path}: {watcher.answered.result()!r}")
            return watcher

    return await asyncio.gather(*(one() for _ in range(count)))


async def until_seen(watchers: list[Watcher], events: int, timeout_s: float = 60.0) -> None:
    """Every watcher has seen at least so many events."""
    async with asyncio.timeout(timeout_s):
        for watcher in watchers:
            await watcher.saw(events)
