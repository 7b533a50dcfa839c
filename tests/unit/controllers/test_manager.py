"""The manager: two instances on one store, one leads, the other takes over; and the whole set on one workload."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from cluster.controllers.config import ControllerConfig, profile
from cluster.controllers.env import Outside
from cluster.controllers.manager import ControllerManager, build
from cluster.registry.registry import Registry
from cluster.registry.types import RegistryConfig
from tests.support.controller_world import FakeProvider, World, deployment
from tests.support.eventually import until
from tests.support.memory_store import MemoryStore


def manager(store: MemoryStore, name: str) -> ControllerManager:
    registry = Registry(store, RegistryConfig(), clock=time.time, rng=random.Random(name))
    config = ControllerConfig(leader_elect_lease_duration_s=3)
    return ControllerManager(store, registry, config, name, Outside(FakeProvider()))


async def test_a_standby_takes_over_and_goes_on_where_the_leader_stopped() -> None:
    store = MemoryStore()
    async with World(store=store, provider=FakeProvider()) as w:
        w.clock.now = time.time()
        await w.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}})
        await w.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
        first, second = manager(store, "a"), manager(store, "b")
        tasks = [asyncio.create_task(first.run())]
        await until(lambda: first.health()["leading"] is True)
        tasks.append(asyncio.create_task(second.run()))
        await until(lambda: second.health()["ok"] is True and second.health()["leader"] == "a")
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        await w.create("deployments.apps", deployment())
        await until(lambda: second.health()["leading"] is True)
        pods: list[object] = []
        async with asyncio.timeout(60):
            while len(pods) < 3:
                await asyncio.sleep(0.02)
                pods = list(await w.items("pods"))
        leases = {o["metadata"]["name"]: o for o in await w.items("leases.coordination.k8s.io", "kube-system")}
        assert leases["kube-controller-manager"]["spec"]["holderIdentity"] == "b"
        tasks[1].cancel()
        await asyncio.gather(tasks[1], return_exceptions=True)


async def test_all_controllers_together_come_to_rest_and_then_write_nothing() -> None:
    async with World() as w:
        w.controllers = build(w.env)
        for name in ("default", "kube-node-lease"):
            await w.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await w.informers.wait_synced()
        await w.settle()
        await w.node("n1")
        await w.create("deployments.apps", deployment())
        meta = {"name": "web", "namespace": "default"}
        spec = {"selector": {"app": "web"}, "ports": [{"port": 80}]}
        await w.create("services", {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
        await w.settle_with_kubelet()
        (s,) = await w.items("endpointslices.discovery.k8s.io")
        assert len(s["endpoints"]) == 3
        await w.items("events")  # waits for what the recorders still hold
        before = await w.revision()
        for controller in w.controllers:
            controller.resync()
        await w.settle()
        assert w.store.revision == before


def test_settings_say_what_is_wrong() -> None:
    profile("fast").validate()
    profile("kubernetes").validate()
    assert profile("kubernetes").node_monitor_grace_period_s == 40
    for bad, word in (
        ({"cluster_cidr": "x"}, "cluster_cidr"),
        ({"node_cidr_mask_size": 8}, "node_cidr_mask_size"),
        ({"node_monitor_grace_period_s": 0.5}, "node_monitor_grace_period_s"),
        ({"concurrent_gc_syncs": 0}, "concurrent_gc_syncs"),
    ):
        with pytest.raises(ValueError, match=word):
            ControllerConfig(**bad).validate()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="profile"):
        profile("slow")  # type: ignore[arg-type]
