"""What one client connection is to be told, gathered into few frames. IO on the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from raft.transport import Connection
from raft.wire import frames_of, pack

HIGH_BYTES = 8 << 20


class Outbox:
    """Items leave at the end of the loop's turn. ``send`` says whether more should come now."""

    __slots__ = ("_bytes", "_items", "_loop", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._loop = asyncio.get_running_loop()
        self._items: list[bytes] = []
        self._bytes = 0

    @property
    def writable(self) -> bool:
        return self.connection.writable and self._bytes < HIGH_BYTES

    def send(self, item: bytes) -> bool:
        if not self._items:
            self._loop.call_soon(self._flush)
        self._items.append(item)
        self._bytes += len(item)
        return self._bytes < HIGH_BYTES

    def answer(self, request_id: int, ok: bool, result: Any) -> None:
        self.send(pack((request_id, ok, result)))

    def _flush(self) -> None:
        items, self._items, self._bytes = self._items, [], 0
        if not self.connection.closed:
            self.connection.send_bytes(b"".join(frames_of(items)))
