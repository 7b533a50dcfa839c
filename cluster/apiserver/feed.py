"""Keeps the byte cache fed from the local member's event stream, and says when it is fresh enough. IO: the store.

A reader that needs linearizability calls `barrier()`: one coalesced ReadIndex, then a wait until the cache has applied
that revision. The whole key space is watched, not only /registry/, so that every revision moves the cache forward and a
barrier never waits for a progress message.

Invariants: batches are applied in order, each whole. When the stream cannot be continued (compacted under us), the
cache is loaded anew and every watcher is told 410, so nobody misses what happened in between.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable

from cluster.api import errors
from cluster.apiserver import metrics
from cluster.apiserver.cache import REGISTRY, Cache, Snapshot
from cluster.apiserver.storeerrors import translated
from cluster.registry.store import Store, prefix_end

log = logging.getLogger(__name__)

_EVERYTHING = b"\0"
_PAGE = 500
_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_RELOAD_CODES = frozenset({"compacted", "future_revision"})


class ReadIndex:
    """Coalesces concurrent read-index calls: a caller joins the next round, never one already under way.

    Who finds nobody else asks for itself: a task for the round, and its wake-ups, are for those who share one.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._under_way = False
        self._next: list[asyncio.Future[int]] = []
        self._rounds: asyncio.Task[None] | None = None

    async def get(self) -> int:
        """The store's revision at some moment after this call. Raises what the store raises."""
        if self._under_way:
            turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._next.append(turn)
            return await turn
        self._under_way = True
        try:
            return await self._store.read_index()
        finally:
            if self._next:
                self._rounds = asyncio.create_task(self._run())
            else:
                self._under_way = False

    async def _run(self) -> None:
        joined: list[asyncio.Future[int]] = []
        try:
            while self._next:
                joined, self._next = self._next, []
                try:
                    revision = await self._store.read_index()
                except Exception as e:  # noqa: BLE001 - it belongs to those who wait
                    for turn in _waiting(joined):
                        turn.set_exception(e)
                else:
                    for turn in _waiting(joined):
                        turn.set_result(revision)
        finally:
            self._rounds = None
            self._under_way = False
            self._cancel(joined)

    def _cancel(self, joined: list[asyncio.Future[int]]) -> None:
        left, self._next = [*joined, *self._next], []
        for turn in _waiting(left):
            turn.cancel()

    async def close(self) -> None:
        """Ends the waiting of those who share a round. Who asks alone has its answer, or error, from the store."""
        self._cancel([])
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.gather(self._rounds, return_exceptions=True)
            self._rounds, self._under_way = None, False  # one that had not begun cannot say so itself


def _waiting(turns: list[asyncio.Future[int]]) -> list[asyncio.Future[int]]:
    """Without those whose caller has gone."""
    return [turn for turn in turns if not turn.done()]


class CacheFeed:
    """Drives one Cache from one Store."""

    def __init__(self, store: Store, cache: Cache, *, wait_s: float, on_reset: Callable[[], None]) -> None:
        self._store = store
        self._cache = cache
        self._wait_s = wait_s
        self._on_reset = on_reset
        self._index = ReadIndex(store)
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ids = itertools.count()
        self._loaded = asyncio.Event()
        self.loads = 0
        self.connected = False

    @property
    def ready(self) -> bool:
        return self._loaded.is_set()

    async def run(self) -> None:
        """Load, follow, reload when history ran out; ends only by cancellation."""
        attempts = 0
        try:
            while True:
                try:
                    if not self._loaded.is_set():
                        await self._load()
                    async for batch in self._store.watch(_EVERYTHING, b"\0", start_revision=self._cache.revision + 1):
                        self.connected = True
                        attempts = 0
                        self._cache.apply(batch)
                        self._release()
                except Exception as e:  # noqa: BLE001 - outermost loop of the feed: counted, logged, tried again
                    metrics.FEED_ERRORS.inc()
                    if getattr(e, "code", None) in _RELOAD_CODES:
                        log.warning(
                            "the event stream cannot be continued from revision %d: %s", self._cache.revision, e
                        )
                        self._loaded.clear()
                    else:
                        log.warning("the event stream broke: %s: %s", type(e).__name__, e)
                self.connected = False
                await asyncio.sleep(_RETRY_S[min(attempts, len(_RETRY_S) - 1)])
                attempts += 1
        finally:
            await self._index.close()

    async def _load(self) -> None:
        first = await self._store.range(REGISTRY, prefix_end(REGISTRY), limit=_PAGE)
        snapshot, page = Snapshot(first.revision), first
        while True:
            for kv in page.kvs:
                snapshot.add(self._cache.decode, kv)
            if not page.more:
                break
            await asyncio.sleep(0)
            after = page.kvs[-1].key + b"\0"
            page = await self._store.range(after, prefix_end(REGISTRY), limit=_PAGE, revision=first.revision)
        self._cache.install(snapshot)
        self.loads += 1
        if self.loads > 1:
            self._on_reset()
        self._loaded.set()
        self._release()
        log.info("cache loaded at revision %d", self._cache.revision)

    def _release(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._cache.revision:
            _, _, waiter = heapq.heappop(self._waiting)
            if not waiter.done():
                waiter.set_result(None)

    async def barrier(self) -> int:
        """Wait until the cache shows every write acknowledged before this call; its revision then."""
        try:
            revision = await self._index.get()
        except Exception as e:
            raise translated(e) from e
        if self._cache.revision < revision or not self._loaded.is_set():
            await self.wait_for(revision)
        return self._cache.revision

    async def wait_for(self, revision: int) -> None:
        """Wait until the cache has applied `revision`; raises ApiError 504 with cause ResourceVersionTooLarge."""
        if self._loaded.is_set() and self._cache.revision >= revision:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (revision, next(self._ids), waiter))
        try:
            await asyncio.wait_for(waiter, self._wait_s)
        except TimeoutError:
            raise too_large_version(revision, self._cache.revision) from None

    async def loaded(self) -> None:
        """Wait for the first load, no longer than a cache read may wait; raises ApiError 503."""
        if self._loaded.is_set():
            return
        try:
            await asyncio.wait_for(self._loaded.wait(), self._wait_s)
        except TimeoutError:
            raise errors.service_unavailable(
                "the API server's cache is not loaded yet; the store does not answer"
            ) from None


def too_large_version(wanted: int, current: int) -> errors.ApiError:
    message = f"Too large resource version: {wanted}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return errors.ApiError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})
