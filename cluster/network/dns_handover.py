"""Who reads the DNS sockets: the Proxy while it lives, sk8-machine while it does not. IO over one unix socket.

sk8-machine opens the sockets once and keeps them; a Proxy that starts gets copies of them (SCM_RIGHTS). The unix
connection is the Proxy's claim: when it ends, however that came, sk8-machine reads the sockets again.

    Proxy                                        sk8-machine (reads the sockets)
      connect                              ->
                                           <-    "S" and the two sockets
      (loads its zone from the API)
      "R": ready to serve                  ->    stops reading
                                           <-    "G": go
      reads the sockets
      dies: the connection ends            ->    reads the sockets again

Between "stops" and "reads" queries wait in the sockets' queues; none is lost and none is refused. When sk8-machine
itself goes, the Proxy stops, closes its copies and asks again, so that a new sk8-machine can open the address.

When another Proxy is ready while one still serves, sk8-machine shuts its half of the older connection, and the newer
gets its "G" only once the older has ended: two readers of one socket would break dns_serve.py's invariant. A Proxy that
does not end in time (a frozen one) counts as gone; what it does should it wake can cost a query its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from cluster.network.dns_serve import Sockets

log = logging.getLogger(__name__)

SOCKETS, READY, GO = b"S", b"R", b"G"
_RETRY_S = 0.2
_END_S = 3.0
"""So long an older Proxy may take to stop; less than `_ANSWER_S`, which the newer one waits for its turn."""
_ANSWER_S = 5.0


class _Claim:
    """A Proxy that said it is ready; `ended` once it reads the sockets no more."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.ended = asyncio.Event()


class Holder:
    """sk8-machine's side. `stand_in` starts to read the sockets, `stand_back` stops; both are called in turns."""

    def __init__(
        self,
        path: Path,
        sockets: Sockets,
        stand_in: Callable[[], Awaitable[None]],
        stand_back: Callable[[], None],
        *,
        end_s: float = _END_S,
    ) -> None:
        self._path = path
        self._sockets = sockets
        self._stand_in = stand_in
        self._stand_back = stand_back
        self._end_s = end_s
        self._newest: _Claim | None = None
        self._turn = asyncio.Lock()
        self._writers: set[asyncio.StreamWriter] = set()

    async def run(self) -> None:
        """Returns only by cancellation."""
        server = await asyncio.start_unix_server(self._on_proxy, sock=_private_listener(self._path))
        try:
            await self._stand_in_if_alone()
            await asyncio.Event().wait()
        finally:
            self._newest = None  # the sockets are about to close: nobody stands in any more
            server.close()
            for writer in list(self._writers):
                writer.close()

    async def _on_proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            _send_sockets(writer, self._sockets)
            if await reader.read(1) == READY:
                await self._while_it_serves(reader, _Claim(writer))
        except OSError as err:
            log.info("a proxy that asked for the DNS sockets went away: %s", err)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _while_it_serves(self, reader: asyncio.StreamReader, claim: _Claim) -> None:
        earlier, self._newest = self._newest, claim
        try:
            if earlier is None:
                async with self._turn:
                    self._stand_back()
            else:
                await self._end(earlier)
            if self._newest is claim:  # else a newer one waits for this one's end
                claim.writer.write(GO)
                await claim.writer.drain()
            await reader.read(1)
        finally:
            claim.ended.set()
            if self._newest is claim:
                self._newest = None
                log.warning("the proxy is gone: sk8-machine answers DNS from the last known names")
                await self._stand_in_if_alone()

    async def _end(self, earlier: _Claim) -> None:
        """Returns when that Proxy reads the sockets no more, or has had its time. Half of its connection stays open:
        its end is how the Proxy says that it has stopped."""
        with contextlib.suppress(OSError):
            earlier.writer.write_eof()
        try:
            async with asyncio.timeout(self._end_s):
                await earlier.ended.wait()
        except TimeoutError:
            log.warning("an older proxy did not give up the DNS sockets in %g s; the newer one goes on", self._end_s)
            earlier.writer.close()

    async def _stand_in_if_alone(self) -> None:
        async with self._turn:
            if self._newest is None:
                await self._stand_in()


def _private_listener(path: Path) -> socket.socket:
    """Bound, for root alone, and not yet listening: so nobody connects before its mode is set."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
    except BaseException:
        listener.close()
        raise
    return listener


def _send_sockets(writer: asyncio.StreamWriter, sockets: Sockets) -> None:
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as raw:
        socket.send_fds(raw, [SOCKETS], [s.fileno() for s in sockets])


@contextlib.asynccontextmanager
async def borrowed(path: str, ready: asyncio.Event) -> AsyncIterator[tuple[Sockets, asyncio.StreamReader]]:
    """The Proxy's side: the sockets, once `ready` is set and it is our turn; `reader` ends when they must go back.

    Waits for sk8-machine as long as that takes.
    """
    raw, sockets = await _ask(path)
    writer: asyncio.StreamWriter | None = None
    try:
        raw.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=raw)
        await ready.wait()
        writer.write(READY)
        async with asyncio.timeout(_ANSWER_S):
            await reader.readexactly(1)
        yield sockets, reader
    finally:
        for one in sockets:
            one.close()
        if writer is None:
            raw.close()
        else:
            writer.close()


async def _ask(path: str) -> tuple[socket.socket, Sockets]:
    warned = False
    while True:
        try:
            return await asyncio.to_thread(_ask_once, path)
        except OSError as err:
            if not warned:
                log.warning("sk8-machine does not hand out the DNS sockets yet (%s): %s", path, err)
                warned = True
            await asyncio.sleep(_RETRY_S)


def _ask_once(path: str) -> tuple[socket.socket, Sockets]:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        raw.settimeout(_ANSWER_S)
        raw.connect(path)
        said, descriptors, _, _ = socket.recv_fds(raw, 1, 2)
        opened = [socket.socket(fileno=fd) for fd in descriptors]
        if said != SOCKETS or len(opened) != 2:
            for one in opened:
                one.close()
            raise OSError(f"it said {said!r} and sent {len(opened)} sockets")
    except BaseException:
        raw.close()
        raise
    for one in opened:
        one.setblocking(False)
    return raw, (opened[0], opened[1])
