"""The feed: coalesced read indexes, waiting for a revision, reloading; and the endpoints that follow live servers."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.apiserver.cache import Cache
from cluster.apiserver.endpoints import EndpointReconciler
from cluster.apiserver.feed import CacheFeed, ReadIndex
from cluster.registry import bootstrap
from cluster.registry.codec import decode, encode
from cluster.registry.context import internal_context
from cluster.registry.registry import Registry
from cluster.registry.store import put
from cluster.registry.types import RegistryConfig
from tests.support.memory_store import MemoryStore, StoreError

CONFIG_MAPS = SCHEME.named("configmaps")


def value(name: str) -> bytes:
    return encode({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": "a", "uid": name}})


async def write(store: MemoryStore, name: str) -> int:
    key = f"/registry/core/configmaps/a/{name}".encode()
    return (await store.txn([], [put(key, value(name))])).revision


class SlowIndex:
    """Numbers rounds; each ends when the test lets it."""

    def __init__(self) -> None:
        self.rounds = 0
        self.may_end = asyncio.Semaphore(0)

    async def read_index(self, *, tell_watches: bool = False) -> int:
        self.rounds = own = self.rounds + 1
        await self.may_end.acquire()
        return own


async def begun(store: SlowIndex, rounds: int = 1) -> None:
    async with asyncio.timeout(30):
        while store.rounds < rounds:
            await asyncio.sleep(0)


@pytest.fixture
async def asking() -> AsyncIterator[tuple[SlowIndex, ReadIndex, asyncio.Task[int]]]:
    """A round of one caller is under way."""
    store = SlowIndex()
    index = ReadIndex(store)
    alone = asyncio.create_task(index.get())
    await begun(store)
    yield store, index, alone
    await index.close()


def callers(index: ReadIndex, count: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(index.get()) for _ in range(count)]


async def test_callers_join_the_next_round_never_a_running_one(asking):
    store, index, alone = asking
    second = callers(index, 5)
    await asyncio.sleep(0)  # each of them has asked
    assert store.rounds == 1
    store.may_end.release()
    assert await alone == 1
    await begun(store, 2)
    third = callers(index, 5)
    await asyncio.sleep(0)
    store.may_end.release()
    assert set(await asyncio.gather(*second)) == {2}
    store.may_end.release()
    assert set(await asyncio.gather(*third)) == {3}
    store.may_end.release()
    assert await index.get() == 4


async def test_a_caller_that_goes_away_disturbs_nobody(asking):
    store, index, alone = asking
    others = callers(index, 3)
    await asyncio.sleep(0)
    for gone in (alone, others[1]):
        gone.cancel()
    await begun(store, 2)
    store.may_end.release()
    found = await asyncio.gather(alone, *others, return_exceptions=True)
    assert [type(f) for f in found] == [asyncio.CancelledError, int, asyncio.CancelledError, int]


async def test_closing_ends_the_wait_for_the_next_round(asking):
    store, index, alone = asking
    waiting = callers(index, 2)
    await asyncio.sleep(0)
    await index.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(f, asyncio.CancelledError) for f in found)
    store.may_end.release()
    assert await alone == 1  # it has its answer from the store


async def test_closing_ends_the_round_that_is_shared(asking):
    store, index, alone = asking
    waiting = callers(index, 2)
    await asyncio.sleep(0)
    store.may_end.release()
    await alone
    await begun(store, 2)
    waiting += callers(index, 2)
    await asyncio.sleep(0)
    await index.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(f, asyncio.CancelledError) for f in found)


async def test_closing_before_a_shared_round_began_leaves_nobody_waiting(asking):
    """Regression: it was taken to be under way for ever."""
    store, index, alone = asking
    waiting = callers(index, 2)
    await asyncio.sleep(0)
    store.may_end.release()
    while index._rounds is None:
        await asyncio.sleep(0)
    assert store.rounds == 1
    await index.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(f, asyncio.CancelledError) for f in found)
    store.may_end.release()
    async with asyncio.timeout(30):
        assert (await alone, await index.get()) == (1, 2)


@pytest.fixture
async def fed():
    store = MemoryStore()
    cache = Cache(lambda k, v, r: decode(v, r).raw)
    resets: list[int] = []
    feed = CacheFeed(store, cache, wait_s=0.2, on_reset=lambda: resets.append(cache.revision))
    task = asyncio.create_task(feed.run())
    yield store, cache, feed, resets
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_barrier_shows_every_acknowledged_write(fed):
    store, cache, feed, _ = fed
    for i in range(50):
        await write(store, f"c{i}")
        await feed.barrier()
        assert cache.get(CONFIG_MAPS, "a", f"c{i}") is not None


async def test_waiting_for_the_future_ends(fed):
    _, _, feed, _ = fed
    await feed.barrier()
    with pytest.raises(ApiError) as e:
        await feed.wait_for(10_000)
    assert (e.value.code, e.value.details["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")


async def test_lost_history_loads_anew_and_says_so():
    store = MemoryStore()
    await write(store, "a")
    real, calls = store.watch, []

    def watch(*args, **kwargs):
        calls.append(kwargs["start_revision"])
        if len(calls) == 1:
            raise StoreError("compacted")
        return real(*args, **kwargs)

    store.watch = watch
    cache = Cache(lambda k, v, r: decode(v, r).raw)
    resets: list[int] = []
    feed = CacheFeed(store, cache, wait_s=5.0, on_reset=lambda: resets.append(cache.revision))
    task = asyncio.create_task(feed.run())
    try:
        async with asyncio.timeout(30):
            while not resets:
                await asyncio.sleep(0.01)
        await write(store, "b")
        await feed.barrier()
        assert cache.get(CONFIG_MAPS, "a", "a") is not None
        assert cache.get(CONFIG_MAPS, "a", "b") is not None
        assert (feed.loads, len(calls)) == (2, 2)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_endpoints_follow_live_servers():
    now = [1_700_000_000.0]
    store = MemoryStore(lambda: now[0])
    registry = Registry(store, RegistryConfig(), clock=lambda: now[0], rng=random.Random(1))
    await bootstrap.ensure(registry, registry.config)
    one = EndpointReconciler(store, registry, "10.0.0.1", 6443, 5)
    two = EndpointReconciler(store, registry, "10.0.0.2", 6443, 5)

    async def addresses() -> list[str]:
        found = await registry.get(internal_context(), SCHEME.named("endpoints"), "default", "kubernetes")
        piece = await registry.get(
            internal_context(), SCHEME.named("endpointslices.discovery.k8s.io"), "default", "kubernetes"
        )
        ips = [a["ip"] for s in found.obj.get("subsets") or () for a in s["addresses"]]
        assert ips == [a for e in piece.obj["endpoints"] for a in e["addresses"]]
        return ips

    for server in (one, two):
        await server._renew()
    for server in (one, two):
        await server._reconcile()
    assert await addresses() == ["10.0.0.1", "10.0.0.2"]
    before = store.txns
    await two._reconcile()
    assert store.txns == before
    now[0] += 3
    await one._renew()
    now[0] += 3
    await one._renew()
    await one._reconcile()
    assert await addresses() == ["10.0.0.1"]
