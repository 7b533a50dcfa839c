"""Virtual time and an unreliable network. Everything that happens is an event; one seed decides all of it."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any


class SimFailure(AssertionError):
    """An invariant does not hold."""


class Clock:
    """A queue of (time, order, action). Times are milliseconds."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.events = 0
        self._order = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, delay_ms: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._order, action))

    def run_until(self, time_ms: float, stop: Callable[[], bool] = lambda: False) -> bool:
        """Run events up to then; True if ``stop`` said so before."""
        while self._queue and self._queue[0][0] <= time_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            self.events += 1
            action()
            if stop():
                return True
        self.now_ms = max(self.now_ms, time_ms)
        return False


class Network:
    """Drops, delays (hence reorders), duplicates; links can be cut in one direction."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self.drop = 0.0
        self.duplicate = 0.0
        self.slow = 0.0
        self.cut: set[tuple[int, int]] = set()
        self.dropped = 0
        self.duplicated = 0

    def heal(self) -> None:
        self.cut.clear()
        self.drop = self.duplicate = self.slow = 0.0

    def disturb(self) -> None:
        self.drop = self._rng.choice((0.0, 0.02, 0.1, 0.3))
        self.duplicate = self._rng.choice((0.0, 0.05, 0.2))
        self.slow = self._rng.choice((0.0, 0.05, 0.3))

    def cut_link(self, a: int, b: int, *, both: bool = True) -> None:
        self.cut.add((a, b))
        if both:
            self.cut.add((b, a))

    def _delay_ms(self) -> float:
        if self._rng.random() < self.slow:
            return self._rng.uniform(20, 400)
        return self._rng.uniform(0.3, 3.0)

    def send(self, sender: int, to: int, wire: Any, deliver: Callable[[Any], None]) -> bool:
        """False if it is lost for sure."""
        if (sender, to) in self.cut or self._rng.random() < self.drop:
            self.dropped += 1
            return False
        copies = 1
        if self._rng.random() < self.duplicate:
            self.duplicated += 1
            copies = 2
        for _ in range(copies):
            self._clock.after(self._delay_ms(), lambda: deliver(wire))
        return True
