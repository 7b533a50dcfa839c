"""Watches one event loop from outside: how late its timers are, how long Python's collector held it, and, when it
stalls, the stack of what blocks it. IO: a thread and a log.

A stalled loop cannot report itself, so a thread looks at the loop's heartbeat; when that is overdue, the loop thread's
stack is logged, once per stall. Cost: one timer a tenth of a second, two wake-ups of the thread a second.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

log = logging.getLogger(__name__)

BEAT_S = 0.1
STALL_S = 0.5
_FRAMES = 12

Observe = Callable[[float], object]
"""Takes seconds."""


def _nowhere(_: float) -> None:
    """For those who keep no histogram."""


class LoopWatch:
    """Run `beat()` on the loop; `on_lag` is called with every beat's lateness, `on_pause` with every collection's time,
    `on_stall` once per stall. The watching thread ends with `beat()`."""

    def __init__(
        self, name: str, *, on_lag: Observe = _nowhere, on_pause: Observe = _nowhere, on_stall: Observe = _nowhere
    ) -> None:
        self._name = name
        self._on_lag = on_lag
        self._on_pause = on_pause
        self._on_stall = on_stall
        self._last = time.monotonic()
        self._thread_id = 0
        self._collecting_since = 0.0
        self._ended = threading.Event()

    async def beat(self) -> None:
        """For ever: measure how late the loop wakes us."""
        self._thread_id = threading.get_ident()
        self._last = time.monotonic()
        gc.callbacks.append(self._on_gc)
        threading.Thread(target=self._watch, name="loop-watch", daemon=True).start()
        try:
            while True:
                before = time.monotonic()
                await asyncio.sleep(BEAT_S)
                self._last = time.monotonic()
                self._on_lag(max(self._last - before - BEAT_S, 0.0))
        finally:
            self._ended.set()
            gc.callbacks.remove(self._on_gc)

    def lag_s(self) -> float:
        """How overdue the loop's heartbeat is now."""
        return max(time.monotonic() - self._last - BEAT_S, 0.0)

    def _on_gc(self, phase: str, _info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._collecting_since = now
        elif self._collecting_since:
            self._on_pause(now - self._collecting_since)

    def _watch(self) -> None:
        reported = 0.0
        while not self._ended.wait(STALL_S / 2):
            beat, lag_s = self._last, self.lag_s()
            if lag_s < STALL_S or beat == reported:
                continue
            reported = beat
            self._on_stall(lag_s)
            frame = sys._current_frames().get(self._thread_id)
            stack = "".join(traceback.format_stack(frame)[-_FRAMES:]) if frame else "(no stack)\n"
            log.warning("%s: the event loop has been stalled for %.2f s at:\n%s", self._name, lag_s, stack)
