"""What every actor measures of its own process, on its /metrics: loop lag, GC pauses, stalls, disk syncs. IO: none.

`watch_syncs` replaces os.fsync and os.fdatasync by ones that are timed, because only there every caller, also those in
libraries, is seen. What LMDB syncs in C is in the store's etcd_disk_backend_commit_duration_seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram

from cluster.machine.loop_watch import LoopWatch

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)
LOOP_LAG = Histogram("sk8_loop_lag_seconds", "How late the event loop ran a timer.", buckets=_SECONDS)
GC_PAUSE = Histogram("sk8_gc_pause_seconds", "Time the garbage collector held the interpreter.", buckets=_SECONDS)
STALLS = Counter("sk8_loop_stalls", "Times the event loop was blocked for half a second; the log has the stacks.")
FSYNC = Histogram("sk8_fsync_seconds", "Time of fsync and fdatasync calls.", buckets=(0.0001, *_SECONDS))


def loop_watch(name: str) -> LoopWatch:
    return LoopWatch(name, on_lag=LOOP_LAG.observe, on_pause=GC_PAUSE.observe, on_stall=lambda _: STALLS.inc())


def watch_syncs() -> None:
    """From now on every sync of this process is measured. To be called once."""
    os.fsync = _timed(os.fsync)  # type: ignore[assignment]  # a replacement need not name its argument
    os.fdatasync = _timed(os.fdatasync)  # type: ignore[assignment]


def _timed(sync: Callable[[FileDescriptorLike], None]) -> Callable[[FileDescriptorLike], None]:
    def timed(fd: FileDescriptorLike) -> None:
        began = time.perf_counter()
        try:
            sync(fd)
        finally:
            FSYNC.observe(time.perf_counter() - began)

    return timed
