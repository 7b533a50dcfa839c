"""Writes the backend to disk behind the log's back, and copies it. IO.

Every ``interval_s`` (or ``max_bytes``): take what was applied so far, hand it to LMDB in slices on the loop, commit and
sync on a thread, then tell the consensus how much log is not needed any more. One at a time: flush, copy, replace.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from raft.core.types import SnapshotMeta
from raft.storage.backend_lmdb import LmdbBackend

SLICE_RECORDS = 500


class Flusher:
    def __init__(
        self,
        backend: Callable[[], LmdbBackend],
        applied: Callable[[], SnapshotMeta],
        flushed: Callable[[SnapshotMeta], None],
        observe: Callable[[float], None],
        observe_copy: Callable[[float], None],
        *,
        interval_s: float,
        max_bytes: int,
    ) -> None:
        self._backend = backend
        self._applied = applied
        self._flushed = flushed
        self._observe = observe
        self._observe_copy = observe_copy
        self._interval_s = interval_s
        self._max_bytes = max_bytes
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled; raises what LMDB raises (a full disk, say): then the member must stop."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(min(0.05, self._interval_s))
            now = time.monotonic()
            if now - last >= self._interval_s or self._backend().pending_bytes >= self._max_bytes:
                async with self._lock:
                    await self._flush()
                last = now

    async def _flush(self) -> SnapshotMeta:
        backend, meta = self._backend(), self._applied()
        if not backend.begin_flush():
            return meta
        while not backend.flush_slice(SLICE_RECORDS):  # noqa: ASYNC110 - it lets others run, it waits for nothing
            await asyncio.sleep(0)
        began = time.perf_counter()
        await _finish_in_thread(backend.commit)
        self._observe(time.perf_counter() - began)
        backend.end_flush()
        self._flushed(meta)
        return meta

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """No flush inside: the backend may be replaced."""
        async with self._lock:
            yield

    async def copy(self, directory: Path) -> SnapshotMeta:
        """A copy of the state into a new ``directory``, and what it is the state of."""
        async with self._lock:
            meta = await self._flush()
            backend = self._backend()

            def copy() -> None:
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir(mode=0o700, parents=True)
                backend.copy_to(directory)

            began = time.perf_counter()
            await _finish_in_thread(copy)
            self._observe_copy(time.perf_counter() - began)
            return meta


async def _finish_in_thread(work: Callable[[], None]) -> None:
    """Like to_thread, but a cancellation waits for the thread: what it works on must not be closed under it."""
    task = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
