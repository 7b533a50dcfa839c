"""A Client whose writes per second are bounded, as --kube-api-qps and --kube-api-burst bound a component's.

IO through the wrapped Client. Reads pass. A binding or an object counts as one write, however many go into one
transaction: batches larger than the burst are cut; those that must be bound together are not, and what they took too
much is waited for afterwards. When a part of a batch fails, what was written before keeps its outcomes, and the rest,
which is not tried, gets the error of that part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from cluster.api.errors import ApiError, FenceLost
from cluster.machinery.client import Binding, BindOutcomes, Client, Created, Obj, PatchKind, Reads, Turn
from cluster.machinery.clock import Clock, monotonic

One = TypeVar("One")
Outcome = TypeVar("Outcome")


class TokenBucket:
    """Pure but for the clock: how long to wait before so many tokens may be taken."""

    def __init__(self, per_s: float, burst: int, clock: Clock) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._clock = clock
        self._tokens = self._burst
        self._at = clock()

    def take(self, count: int) -> float:
        """Take them; seconds to wait until they were really there."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        self._tokens -= count
        return max(-self._tokens / self._per_s, 0.0)


class Throttled(Reads):
    def __init__(self, client: Client, qps: float, burst: int, *, clock: Clock = monotonic) -> None:
        if qps <= 0 or burst < 1:
            raise ValueError(f"qps ({qps:g}) must be above 0 and burst ({burst}) 1 or more")
        super().__init__(client)
        self._burst = burst
        self._bucket = TokenBucket(qps, burst, clock)

    async def _wait(self, writes: int = 1) -> None:
        delay = self._bucket.take(writes)
        if delay > 0:
            await asyncio.sleep(delay)

    async def create(
        self, resource: str, obj: Obj, namespace: str = "", *, subresource: str = "", name: str = ""
    ) -> Obj:
        await self._wait()
        return await self._client.create(resource, obj, namespace, subresource=subresource, name=name)

    async def create_all(self, resource: str, objects: Sequence[Obj]) -> Created:
        return await self._in_parts(objects, self._burst, lambda some: self._client.create_all(resource, some))

    async def update(self, resource: str, obj: Obj, *, subresource: str = "") -> Obj:
        await self._wait()
        return await self._client.update(resource, obj, subresource=subresource)

    async def patch(
        self,
        resource: str,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        kind: PatchKind = "merge",
        subresource: str = "",
    ) -> Obj:
        await self._wait()
        return await self._client.patch(resource, name, patch, namespace, kind=kind, subresource=subresource)

    async def delete(
        self,
        resource: str,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        grace_period_s: int | None = None,
        propagation: str = "",
    ) -> None:
        await self._wait()
        await self._client.delete(
            resource, name, namespace, uid=uid, grace_period_s=grace_period_s, propagation=propagation
        )

    async def take_turn(self, holder: str) -> Turn:
        await self._wait()
        return await self._client.take_turn(holder)

    async def bind(self, bindings: Sequence[Binding], *, together: bool = False, turn: int = 0) -> BindOutcomes:
        step = max(len(bindings), 1) if together else self._burst
        return await self._in_parts(bindings, step, lambda some: self._client.bind(some, together=together, turn=turn))

    async def _in_parts(
        self, batch: Sequence[One], step: int, write: Callable[[Sequence[One]], Awaitable[list[Outcome | ApiError]]]
    ) -> list[Outcome | ApiError]:
        """Raises FenceLost, and what fails as a whole."""
        outcomes: list[Outcome | ApiError] = []
        for start in range(0, len(batch), step):
            some = batch[start : start + step]
            await self._wait(len(some))
            try:
                outcomes += await write(some)
            except FenceLost:
                raise
            except ApiError as error:
                if not start:
                    raise
                return outcomes + [error] * (len(batch) - start)
        return outcomes
