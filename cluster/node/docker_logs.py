"""Writing the log files of Docker's containers, in CRI's format.

IO: the files, and the engine's log stream through what it is given. The engine keeps what containers write; one task
per container follows it and writes the file. So nothing is lost while no kubelet runs: the next one goes on after the
last entry of the file (as long as the engine still has it: 30 MB a container).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from cluster.node.cri_log import entry, resume_after
from cluster.node.docker_stream import Written
from cluster.node.runtime import RuntimeFailure

log = logging.getLogger(__name__)
Source = Callable[[str, str], AsyncIterator[Written]]
_TAIL_BYTES = 1 << 20
_RETRY_S = (0.1, 5.0)
_WRITTEN_S = 10.0


class LogWriters:
    """`source(id, since)` follows a container's log with the time before every item; `running(id)` looks at it."""

    def __init__(self, source: Source, running: Callable[[str], Awaitable[bool]]) -> None:
        self._source = source
        self._running = running
        self._writers: dict[str, _Writer] = {}

    def start(self, container_id: str, path: str) -> None:
        """Begin, or go on; returns at once."""
        if container_id not in self._writers:
            writer = _Writer(container_id, path)
            writer.task = asyncio.get_running_loop().create_task(self._follow(writer), name=f"log {container_id[:12]}")
            self._writers[container_id] = writer

    def complete(self, container_id: str) -> bool:
        writer = self._writers.get(container_id)
        return writer is None or writer.task is None or writer.task.done()

    async def written(self, container_id: str) -> None:
        """Or after a while: the engine may not say that a log has ended."""
        writer = self._writers.get(container_id)
        if writer is not None and writer.task is not None:
            await asyncio.wait([writer.task], timeout=_WRITTEN_S)

    def reopen(self, container_id: str) -> None:
        writer = self._writers.get(container_id)
        if writer is not None:
            writer.close()

    def forget(self, container_id: str) -> None:
        writer = self._writers.pop(container_id, None)
        if writer is not None and writer.task is not None:
            writer.task.cancel()

    async def close(self) -> None:
        tasks = [w.task for w in self._writers.values() if w.task is not None]
        for container_id in list(self._writers):
            self.forget(container_id)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, writer: _Writer) -> None:
        delay = _RETRY_S[0]
        ended = False
        try:
            while True:
                try:
                    writer.open()  # here and not in the thread, which goes on when this task is cancelled
                    since = await asyncio.to_thread(writer.resume)
                    async for items in self._source(writer.id, since):
                        writer.write(items)
                        delay = _RETRY_S[0]
                    if ended:
                        return
                    ended = not await self._running(writer.id)
                    if ended:
                        continue  # what is followed may end before the container's last words: read once more
                except RuntimeFailure as err:
                    if err.reason == "NotFound":
                        return
                    log.warning("the log of container %s: %s; trying again", writer.id[:12], err)
                except FileNotFoundError:
                    return  # the directory is gone: so is the pod
                except OSError as err:
                    log.error("writing %s: %s; trying again", writer.path, err)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_S[1])
        finally:
            writer.close()


class _Writer:
    """One container's file, opened when there is something to write."""

    def __init__(self, container_id: str, path: str) -> None:
        self.id = container_id
        self.path = path
        self.task: asyncio.Task[None] | None = None
        self._fd = -1
        self._known: Counter[bytes] = Counter()

    def resume(self) -> str:
        """The time from which to ask for more. Blocking; opens the file anew, as ours may be closed meanwhile."""
        tail = _whole_tail(self.path) or _newest_rotated(self.path)
        found = resume_after(tail)
        self._known = found.known
        return found.since

    def write(self, items: Written) -> None:
        """Append what is new; to the page cache, so it is done on the loop."""
        lines = []
        for stream, item in items:
            stamp, _, data = item.partition(b" ")
            line = entry(stamp, stream, data)
            if self._known and self._known.get(line, 0) > 0:
                self._known[line] -= 1
            else:
                lines.append(line)
        if lines:
            self.open()
            _write_all(self._fd, b"".join(lines))

    def open(self) -> None:
        """Raises FileNotFoundError when the pod's directory is gone."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _whole_tail(path: str) -> bytes:
    """The last whole lines; a torn one at the end (a machine that lost power) is cut off the file."""
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        begin = max(size - _TAIL_BYTES, 0)
        file.seek(begin)
        data = file.read()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            log.warning("%s ended in half a line, which is cut off", path)
            file.truncate(begin + end)
    return data[:end] if begin == 0 else data[data.find(b"\n") + 1 : end]


def _newest_rotated(path: str) -> bytes:
    directory, name = os.path.split(path)
    older = sorted(n for n in os.listdir(directory) if n.startswith(f"{name}.") and not n.endswith((".gz", ".tmp")))
    return _whole_tail(os.path.join(directory, older[-1])) if older else b""
