"""A scheduler over a registry on an in-memory store, for tests: no API server, no kubelet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from cluster.machinery.registry_client import RegistryClient
from cluster.registry.admissionconfig import AdmissionConfig
from cluster.registry.context import MASTERS, RequestContext
from cluster.registry.registry import Registry
from cluster.registry.types import RegistryConfig
from cluster.scheduler.config import Profile, SchedulerConfig
from cluster.scheduler.scheduler import Scheduler
from tests.support.fake_clock import FakeClock
from tests.support.memory_store import MemoryStore

Obj = dict[str, Any]


class Office:
    """Leadership that a test can take away and give back."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.held.set()
        self.work: asyncio.Task[Any] | None = None

    async def lead(self, work: Callable[[], Any]) -> None:
        try:
            while True:
                await self.held.wait()
                self.work = asyncio.create_task(work())
                await asyncio.wait([self.work])
        finally:
            await self.lose()

    async def lose(self) -> None:
        self.held.clear()
        if self.work is not None:
            self.work.cancel()
            await asyncio.gather(self.work, return_exceptions=True)


UNTAINTED = AdmissionConfig(disable=("TaintNodesByCondition",))  # no node controller here to take the taint away


class Cluster:
    """A store, its client, and one leading scheduler with back-offs in real time."""

    def __init__(self, *profiles: Profile) -> None:
        clock = FakeClock()
        self.registry = Registry(
            MemoryStore(clock), RegistryConfig(admission=UNTAINTED), clock=clock, rng=random.Random(7)
        )
        self.client = RegistryClient(self.registry, lambda: RequestContext(user=MASTERS, field_manager="test"))
        self.office = Office()
        config = replace(SchedulerConfig(), profiles=profiles) if profiles else SchedulerConfig()
        self.scheduler = Scheduler(config, self.client, self.office.lead, rng=random.Random(1))

    @classmethod
    @asynccontextmanager
    async def running(cls, *profiles: Profile) -> AsyncIterator[Cluster]:
        """With namespace default and priority classes high, polite (which never preempts) and low."""
        made = cls(*profiles)
        for name, value, policy in (("high", 1000, "PreemptLowerPriority"), ("polite", 1000, "Never"), ("low", 10, "")):
            body = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}}
            body |= {"value": value} | ({"preemptionPolicy": policy} if policy else {})
            await made.client.create("priorityclasses.scheduling.k8s.io", body)
        await made.client.create(
            "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
        )
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": "default"},
        }
        await made.client.create("serviceaccounts", account, "default")
        task = asyncio.create_task(made.scheduler.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def node(self, name: str, cpu: str = "4", **spec: Any) -> None:
        labels = {"kubernetes.io/hostname": name}
        made = await self.client.create(
            "nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": spec}
        )
        made = made | {"status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}}
        await self.client.update("nodes", made, subresource="status")

    async def pod(self, name: str, cpu: str = "1", priority: str = "", **more: Any) -> Obj:
        container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
        meta: Obj = {"name": name, "namespace": "default", "labels": {"app": name[0]} | more.pop("labels", {})}
        meta["annotations"] = more.pop("annotations", {})
        spec = {"containers": [container], **more}
        if priority:
            spec["priorityClassName"] = priority
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        return await self.client.create("pods", body, "default")

    async def pods(self) -> list[Obj]:
        return (await self.client.list("pods", "default")).items

    @staticmethod
    async def pause() -> None:
        await asyncio.sleep(0.01)

    async def until(self, name: str, ready: Callable[[Obj], bool], within_s: float = 10.0) -> Obj:
        async with asyncio.timeout(within_s):
            while True:
                pod = await self.client.get("pods", name, "default")
                if ready(pod):
                    return pod
                await asyncio.sleep(0.01)

    async def bound(self, name: str) -> str:
        pod = await self.until(name, lambda p: bool(p["spec"].get("nodeName")))
        return str(pod["spec"]["nodeName"])

    async def refused(self, name: str) -> str:
        def why(pod: Obj) -> str:
            conditions = pod.get("status", {}).get("conditions") or ()
            return next((c.get("message", "") for c in conditions if c["type"] == "PodScheduled"), "")

        return why(await self.until(name, lambda p: bool(why(p))))
