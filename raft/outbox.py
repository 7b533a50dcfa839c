"""What one client connection is to be told, gathered into few frames. IO on the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from raft.transport import Connection
from raft.wire import SOFT_FRAME_BYTES, frame, frames_of, pack

HIGH_BYTES = 8 << 20
SMALL_BYTES = 64
"""Counted for an answer that is packed later."""


class Outbox:
    """Items leave at the end of the loop's turn. ``send`` says whether more should come now."""

    __slots__ = ("_bytes", "_items", "_loop", "_small", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._loop = asyncio.get_running_loop()
        self._items: list[bytes | tuple[Any, ...]] = []
        self._bytes = 0
        self._small = 0

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
        """``result`` may be large (a range) and is packed now: what it is made of may change."""
        self.send(pack((request_id, ok, result)))

    def answer_small(self, request_id: int, result: Any) -> None:
        """A success of a few bytes that nobody changes any more: packed together with all others of this turn."""
        if not self._items:
            self._loop.call_soon(self._flush)
        self._items.append((request_id, True, result))
        self._bytes += SMALL_BYTES
        self._small += 1

    def _flush(self) -> None:
        items, small = self._items, self._small
        self._items, self._bytes, self._small = [], 0, 0
        if self.connection.closed:
            return
        if small == len(items) and small * SMALL_BYTES < SOFT_FRAME_BYTES:
            self.connection.send_bytes(frame(pack(items)))
            return
        packed = [item if isinstance(item, bytes) else pack(item) for item in items]
        self.connection.send_bytes(b"".join(frames_of(packed)))
