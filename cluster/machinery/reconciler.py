"""The loop around a level-based reconcile function: workers, retries with backoff, metrics, logs.

The function gets a key and nothing else; it reads its caches, writes through a client and returns when to look again
(`Result`) or None. Everything else (who may run at once, what happens on errors) is here and never in it.
Errors: a lost compare-and-swap is retried quietly; other `ApiError`s are logged as warnings; anything else is counted,
logged with its stack and retried too, so that one bad object never stops a controller. A reconcile runs under the cause
id of what marked its key, so that what it writes, and what it fails at, can be followed back to it; so does a retry.
A look that only time brings about (`requeue_after_s`) has no cause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from prometheus_client import Counter

from cluster.api.errors import ApiError
from cluster.machinery.client import Obj, is_conflict, key_of
from cluster.machinery.workqueue import ShutDown, WorkQueue
from cluster.registry.context import CAUSE

log = logging.getLogger(__name__)

RECONCILES = Counter("controller_reconcile_total", "Reconciles by result", ["controller", "result"])


@dataclass(frozen=True, slots=True)
class Result:
    """Look at the key again after `requeue_after_s`; None: only when something changes. `rest_s`: what changes sooner
    than that gathers, for a look that costs as much as there is to look at."""

    requeue_after_s: float | None = None
    rest_s: float = 0.0


Reconcile = Callable[[str], Awaitable[Result | None]]


class Reconciler:
    """`workers` keys at once, never one key twice at once."""

    def __init__(self, name: str, reconcile: Reconcile, *, workers: int = 5, queue: WorkQueue | None = None) -> None:
        self.name = name
        self.queue = queue or WorkQueue(name)
        self._reconcile = reconcile
        self._workers = workers
        self._outcomes = {r: RECONCILES.labels(name, r) for r in ("success", "requeue_after", "conflict", "error")}

    def enqueue(self, old: Obj | None, new: Obj | None) -> None:
        """An informer's handler, for objects that are what is reconciled."""
        obj = new if new is not None else old
        if obj is not None:
            self.queue.add(key_of(obj))

    def enqueue_all(self, objects: Iterable[Obj]) -> None:
        for obj in objects:
            self.queue.add(key_of(obj))

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for i in range(self._workers):
                group.create_task(self._work(), name=f"{self.name}-{i}")

    async def step(self) -> None:
        """Take one key and reconcile it (tests drive a controller with this)."""
        key = await self.queue.get()
        before = CAUSE.set(self.queue.cause_of(key))
        rest_s = 0.0
        try:
            rest_s = await self._one(key)
        finally:
            CAUSE.reset(before)
            self.queue.done(key, rest_s)

    async def drain(self) -> None:
        """Reconcile until nothing waits (keys with a delay are left)."""
        while len(self.queue):
            await self.step()

    async def _work(self) -> None:
        while True:
            try:
                await self.step()
            except ShutDown:
                return

    async def _one(self, key: str) -> float:
        """How long the key rests."""
        try:
            result = await self._reconcile(key)
        except ApiError as err:
            if is_conflict(err):
                self._outcomes["conflict"].inc()
                self.queue.add_rate_limited(key)
                log.debug("%s: %s changed meanwhile, retrying: %s", self.name, key, err.message)
                return 0.0
            self._failed(key)
            log.warning("%s: %s: %s (%s; cause %s)", self.name, key, err.message, err.reason, CAUSE.get() or "-")
        except Exception:  # outermost loop: one bad object or listener must not stop the others
            self._failed(key)
            log.exception("%s: %s failed (cause %s)", self.name, key, CAUSE.get() or "-")
        else:
            self.queue.forget(key)
            if result is not None and result.requeue_after_s is not None:
                self._outcomes["requeue_after"].inc()
                self.queue.add_after(key, result.requeue_after_s, cause="")
            else:
                self._outcomes["success"].inc()
            return result.rest_s if result is not None else 0.0
        return 0.0

    def _failed(self, key: str) -> None:
        self._outcomes["error"].inc()
        self.queue.add_rate_limited(key)
