"""Ray's head is given to another control plane when its machine stays silent: a task of the leading Supervisor.

    every LOOK_S: ask each machine's sk8-machine (it answers whom it believes to be the head)
      a control plane knows more than the store (a restored one)  -->  it is written down
      head silent for `ray_head_takeover_s`  -->  txn: our lease, the key as we read it, put /sk8/ray/head
      a machine that knows less              -->  told whom the store names

IO through the store's client and sk8-machine's port. Who follows whom is decided by `cluster.machine.head`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson
from prometheus_client import Gauge

from cluster.machine.head import Head, successor
from cluster.machine.rejoin import RUNNING, HeadStatus, Unreachable
from cluster.registry.keys import RAY_HEAD as KEY
from cluster.registry.store import Compare, Store, put, unchanged
from raft.errors import StoreError

log = logging.getLogger(__name__)

LOOK_S = 2.0
STUCK_S = 600.0
"""A head that answers, but has had no Ray for so long (its keeper tries and tries), counts as silent from then on."""
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
        self._ran: dict[str, float] = {}

    async def run(self) -> None:
        """While leading. A new leader has heard nobody yet, so it waits the whole time anew."""
        self._heard = dict.fromkeys(self._machines, self._clock())
        self._ran = dict(self._heard)
        while True:
            try:
                await self.look()
            except StoreError as error:
                log.info("looking after Ray's head: %s", error)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> Head:
        """Once; who is the head after it. Raises StoreError."""
        head, revision = await self._stored()
        known = dict(
            zip(self._machines, await asyncio.gather(*(self._ask(m, head) for m in self._machines)), strict=True)
        )
        newest = max((known[name] or head for name in self._planes), key=lambda h: h.generation, default=head)
        if newest.generation > head.generation:
            if not await self._write(newest, revision):
                return head
            log.warning(
                "%s is Ray's head in generation %d, which the store did not know", newest.machine, newest.generation
            )
            return newest
        await self._tell(head, known)
        follower = successor(head, self._planes, self._heard, self._clock(), self._patience_s)
        if follower is None or not await self._write(follower, revision):
            return head
        silent_s = self._clock() - self._heard[head.machine]
        log.warning("%s, Ray's head, is silent for %.0f s: %s follows it", head.machine, silent_s, follower.machine)
        await self._tell(follower, known)
        return follower

    async def _stored(self) -> tuple[Head, int]:
        found = await self._store.range(KEY)
        if not found.kvs:
            return Head(self._first), 0
        try:
            head = Head.of(orjson.loads(found.kvs[0].value), self._planes) or Head(self._first)
        except orjson.JSONDecodeError:
            head = Head(self._first)
        GENERATION.set(head.generation)
        return head, found.kvs[0].mod_revision

    async def _write(self, head: Head, revision: int) -> bool:
        """While we lead, and over what was read alone."""
        compares = [*self._fence(), unchanged(KEY, revision)]
        return (await self._store.txn(compares, [put(KEY, orjson.dumps(head.to_json()))])).succeeded

    async def _ask(self, name: str, head: Head) -> Head | None:
        """Whom that machine believes to be the head; None when it does not answer."""
        try:
            status = await self._machines[name].status()
        except Unreachable:
            return None
        now = self._clock()
        if name != head.machine or status.ray == RUNNING:
            self._ran[name] = now
        if now - self._ran.setdefault(name, now) < STUCK_S:
            self._heard[name] = now
        return Head.of(status.head, self._planes)

    async def _tell(self, head: Head, known: Mapping[str, Head | None]) -> None:
        """Those that answered and know less."""

        async def one(name: str) -> None:
            with contextlib.suppress(Unreachable):
                await self._machines[name].status(tell=head.to_json())

        await asyncio.gather(*(one(n) for n, k in known.items() if k is not None and k.generation < head.generation))
