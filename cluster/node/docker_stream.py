"""Docker's byte streams on asyncio: exec and attach over an upgraded connection, logs, events.

IO: the engine's unix socket. Source: Docker Engine API v1.41, "Attach to a container": without a tty output comes in
frames of an 8-byte header (stream, 0, 0, 0, length) and a payload; with a tty it is raw. The docker package reads these
through a buffered file that may swallow the first bytes, so the upgrade is made here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from cluster.node.runtime import UNANSWERED, RuntimeFailure, Stream

_HEADER = struct.Struct(">BxxxI")
_READ = 32 * 1024
_MAX_HEAD = 64 * 1024
_ANSWER_S = 30.0
LINGER_S = 3.0
"""So long an attachment whose input ended must be silent before the engine is told."""
LINGER_MOST_S = 60.0
"""One that is never silent ends so long after its input."""


async def upgrade(
    socket_path: str, path: str, body: dict[str, Any] | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """POST `path` and take the connection over. Raises RuntimeFailure with the engine's message."""
    try:
        reader, writer = await asyncio.open_unix_connection(socket_path)
    except OSError as err:
        raise RuntimeFailure(f"the container engine does not answer at {socket_path}: {err}") from err
    payload = b"" if body is None else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    try:
        async with asyncio.timeout(_ANSWER_S):
            writer.write(head.encode() + payload)
            await writer.drain()
            answer = await reader.readuntil(b"\r\n\r\n")
        status = int(answer.split(b" ", 2)[1])
        if status not in (101, 200):
            raise RuntimeFailure(await _message(reader, status))
    except BaseException as err:
        writer.close()
        if isinstance(err, TimeoutError):
            message = f"context deadline exceeded: the container engine gave no answer within {_ANSWER_S:.0f} s"
            raise RuntimeFailure(message, UNANSWERED) from err
        if isinstance(err, OSError | asyncio.IncompleteReadError | asyncio.LimitOverrunError | ValueError):
            raise RuntimeFailure(f"the container engine broke the connection: {err}") from err
        raise
    return reader, writer


async def _message(reader: asyncio.StreamReader, status: int) -> str:
    """The engine's error text: JSON with a message, plain or in one chunk."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            text = await reader.read(_MAX_HEAD)
            start, end = text.find(b"{"), text.rfind(b"}")
            if 0 <= start < end:
                with contextlib.suppress(ValueError):
                    return str(json.loads(text[start : end + 1]).get("message") or f"status {status}")
            return text.decode("utf-8", "replace").strip() or f"status {status}"
    return f"status {status}"


class StreamSession:
    """An exec or attach in progress (fulfils runtime.Session).

    Input has a descriptor of its own: a command that ends without reading it breaks the writing, and a transport whose
    write fails gives up reading too, with the command's last output still unread.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        tty: bool,
        resize: Callable[[int, int], Awaitable[None]],
        exit_code: Callable[[], Awaitable[int]],
        passes_eof: bool = True,
    ) -> None:
        """`passes_eof`: whether the end of input is told at once. The engine ends an attachment whose input ended,
        output and all, unless the container's input is to end with it (stdinOnce); so then it hears of it only once
        the container has been silent for LINGER_S, or after LINGER_MOST_S.
        """
        self._reader = reader
        self._writer = writer
        self._tty = tty
        self._resize = resize
        self._exit_code = exit_code
        self._passes_eof = passes_eof
        self._reads = 0
        self._lingering: asyncio.Task[None] | None = None
        self._input: socket.socket | None = writer.get_extra_info("socket").dup()
        if self._input is not None:
            self._input.setblocking(False)

    async def read(self) -> AsyncIterator[tuple[Stream, bytes]]:
        try:
            if self._tty:
                while data := await self._reader.read(_READ):
                    self._reads += 1
                    yield 1, data
                return
            while True:
                header = await self._reader.readexactly(_HEADER.size)
                stream, length = _HEADER.unpack(header)
                self._reads += 1
                while length:
                    data = await self._reader.read(min(length, _READ))
                    if not data:
                        return
                    length -= len(data)
                    yield (2 if stream == 2 else 1), data
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def write(self, data: bytes) -> None:
        """As fast as the command reads; what it will never read is dropped."""
        if self._input is not None:
            with contextlib.suppress(ConnectionError):
                await asyncio.get_running_loop().sock_sendall(self._input, data)

    async def close_stdin(self) -> None:
        if self._passes_eof:
            self._end_input()
        elif self._lingering is None:
            self._lingering = asyncio.create_task(self._linger(), name="attachment-lingers")

    async def _linger(self) -> None:
        seen = -1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_MOST_S):
                while seen != self._reads:
                    seen = self._reads
                    await asyncio.sleep(LINGER_S)
        self._end_input()

    def _end_input(self) -> None:
        if self._input is not None:
            with contextlib.suppress(OSError):
                self._input.shutdown(socket.SHUT_WR)

    async def resize(self, height: int, width: int) -> None:
        await self._resize(height, width)

    async def exit_code(self) -> int:
        return await self._exit_code()

    async def close(self) -> None:
        """At once; no `write` may be under way."""
        if self._lingering is not None:
            self._lingering.cancel()
        if self._input is not None:
            self._input.close()
            self._input = None
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


Written = list[tuple[Stream, bytes]]


async def unframe(chunks: AsyncIterator[bytes]) -> AsyncIterator[Written]:
    """What came in each chunk of a framed stream (logs of a container without a tty): one item per write."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        found: Written = []
        at = 0
        while len(buffer) - at >= _HEADER.size:
            stream, length = _HEADER.unpack_from(buffer, at)
            end = at + _HEADER.size + length
            if len(buffer) < end:
                break
            found.append((2 if stream == 2 else 1, bytes(buffer[at + _HEADER.size : end])))
            at = end
        del buffer[:at]
        if found:
            yield found


async def unlined(chunks: AsyncIterator[bytes]) -> AsyncIterator[Written]:
    """The same of a tty's log, which has no frames: one item per line. (A line of more than 16 KiB comes in pieces that
    nothing tells apart: its inner times stay in it.)"""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield [(1, line + b"\n") for line in lines]
    if rest:
        yield [(1, rest)]
