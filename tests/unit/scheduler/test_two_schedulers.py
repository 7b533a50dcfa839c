"""Two schedulers on one store, by design (a leader and its standby) and by accident: no node is overcommitted, no pod
is bound twice, none is lost. Room is for exactly all pods, so that a pod placed on a stale picture would be seen.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY

from cluster.machinery.client import Binding, WatchEvent
from cluster.machinery.registry_client import RegistryClient
from cluster.registry.context import MASTERS, RequestContext
from cluster.scheduler.config import Profile, SchedulerConfig
from cluster.scheduler.scheduler import Scheduler
from tests.unit.scheduler.shell import Cluster, Office


class Lagging(RegistryClient):
    """Hears of pods late, and of nothing while `open` is cleared."""

    def __init__(self, *of: Any, lag_s: float = 0.0) -> None:
        super().__init__(*of)
        self.open = asyncio.Event()
        self.open.set()
        self._lag_s, self._rng = lag_s, random.Random(3)

    async def watch(self, resource: str, namespace: str = "", **options: Any) -> AsyncIterator[WatchEvent]:
        async for event in super().watch(resource, namespace, **options):
            if resource == "pods":
                await self.open.wait()
                await asyncio.sleep(self._rng.random() * self._lag_s)
            yield event


class Second:
    """Another instance on the same store, with an office of its own; `fence` goes into all its writes."""

    def __init__(self, cluster: Cluster, fence: Any, lag_s: float, profiles: tuple[Profile, ...]) -> None:
        def context() -> RequestContext:
            return RequestContext(user=MASTERS, field_manager="second", fence=fence)

        self.office = Office()
        self.office.held.clear()
        self.client = Lagging(cluster.registry, context, lag_s=lag_s)
        config = SchedulerConfig(identity="second", profiles=profiles)
        self.scheduler = Scheduler(config, self.client, self.office.lead, rng=random.Random(2))

    async def knows(self, pods: int) -> None:
        async with asyncio.timeout(10):
            while sum(self.scheduler.health()["pending"].values()) < pods:  # type: ignore[attr-defined]
                await Cluster.pause()


@asynccontextmanager
async def second(
    cluster: Cluster, *, fence: Any = (), lag_s: float = 0.0, profiles: tuple[Profile, ...] = (Profile(),)
) -> AsyncIterator[Second]:
    made = Second(cluster, fence, lag_s, profiles)
    task = asyncio.create_task(made.scheduler.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_standby_goes_on_in_mid_burst(cluster: Cluster) -> None:
    for name in "abc":
        await cluster.node(name, cpu="20")
    async with second(cluster) as other:
        for i in range(60):
            await cluster.pod(f"p{i}", cpu="1")
            if i == 30:
                await cluster.office.lose()
                other.office.held.set()
        nodes = Counter([await cluster.bound(f"p{i}") for i in range(60)])
    assert nodes == {"a": 20, "b": 20, "c": 20}, "warm: it knew what the first had placed"


async def test_a_standby_hears_of_the_last_binds_before_it_decides(cluster: Cluster) -> None:
    """Elected while its watch is behind, it would give away the room that the old leader's last bind took."""
    await cluster.office.lose()
    await cluster.node("a", cpu="1")
    async with second(cluster) as other:
        await cluster.pod("p1", cpu="1")
        await cluster.pod("p2", cpu="1", priority="high")
        await other.knows(pods=2)
        other.client.open.clear()
        turn = await cluster.client.take_turn("first")
        assert await cluster.client.bind([Binding("default", "p1", "", "a")], turn=turn.revision) == [None]
        other.office.held.set()
        for _ in range(20):
            await cluster.pause()
        other.client.open.set()
        assert "Insufficient cpu" in await cluster.refused("p2")


async def test_an_instance_that_only_believes_it_leads_binds_nothing(cluster: Cluster) -> None:
    """Both run at once; the second's fence does not hold."""
    await cluster.office.lose()
    for name in "ab":
        await cluster.node(name, cpu="10")
    async with second(cluster, fence=((b"/sk8/leader/kube-scheduler", "create", "=", 1),)) as impostor:
        impostor.office.held.set()
        for i in range(20):
            await cluster.pod(f"p{i}", cpu="1")
        for _ in range(50):
            await cluster.pause()
        assert not any(p["spec"].get("nodeName") for p in await cluster.pods())
        assert impostor.scheduler.health()["leading"]
        cluster.office.held.set()
        assert Counter([await cluster.bound(f"p{i}") for i in range(20)]) == {"a": 10, "b": 10}


def turns_lost() -> float:
    return REGISTRY.get_sample_value("sk8_scheduler_turns_lost_total") or 0.0


@pytest.mark.parametrize("name", ["default-scheduler", "another"])
async def test_two_that_both_lead_take_turns(cluster: Cluster, name: str) -> None:
    """Under leases of their own, for the same pods or each for its own: pods of all sizes fill the nodes to the brim,
    and one that hears late of what the other does puts nothing where there is no room."""
    before = turns_lost()
    for node in "abcd":
        await cluster.node(node, cpu="12")
    async with second(cluster, lag_s=0.01, profiles=(Profile(scheduler_name=name),)) as other:
        other.office.held.set()
        names = ["default-scheduler", name]
        for i in range(60):
            await cluster.pod(f"p{i}", cpu=str(1 + i % 3), schedulerName=names[i % 2])
            await asyncio.sleep(0)
        used: Counter[str] = Counter()
        async with asyncio.timeout(60):
            while sum(used.values()) < 4 * 12:
                await cluster.pause()
                bound = [p for p in await cluster.pods() if p["spec"].get("nodeName")]
                used = Counter()
                for pod in bound:
                    cpu = pod["spec"]["containers"][0]["resources"]["requests"]["cpu"]
                    used[pod["spec"]["nodeName"]] += int(cpu)
                assert all(cpus <= 12 for cpus in used.values()), used
    assert turns_lost() > before, "they did bind at the same time"
