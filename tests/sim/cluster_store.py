"""The store as a process of the cluster sees it: late, now and then without an answer, and gone once it is dead.

One `SharedStore` is the truth. Each process has a `Line` to it. A call takes a moment; a transaction's answer may be
lost, whether it was applied or not; a watch may lag, and may be told that it fell behind compaction; while the line is
cut nothing passes; once its process is dead nothing is ever heard of it again.
"""

from __future__ import annotations

import asyncio
import bisect
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from tests.support.memory_store import Batch, Event, MemoryStore, RangeResult, StoreError, TxnResult

HOP_S = (0.0002, 0.002)


@dataclass(slots=True)
class Weather:
    """Chances of each call, while the faults last."""

    lost_answer: float = 0.0
    unavailable: float = 0.0
    expired_watch: float = 0.0
    lag_s: float = 0.0


class _Subscription:
    """A watch, woken only by what it asked for: a hundred informers would else all wake for each write."""

    def __init__(self, key: bytes, range_end: bytes | None) -> None:
        self._key = key
        self._end = key + b"\0" if range_end is None else range_end
        self.batches: deque[Batch] = deque()
        self.some = asyncio.Event()

    def offer(self, batch: Batch) -> None:
        hits = [e for e in batch.events if self._key <= e.kv.key and (self._end == b"\0" or e.kv.key < self._end)]
        if hits:
            self.batches.append(Batch(batch.revision, hits))
            self.some.set()


class SharedStore(MemoryStore):
    """`seen` is told of every commit, in order."""

    def __init__(self, clock: Callable[[], float], seen: Callable[[Batch], None]) -> None:
        super().__init__(clock)
        self._seen = seen
        self._subscriptions: dict[_Subscription, None] = {}

    def _commit(self, revision: int, events: list[Event]) -> None:
        super()._commit(revision, events)
        if events:
            batch = Batch(revision, events)
            for subscription in self._subscriptions:
                subscription.offer(batch)
            self._seen(batch)

    async def watch(
        self, key: bytes, range_end: bytes | None = None, *, start_revision: int = 0, prev_kv: int = 0
    ) -> AsyncGenerator[Batch]:
        if start_revision and start_revision <= self.compacted:
            raise StoreError("compacted", "required revision has been compacted")
        subscription = _Subscription(key, range_end)
        if start_revision:
            for batch in self._history[bisect.bisect_left(self._history, start_revision, key=lambda b: b.revision) :]:
                subscription.offer(batch)
        self._subscriptions[subscription] = None
        try:
            while True:
                while subscription.batches:
                    batch = subscription.batches.popleft()
                    yield batch if prev_kv else replace(batch, events=[replace(e, prev_kv=None) for e in batch.events])
                subscription.some.clear()
                await subscription.some.wait()
        finally:
            self._subscriptions.pop(subscription, None)


class Line:
    """Fulfils `cluster.registry.store.Store`."""

    def __init__(self, store: SharedStore, rng: random.Random, weather: Weather) -> None:
        self._store = store
        self._rng = rng
        self._weather = weather
        self.dead = False
        self.cut = False

    async def _pass(self) -> None:
        """On the way to the store."""
        await asyncio.sleep(self._rng.uniform(*HOP_S))
        if self.dead:
            await asyncio.Future()
        if self.cut:
            await asyncio.sleep(0.5)
            raise StoreError("unavailable", "no route to the store")

    async def _ask(self) -> None:
        await self._pass()
        if self._rng.random() < self._weather.unavailable:
            raise StoreError("unavailable", "the store is electing")

    # --- calls

    async def range(self, key: bytes, range_end: bytes | None = None, **options: Any) -> RangeResult:
        await self._ask()
        return await self._store.range(key, range_end, **options)

    async def read_index(self, *, tell_watches: bool = False) -> int:
        await self._ask()
        return await self._store.read_index(tell_watches=tell_watches)

    async def txn(
        self,
        compares: Sequence[tuple[Any, ...]],
        then: Sequence[tuple[Any, ...]],
        otherwise: Sequence[tuple[Any, ...]] = (),
        *,
        deadline: float | None = None,
    ) -> TxnResult:
        await self._ask()
        lost = self._rng.random() < self._weather.lost_answer
        if lost and self._rng.random() < 0.5:
            raise StoreError("outcome_unknown", "the connection broke before the answer")
        result = await self._store.txn(compares, then, otherwise, deadline=deadline)
        if lost:
            raise StoreError("outcome_unknown", "the connection broke before the answer")
        await self._pass()  # a process that was killed meanwhile does not hear of it
        return result

    async def compact(self, revision: int) -> None:
        await self._ask()
        await self._store.compact(revision)

    async def lease_grant(self, ttl_s: int, lease_id: int = 0) -> int:
        await self._ask()
        return await self._store.lease_grant(ttl_s, lease_id)

    async def lease_keep_alive(self, lease_id: int) -> int:
        await self._ask()
        return await self._store.lease_keep_alive(lease_id)

    async def lease_revoke(self, lease_id: int) -> None:
        await self._ask()
        await self._store.lease_revoke(lease_id)

    # --- watch

    async def watch(
        self, key: bytes, range_end: bytes | None = None, *, start_revision: int = 0, prev_kv: int = 0
    ) -> AsyncIterator[Batch]:
        await self._ask()
        stream = self._store.watch(key, range_end, start_revision=start_revision, prev_kv=prev_kv)
        async with aclosing(stream):
            async for batch in stream:
                while self.cut and not self.dead:
                    await asyncio.sleep(0.5)
                await self._pass()
                if self._rng.random() < self._weather.expired_watch:
                    raise StoreError("compacted", "required revision has been compacted")
                if self._weather.lag_s:
                    await asyncio.sleep(self._rng.uniform(0, self._weather.lag_s))
                yield batch
