"""Being told that something in a directory changed: Linux' inotify(7) on asyncio.

IO. What changed is not said, only that something did: whoever waits looks again. Changes between two
waits are not lost.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from types import TracebackType

_IN_MODIFY, _IN_ATTRIB, _IN_CLOSE_WRITE = 0x2, 0x4, 0x8
_IN_MOVED, _IN_CREATE, _IN_DELETE = 0xC0, 0x100, 0x200
_CHANGES = _IN_MODIFY | _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_MOVED | _IN_CREATE | _IN_DELETE
_BUFFER = 64 * 1024


class DirectoryWatch:
    """`with DirectoryWatch(path) as watch: await watch.changed(1.0)`. Raises OSError when it cannot be watched."""

    def __init__(self, path: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._changed = asyncio.Event()
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(path), _CHANGES) < 0:
            code = ctypes.get_errno()
            if self._fd >= 0:
                os.close(self._fd)
            raise OSError(code, os.strerror(code), path)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._readable)

    def __enter__(self) -> DirectoryWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    async def changed(self, timeout_s: float) -> bool:
        """True when something changed since the last call, False after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    def _readable(self) -> None:
        try:
            os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return
        self._changed.set()
