"""How much is served at once: counters for reading and mutating requests, 429 above them. Pure but for metrics.

Long-running requests (watches, streams) are not counted here; they are bounded by their own buffers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.api import errors
from cluster.apiserver import metrics


class Inflight:
    def __init__(self, max_reading: int, max_mutating: int) -> None:
        self._max = {"readOnly": max_reading, "mutating": max_mutating}
        self._now = {"readOnly": 0, "mutating": 0}
        self._idle: asyncio.Event | None = None
        self._gauges = {k: metrics.INFLIGHT.labels(k) for k in self._max}

    @contextmanager
    def slot(self, *, mutating: bool) -> Iterator[None]:
        """Raises ApiError 429 when all slots are taken."""
        kind = "mutating" if mutating else "readOnly"
        if self._now[kind] >= self._max[kind]:
            metrics.REJECTED.labels(kind).inc()
            raise errors.too_many_requests("the server has received too many requests, please try again later", 1)
        self._now[kind] += 1
        self._gauges[kind].set(self._now[kind])
        try:
            yield
        finally:
            self._now[kind] -= 1
            self._gauges[kind].set(self._now[kind])
            if self._idle is not None and not self.total:
                self._idle.set()

    async def drained(self, timeout_s: float) -> None:
        """Wait until nothing is in flight, or the time is over."""
        if not self.total:
            return
        self._idle = asyncio.Event()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            pass

    @property
    def total(self) -> int:
        return sum(self._now.values())
