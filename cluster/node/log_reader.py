"""Reading a container's log file for `kubectl logs`.

IO: the file, in threads, in blocks. As the kubelet does it: the file being written is what is read (a rotated one no
longer), `tail` counts its lines, and a followed log goes on in the next file when this one is rotated. It ends once the
container has ended and everything was read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import BinaryIO

from cluster.node.cri_log import Renderer
from cluster.node.inotify import DirectoryWatch
from cluster.node.runtime import LogOptions

_BLOCK = 256 * 1024
_LOOK_S = 1.0  # how long an ended container of a quiet followed log goes unnoticed


async def read_log(
    path: str,
    options: LogOptions,
    *,
    limit_bytes: int | None = None,
    complete: Callable[[], Awaitable[bool]] | None = None,
) -> AsyncIterator[bytes]:
    """What is to be shown. `complete`: whether nothing more will be written, asked of followed logs. Raises OSError."""
    renderer = Renderer(options, limit_bytes)
    file = await asyncio.to_thread(_open, path, options.tail)
    try:
        if not options.follow:
            async for shown in _to_end(file, renderer):
                yield shown
            return
        with DirectoryWatch(os.path.dirname(path)) as watch:
            while not renderer.full:
                # Asked before the last look at the file, so that nothing is missed.
                over = complete is None or await complete()
                async for shown in _to_end(file, renderer):
                    yield shown
                successor = await asyncio.to_thread(_successor, path, file)
                if successor is not None:
                    async for shown in _to_end(file, renderer):
                        yield shown
                    file.close()
                    file = successor
                elif over:
                    return
                else:
                    await watch.changed(_LOOK_S)
    finally:
        file.close()


async def log_tail(path: str, lines: int, limit_bytes: int) -> str:
    """The last lines of a log, for a termination message."""
    data = b""
    async for shown in read_log(path, LogOptions(tail=lines)):
        data = (data + shown)[-limit_bytes:]
    return data.decode("utf-8", "replace")


async def _to_end(file: BinaryIO, renderer: Renderer) -> AsyncIterator[bytes]:
    while not renderer.full:
        data = await asyncio.to_thread(file.read, _BLOCK)
        if not data:
            return
        shown = renderer.feed(data)
        if shown:
            yield shown


def _open(path: str, tail: int | None) -> BinaryIO:
    file = open(path, "rb")  # noqa: SIM115 (closed by the caller)
    if tail is not None:
        file.seek(_tail_start(file, tail))
    return file


def _tail_start(file: BinaryIO, lines: int) -> int:
    """Where the last `lines` lines begin."""
    end = position = file.seek(0, os.SEEK_END)
    if lines == 0:
        return end
    left = lines + 1  # the end of the last line counts, too
    while position > 0:
        begin = max(position - _BLOCK, 0)
        file.seek(begin)
        block = file.read(position - begin)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            left -= 1
            if left == 0:
                return begin + at + 1
        position = begin
    return 0


def _successor(path: str, file: BinaryIO) -> BinaryIO | None:
    """The file that has taken the place of `file`, if one has."""
    try:
        if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
            return None
        return open(path, "rb")
    except FileNotFoundError:
        return None
