"""Ray's head is given to another control plane when its machine stays silent: a task of the leading Supervisor.

    every LOOK_S: ask each machine's sk8-machine (it answers whom it believes to be the head)
      head silent for `ray_head_takeover_s`  -->  txn: our lease, the key as we read it, put /sk8/ray/head
      a machine that knows less              -->  told whom the store names

IO through the store's client and sk8-machine's port. Who follows whom is decided by `cluster.machine.head`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson
from prometheus_client import Gauge

from cluster.machine.head import Head, successor
from cluster.machine.rejoin import HeadStatus, Unreachable
from cluster.registry.store import Compare, Store, put, unchanged
from raft.errors import StoreError

log = logging.getLogger(__name__)

KEY = b"/sk8/ray/head"
LOOK_S = 2.0
GENERATION = Gauge("sk8_ray_head_generation", "How often the role of Ray's head went to another machine")


class Asks(Protocol):
    async def status(self, timeout_s: float = 2.0, *, tell: Any = None) -> HeadStatus: ...


class RayHeadWatch:
    def __init__(
        self,
        store: Store,
        fence: Callable[[], tuple[Compare, ...]],
        machines: Mapping[str, Asks],
        planes: Sequence[str],
        first: str,
        patience_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`machines`: how to ask each; `planes`: the control planes in order; `first`: the head of generation 0."""
        self._store = store
        self._fence = fence
        self._machines = machines
        self._planes = planes
        self._first = first
        self._patience_s = patience_s
        self._clock = clock
        self._heard: dict[str, float] = {}

    async def run(self) -> None:
        """While leading. A new leader has heard nobody yet, so it waits the whole time anew."""
        self._heard = dict.fromkeys(self._machines, self._clock())
        while True:
            try:
                await self.look()
            except StoreError as error:
                log.info("looking after Ray's head: %s", error)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> Head:
        """Once; who is the head after it. Raises StoreError."""
        head, revision = await self._stored()
        await asyncio.gather(*(self._ask(name, head) for name in self._machines))
        follower = successor(head, self._planes, self._heard, self._clock(), self._patience_s)
        if follower is None:
            return head
        result = await self._store.txn(
            [*self._fence(), unchanged(KEY, revision)], [put(KEY, orjson.dumps(follower.to_json()))]
        )
        if not result.succeeded:
            return head
        silent_s = self._clock() - self._heard[head.machine]
        log.warning("%s, Ray's head, is silent for %.0f s: %s follows it", head.machine, silent_s, follower.machine)
        await asyncio.gather(*(self._ask(name, follower) for name in self._machines))
        return follower

    async def _stored(self) -> tuple[Head, int]:
        found = await self._store.range(KEY)
        if not found.kvs:
            return Head(self._first), 0
        head = Head.of(orjson.loads(found.kvs[0].value), self._planes) or Head(self._first)
        GENERATION.set(head.generation)
        return head, found.kvs[0].mod_revision

    async def _ask(self, name: str, head: Head) -> None:
        try:
            status = await self._machines[name].status()
            known = Head.of(status.head, self._planes)
            if known is not None and known.generation < head.generation:
                await self._machines[name].status(tell=head.to_json())
        except Unreachable:
            return
        self._heard[name] = self._clock()
