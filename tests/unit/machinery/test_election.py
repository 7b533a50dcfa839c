"""Leader election over the in-memory store."""

from __future__ import annotations

import asyncio
import time

import pytest

from cluster.machinery.election import Elector
from cluster.registry.store import put
from tests.support.controller_world import World
from tests.support.memory_store import MemoryStore, StoreError


class Leader:
    def __init__(self, store: MemoryStore, name: str, **kwargs: object) -> None:
        self.elector = Elector(store, "c", name, 1, **kwargs)  # type: ignore[arg-type]
        self.leading = asyncio.Event()
        self.store = store
        self.ends: list[bool] = []  # per term: was the store's lease still alive when it ended?
        self.task = asyncio.create_task(self.elector.run(self._lead))

    async def _lead(self) -> None:
        self.leading.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.leading.clear()
            self.ends.append(bool(self.store._leases))

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def passes(store: MemoryStore, leader: Leader) -> bool:
    return (await store.txn(list(leader.elector.fence), [put(b"/x", b"")])).succeeded


async def wait(event: asyncio.Event, seconds: float = 3) -> None:
    async with asyncio.timeout(seconds):
        await event.wait()


async def test_one_leads_and_a_standby_takes_over_at_once_when_it_stops() -> None:
    store = MemoryStore()
    a = Leader(store, "a")
    await wait(a.leading)
    b = Leader(store, "b")
    await asyncio.sleep(0.02)
    assert not b.leading.is_set() and b.elector.holder == "a"
    assert await passes(store, a) and not await passes(store, b)
    started = time.monotonic()
    await a.stop()
    await wait(b.leading)
    assert time.monotonic() - started < 0.5, "far below the lease's time"
    assert await passes(store, b) and not await passes(store, a)
    await b.stop()


async def test_a_leader_that_cannot_renew_stops_before_its_lease_runs_out() -> None:
    store = MemoryStore()
    a = Leader(store, "a")
    await wait(a.leading)

    async def fails(lease_id: int) -> int:
        raise StoreError("unavailable")

    store.lease_keep_alive = fails  # type: ignore[method-assign]
    fence = a.elector.fence
    async with asyncio.timeout(30):
        while not a.ends:
            await asyncio.sleep(0.01)
    assert a.ends[0]
    assert a.elector.fence != fence
    await a.stop()


async def test_an_old_instance_cannot_write_after_another_was_elected() -> None:
    store = MemoryStore()
    a = Leader(store, "a")
    await wait(a.leading)
    stale = a.elector.fence
    await store.lease_revoke(next(iter(store._leases)))
    b = Leader(store, "b")
    async with asyncio.timeout(30):
        while not (a.leading.is_set() or b.leading.is_set()) or a.elector.fence == stale:
            await asyncio.sleep(0.01)
    assert not (await store.txn(list(stale), [put(b"/x", b"")])).succeeded
    await a.stop()
    await b.stop()


async def test_what_lead_raises_is_raised_and_the_key_is_free() -> None:
    store = MemoryStore()

    async def lead() -> None:
        raise RuntimeError("cannot go on")

    with pytest.raises(RuntimeError):
        await Elector(store, "c", "a", 1).run(lead)
    assert (await store.range(b"/sk8/leader/c")).kvs == []


async def test_the_leader_is_shown_as_a_lease() -> None:
    async with World() as w:
        await w.namespace("kube-system")
        store = MemoryStore()

        async def lead() -> None:
            await asyncio.Event().wait()

        for name in ("a", "b"):
            elector = Elector(store, "kube-scheduler", name, 1)
            task = asyncio.create_task(elector.run(lead, mirror=w.client))
            async with asyncio.timeout(30):
                while not any(o["spec"]["holderIdentity"] == name for o in await w.items("leases.coordination.k8s.io")):
                    await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        (lease,) = await w.items("leases.coordination.k8s.io")
        assert lease["spec"]["leaseTransitions"] == 1
