"""How much is served at once, and who is next: seats for reading and mutating requests, shared fairly among users.

Pure but for metrics and futures of the running loop.

    request ── a seat is free and nobody waits ──> served
        └── else into the user's own queue ── seats that come free go round the users ──> served
                 └── queue full, or waited too long ──> 429 with Retry-After

So a client with a thousand requests under way delays another one by one turn, not by a thousand. Long-running requests
(watches, streams) are not counted here; they are bounded by their own buffers. Source: kube-apiserver's
--max-requests-inflight, and the idea of fair queuing (KEP-1040) with one queue per user.

Invariants: `taken` counts exactly the requests between `slot`'s enter and exit; a queue in the ring is not empty.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cluster.api import errors
from cluster.apiserver import metrics

_READING, _MUTATING = "readOnly", "mutating"


class _Seats:
    """The seats of one kind of request."""

    def __init__(self, kind: str, seats: int, queue_length: int, wait_s: float) -> None:
        self._kind = kind
        self._seats = seats
        self._queue_length = queue_length
        self._wait_s = wait_s
        self.taken = 0
        self._ring: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._gauge = metrics.INFLIGHT.labels(kind)
        self._queued = metrics.QUEUED.labels(kind)

    async def take(self, user: str) -> None:
        """Raises ApiError 429."""
        if self.taken < self._seats and not self._ring:
            self.taken += 1
            self._gauge.set(self.taken)
            return
        queue = self._ring.setdefault(user, deque())
        if len(queue) >= self._queue_length:
            if not queue:
                del self._ring[user]
            raise self._refused()
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._queued.inc()
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as e:
            if turn.done() and not turn.cancelled():
                self.give()  # the seat came just when its taker left
            else:
                self._forget(user, turn)
            if isinstance(e, TimeoutError):
                raise self._refused() from None
            raise
        finally:
            self._queued.dec()

    def give(self) -> None:
        """A seat comes free: to the next user in the ring, or to nobody."""
        while self._ring:
            user, queue = self._ring.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._ring[user] = queue
            if not turn.done():
                turn.set_result(None)  # the seat changes hands: `taken` stays
                return
        self.taken -= 1
        self._gauge.set(self.taken)

    def _forget(self, user: str, turn: asyncio.Future[None]) -> None:
        queue = self._ring.get(user)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._ring[user]

    def _refused(self) -> errors.ApiError:
        metrics.REJECTED.labels(self._kind).inc()
        return errors.too_many_requests("the server has received too many requests, please try again later", 1)


class Inflight:
    """`queue_length`: how many requests of one user may wait, `wait_s`: how long."""

    def __init__(self, max_reading: int, max_mutating: int, *, queue_length: int = 50, wait_s: float = 15.0) -> None:
        self._kinds = {
            _READING: _Seats(_READING, max_reading, queue_length, wait_s),
            _MUTATING: _Seats(_MUTATING, max_mutating, queue_length, wait_s),
        }
        self._idle: asyncio.Event | None = None

    @asynccontextmanager
    async def slot(self, user: str, *, mutating: bool) -> AsyncIterator[None]:
        """Raises ApiError 429 when the user's queue is full or its turn does not come in time."""
        seats = self._kinds[_MUTATING if mutating else _READING]
        await seats.take(user)
        try:
            yield
        finally:
            seats.give()
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
        return sum(s.taken for s in self._kinds.values())
