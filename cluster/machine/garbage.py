"""When a process looks for cyclic garbage: a little at a time, never through everything while there is work. IO: none.

CPython's oldest generation is looked through whenever it has grown by a quarter. A control-plane process keeps a
hundred thousand objects or more for good, so each of these passes holds the loop for a tenth of a second and frees
next to nothing. Here what survives two young passes is frozen, that is, taken out of the collector's sight; reference
counts still free it. What cycles die among the frozen is found by whole passes, which are rare: only when the frozen
have doubled since the last one, and not before `WHOLE_S` has passed.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

YOUNG = 10_000
"""Net new containers before the youngest are looked through: about a millisecond."""
MIDDLE = 5
NEVER = 1_000_000
WHOLE_S = 600.0
LOOK_S = 60.0
_GROWN = 100_000


class Garbage:
    """`run()` holds as long as it runs, and puts the collector back as it was."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._whole_at = 0.0
        self._kept = 0

    async def run(self) -> None:
        before = gc.get_threshold()
        self.collect_all()
        gc.set_threshold(YOUNG, MIDDLE, NEVER)
        gc.callbacks.append(self._on_gc)
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                if self.due():
                    self.collect_all()
        finally:
            gc.callbacks.remove(self._on_gc)
            gc.set_threshold(*before)
            gc.unfreeze()

    def due(self) -> bool:
        """Whether a whole pass is worth its time."""
        if self._clock() - self._whole_at < WHOLE_S:
            return False
        return gc.get_freeze_count() > 2 * self._kept + _GROWN

    def collect_all(self) -> None:
        """Look through everything there is; what is left is frozen."""
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._kept, self._whole_at = gc.get_freeze_count(), self._clock()

    @staticmethod
    def _on_gc(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 1:
            gc.freeze()
