"""exec and attach through a CRI runtime's streaming server: the client's side of remotecommand over SPDY.

IO: one TCP connection to the address that Exec or Attach answered with. Streams, each with a `streamtype` header: error
(a metav1.Status when the command ends), stdin, stdout, stderr, resize. Fulfils runtime.Session.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from urllib.parse import SplitResult, urlsplit

from cluster.api.spdy import Data, GoAway, Ping, Reset, SpdyConnection, SpdyError
from cluster.node.runtime import RuntimeFailure, Stream

_READ = 64 * 1024
_CONNECT_S = 30.0
_ERROR, _STDIN, _STDOUT, _STDERR, _RESIZE = 1, 3, 5, 7, 9  # a client's streams have odd numbers


class CriSession:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, outputs: set[int]) -> None:
        self._reader = reader
        self._writer = writer
        self._spdy = SpdyConnection()
        self._open = {_ERROR, *outputs}
        self._status = bytearray()

    @classmethod
    async def connect(cls, url: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> CriSession:
        """Raises RuntimeFailure."""
        parts = urlsplit(url)
        wanted = {_STDIN: stdin, _STDOUT: stdout, _STDERR: stderr and not tty, _RESIZE: tty}
        server = f"the runtime's streaming server at {parts.netloc}"
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                try:
                    await _upgrade(reader, writer, parts)
                    return await cls._begin(reader, writer, [s for s, want in wanted.items() if want])
                except BaseException:  # nobody else has the connection yet
                    writer.transport.abort()
                    raise
        except TimeoutError as err:
            raise RuntimeFailure(f"{server} did not answer within {_CONNECT_S:g} s") from err
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as err:
            raise RuntimeFailure(f"{server}: {err}") from err

    @classmethod
    async def _begin(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, streams: Sequence[int]
    ) -> CriSession:
        session = cls(reader, writer, {_STDOUT, _STDERR} & set(streams))
        for stream in (_ERROR, *streams):
            writer.write(session._spdy.open(stream, {"streamtype": _NAMES[stream]}))
        await writer.drain()
        return session

    async def read(self) -> AsyncIterator[tuple[Stream, bytes]]:
        try:
            while self._open and (data := await self._reader.read(_READ)):
                for event in self._spdy.receive(data):
                    if isinstance(event, Data) and event.stream == _ERROR:
                        self._status += event.data
                    elif isinstance(event, Data) and event.data:
                        yield (2 if event.stream == _STDERR else 1), event.data
                    elif isinstance(event, Ping):
                        self._writer.write(self._spdy.pong(event.id))
                    elif isinstance(event, GoAway):
                        return
                    if isinstance(event, Reset) or (isinstance(event, Data) and event.fin):
                        self._open.discard(event.stream)
        except (ConnectionError, SpdyError):
            return

    async def write(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self._writer.write(self._spdy.data(_STDIN, data))
            await self._writer.drain()

    async def close_stdin(self) -> None:
        with contextlib.suppress(ConnectionError):
            self._writer.write(self._spdy.data(_STDIN, b"", fin=True))

    async def resize(self, height: int, width: int) -> None:
        with contextlib.suppress(ConnectionError):
            self._writer.write(self._spdy.data(_RESIZE, json.dumps({"Width": width, "Height": height}).encode()))

    async def exit_code(self) -> int:
        """From the status on the error stream; none at all is the end of an attachment. Raises RuntimeFailure."""
        if not self._status:
            return 0
        status = json.loads(self._status)
        if status.get("status") == "Success":
            return 0
        for cause in (status.get("details") or {}).get("causes") or ():
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
        raise RuntimeFailure(str(status.get("message") or "the command failed"))

    async def close(self) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


_NAMES = {_ERROR: "error", _STDIN: "stdin", _STDOUT: "stdout", _STDERR: "stderr", _RESIZE: "resize"}


async def _upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: SplitResult) -> None:
    """From HTTP to SPDY. Raises RuntimeFailure, OSError, IncompleteReadError, LimitOverrunError."""
    head = (
        f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        "X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n"
    )
    writer.write(head.encode())
    status = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0].partition(b" ")[2]
    if status.split(b" ")[0] != b"101":
        raise RuntimeFailure(f"the runtime's streaming server answered {status.decode(errors='replace')}")
