"""What every actor watches about itself: loop lag, GC pauses, and a stack for every stall. IO: a thread and a log.

A stalled loop cannot report itself, so a thread looks at the loop's heartbeat; when it is overdue the loop thread's
stack is logged once per stall. Python's collector stops the loop too, so its pauses have a histogram of their own.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
import traceback

from prometheus_client import Histogram

log = logging.getLogger(__name__)

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)
LOOP_LAG = Histogram("sk8_loop_lag_seconds", "How late the event loop ran a timer.", buckets=_SECONDS)
GC_PAUSE = Histogram("sk8_gc_pause_seconds", "Time the garbage collector held the interpreter.", buckets=_SECONDS)

BEAT_S = 0.1
STALL_S = 0.5


class LoopWatch:
    """Run `beat()` on the loop; the watching thread ends with the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = time.monotonic()
        self._thread_id = 0
        self._collecting_since = 0.0

    async def beat(self) -> None:
        """For ever: measure how late the loop wakes us."""
        self._thread_id = threading.get_ident()
        gc.callbacks.append(self._on_gc)
        threading.Thread(target=self._watch, name="loop-watch", daemon=True).start()
        while True:
            before = time.monotonic()
            await asyncio.sleep(BEAT_S)
            self._last = time.monotonic()
            LOOP_LAG.observe(max(self._last - before - BEAT_S, 0.0))

    def lag_s(self) -> float:
        """How overdue the loop's heartbeat is now."""
        return max(time.monotonic() - self._last - BEAT_S, 0.0)

    def _on_gc(self, phase: str, _info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._collecting_since = now
        elif self._collecting_since:
            GC_PAUSE.observe(now - self._collecting_since)

    def _watch(self) -> None:
        reported = 0.0
        while True:
            time.sleep(STALL_S / 2)
            beat, lag_s = self._last, self.lag_s()
            if lag_s < STALL_S or beat == reported:
                continue
            reported = beat
            frame = sys._current_frames().get(self._thread_id)
            stack = "".join(traceback.format_stack(frame)[-8:]) if frame else "(no stack)\n"
            log.warning("%s: the event loop has been stalled for %.2f s at:\n%s", self._name, lag_s, stack)
