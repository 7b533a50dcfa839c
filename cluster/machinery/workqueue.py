"""A de-duplicating queue of keys with per-key exclusion, exponential backoff and delayed adds.

Runs on the loop it is used from (its only clock is `loop.time()`, so a virtual-time loop drives it); no threads.
Invariants, as client-go's workqueue: a key waits at most once; a key being worked on is never handed out a second
time, and when it was added meanwhile it is handed out again after `done`; nothing added is lost.

      add ──> waiting ──get──> working ──done──> (resting) ──> (idle)
               ^                  │ add meanwhile: dirty  │
               └──────────────────┴───────────────────────┘

A key may rest after the work: what is added meanwhile gathers, as while it is worked on.
"""

from __future__ import annotations

import asyncio
from collections import deque

from prometheus_client import Counter, Gauge, Histogram

from cluster.registry.context import CAUSE

_BUCKETS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
DEPTH = Gauge("workqueue_depth", "Keys waiting", ["name"])
ADDS = Counter("workqueue_adds_total", "Keys added", ["name"])
QUEUE_DURATION = Histogram("workqueue_queue_duration_seconds", "Time a key waited", ["name"], buckets=_BUCKETS)
WORK_DURATION = Histogram("workqueue_work_duration_seconds", "Time a key was worked on", ["name"], buckets=_BUCKETS)
RETRIES = Counter("workqueue_retries_total", "Rate-limited adds", ["name"])


class ShutDown(Exception):
    """The queue was shut down; `get` hands out nothing more."""


class WorkQueue:
    """`base_delay_s` doubles with every consecutive failure of a key, up to `max_delay_s`."""

    def __init__(self, name: str, *, base_delay_s: float = 0.005, max_delay_s: float = 30.0) -> None:
        self.name = name
        self._base_delay_s = base_delay_s
        self._max_delay_s = max_delay_s
        self._waiting: deque[str] = deque()
        self._added_at: dict[str, float] = {}
        self._working: dict[str, float] = {}
        self._dirty: set[str] = set()
        self._failures: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._resting: dict[str, asyncio.TimerHandle] = {}
        self._causes: dict[str, str] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._shut_down = False
        self._depth = DEPTH.labels(name)
        self._adds = ADDS.labels(name)
        self._queued = QUEUE_DURATION.labels(name)
        self._worked = WORK_DURATION.labels(name)
        self._retries = RETRIES.labels(name)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: str) -> None:
        """Because of what this task does (`CAUSE`)."""
        self._add(key, CAUSE.get())

    def _add(self, key: str, cause: str) -> None:
        if self._shut_down:
            return
        if cause:
            self._causes[key] = cause
        if key in self._added_at or key in self._dirty:
            return  # also when this add has no cause: the one that waits keeps its own
        if not cause:
            self._causes.pop(key, None)
        self._adds.inc()
        if key in self._working:
            self._dirty.add(key)
            return
        self._enqueue(key)

    def add_after(self, key: str, delay_s: float, *, cause: str | None = None) -> None:
        """Add once `delay_s` passed; of several delays of one key the earliest counts. `cause` None is this task's;
        "" is for what only time brings about."""
        if self._shut_down:
            return
        why = CAUSE.get() if cause is None else cause
        if delay_s <= 0:
            self._add(key, why)
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + delay_s
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= when:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(when, self._fire, key, why)

    def add_rate_limited(self, key: str) -> float:
        """Add after the key's backoff, for the same cause; returns the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay_s = min(self._base_delay_s * 2.0 ** min(failures, 30), self._max_delay_s)
        self._retries.inc()
        self.add_after(key, delay_s)
        return delay_s

    def forget(self, key: str) -> None:
        """The key did well: its next failure starts the backoff anew."""
        self._failures.pop(key, None)

    def failures(self, key: str) -> int:
        return self._failures.get(key, 0)

    async def get(self) -> str:
        """The next key, which the caller owns until `done(key)`. Raises ShutDown."""
        while not self._waiting:
            if self._shut_down:
                raise ShutDown(self.name)
            getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                # A wake-up that raced with the cancellation goes to the next getter, or its key would wait for ever.
                if getter.done() and not getter.cancelled() and self._waiting:
                    self._wake_one()
                raise
            finally:
                if getter in self._getters:
                    self._getters.remove(getter)
        key = self._waiting.popleft()
        now = asyncio.get_running_loop().time()
        self._queued.observe(now - self._added_at.pop(key))
        self._depth.set(len(self._waiting))
        self._working[key] = now
        return key

    def cause_of(self, key: str) -> str:
        """Why the key that was just handed out was added (the last cause id that was given), asked once; "" when no add
        of this round had one."""
        return self._causes.pop(key, "")

    def done(self, key: str, rest_s: float = 0.0) -> None:
        """The key may be handed out again, `rest_s` from now at the earliest."""
        started = self._working.get(key)
        if started is None or key in self._resting:
            return
        loop = asyncio.get_running_loop()
        self._worked.observe(loop.time() - started)
        if rest_s > 0 and not self._shut_down:
            self._resting[key] = loop.call_later(rest_s, self._release, key)
        else:
            self._release(key)

    def _release(self, key: str) -> None:
        self._resting.pop(key, None)
        del self._working[key]
        if key in self._dirty:
            self._dirty.discard(key)
            if not self._shut_down:
                self._enqueue(key)

    def idle(self) -> bool:
        """Nothing waits, is worked on or is due later."""
        return not (self._waiting or self._working or self._dirty or self._timers)

    def shut_down(self) -> None:
        self._shut_down = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for getter in self._getters:
            if not getter.done():
                getter.set_result(None)

    def _fire(self, key: str, cause: str) -> None:
        self._timers.pop(key, None)
        self._add(key, cause)

    def _enqueue(self, key: str) -> None:
        self._waiting.append(key)
        self._added_at[key] = asyncio.get_running_loop().time()
        self._depth.set(len(self._waiting))
        self._wake_one()

    def _wake_one(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return
