"""Time as a value that is passed in: wall time and monotonic time.

The only place of machinery that reads the machine's clocks. Wall time is for what users see (timestamps in objects);
durations and deadlines use monotonic time, which a stepped wall clock does not move.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]

wall: Clock = time.time
monotonic: Clock = time.monotonic


def steady(clock: Clock, ticks: Clock) -> Clock:
    """`clock` as of now, running on by `ticks`: comparable with timestamps, and never stepped."""
    base = clock() - ticks()
    return lambda: base + ticks()
