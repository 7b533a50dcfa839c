"""A small world for controller tests: registry on an in-memory store, a clock turned by hand, a kubelet of few words.

Controllers run for real (informers, queues, writes through the registry); only time, machines and disks are played.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from cluster.api.meta import rfc3339
from cluster.api.volumes import BLOCK, LOCAL_PATH
from cluster.cloud.local_paths import LocalPathDisks
from cluster.controllers.config import ControllerConfig
from cluster.controllers.daemonset_pods import target_node
from cluster.controllers.env import NOBODY, Controller, Env, Outside
from cluster.machinery.client import Client, Obj, clone
from cluster.machinery.informer import Informers
from cluster.machinery.provider import Disks, DiskStatus, DiskWish, MachineStatus, MadeDisk, ProviderError
from cluster.machinery.reconciler import Reconciler
from cluster.machinery.registry_client import RegistryClient
from cluster.machinery.write_through import WriteThrough
from cluster.registry.admissionconfig import AdmissionConfig
from cluster.registry.context import CAUSE, MASTERS, RequestContext
from cluster.registry.registry import Registry
from cluster.registry.types import RegistryConfig
from tests.support.fake_clock import FakeClock
from tests.support.memory_store import MemoryStore

NODES_AS_THEY_ARE = RegistryConfig(admission=AdmissionConfig(disable=("TaintNodesByCondition",)))
"""Nothing here takes a new node's not-ready taint away, unless the node controller is what is tested."""


class FakeProvider:
    """Machines and disks in memory; refuses what the real one refuses."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.disks_: dict[str, DiskStatus] = {}
        self.violations: list[str] = []
        self.grow_error = ""
        self._changed = asyncio.Event()

    def set_state(self, name: str, state: str) -> None:
        self.states[name] = state
        self._changed.set()

    async def machines(self) -> Sequence[MachineStatus]:
        return [MachineStatus(n, s) for n, s in sorted(self.states.items())]  # type: ignore[arg-type]

    async def watch_machines(self) -> AsyncIterator[Sequence[MachineStatus]]:
        while True:
            self._changed.clear()
            yield await self.machines()
            await self._changed.wait()

    async def create_disk(self, wish: DiskWish) -> MadeDisk:
        self.disks_.setdefault(wish.name, DiskStatus(wish.name, wish.size_bytes))
        return MadeDisk(wish.name, wish.size_bytes)

    async def grow_disk(self, handle: str, size_bytes: int) -> int:
        if self.grow_error:
            raise ProviderError(self.grow_error)
        disk = self.disks_.get(handle)
        if disk is None:
            raise ProviderError(f"there is no disk {handle}")
        self.disks_[handle] = dataclasses.replace(disk, size_bytes=max(size_bytes, disk.size_bytes))
        return self.disks_[handle].size_bytes

    async def delete_disk(self, name: str) -> None:
        disk = self.disks_.get(name)
        if disk is not None and disk.attached_to:
            raise ProviderError(f"disk {name} is attached to {disk.attached_to}")
        self.disks_.pop(name, None)

    async def attach_disk(self, name: str, machine: str) -> str:
        disk = self.disks_[name]
        if disk.attached_to not in ("", machine):
            self.violations.append(f"{name}: {disk.attached_to} and {machine}")
            raise ProviderError(f"disk {name} is attached to {disk.attached_to}")
        self.disks_[name] = DiskStatus(name, disk.size_bytes, machine, f"/dev/sk8/{name}")
        return f"/dev/sk8/{name}"

    async def detach_disk(self, name: str, machine: str) -> None:
        disk = self.disks_.get(name)
        if disk is not None and disk.attached_to == machine:
            self.disks_[name] = DiskStatus(name, disk.size_bytes)

    async def disks(self) -> Sequence[DiskStatus]:
        return list(self.disks_.values())


class World:
    """Use as `async with World(Controller, ...) as w`. `outside` without provider and disks: those are the world's."""

    def __init__(
        self,
        *makers: Callable[[Env], Controller],
        store: MemoryStore | None = None,
        clock: FakeClock | None = None,
        config: ControllerConfig | None = None,
        provider: FakeProvider | None = None,
        wrap: Callable[[Client], Client] = lambda c: c,
        admission: RegistryConfig = NODES_AS_THEY_ARE,
        outside: Outside = NOBODY,
    ) -> None:
        self.clock = clock or FakeClock()
        self.store = store or MemoryStore(self.clock)
        # A second world over one store must not give out the uids of the first again.
        rng = random.Random(7 + self.store.revision)
        self.registry = Registry(self.store, admission, clock=self.clock, rng=rng)
        self.client = RegistryClient(self.registry, self._context)
        self.provider = provider or FakeProvider()
        self.disks: dict[str, Disks] = {BLOCK: self.provider, LOCAL_PATH: LocalPathDisks("/disk/{node}")}
        self._makers = makers
        self._config = config or ControllerConfig()
        self._wrap = wrap
        self._outside = outside
        self._serial = 0

    async def __aenter__(self) -> World:
        base = self._wrap(self.client)
        self.informers = Informers(self.client)
        self.env = Env(
            WriteThrough(base, self.informers),
            self.informers,
            self._config,
            self.clock,
            random.Random(1),
            dataclasses.replace(self._outside, provider=self.provider, disks=self.disks),
            self.clock,
            quotas=self.client,
            resources=self.registry.catalog,
        )
        self.controllers = [make(self.env) for make in self._makers]
        self._task = asyncio.create_task(self.informers.run())
        await self.informers.wait_synced()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._events_written()

    async def revision(self) -> int:
        """The store's, once the Events of what happened are in it."""
        await self._events_written()
        return self.store.revision

    @staticmethod
    async def _events_written() -> None:
        """Events gather for a moment before they are written."""
        while recorders := [t for t in asyncio.all_tasks() if t.get_name() == "event-recorder"]:
            await asyncio.gather(*recorders, return_exceptions=True)

    @staticmethod
    def _context() -> RequestContext:
        return RequestContext(user=MASTERS, field_manager="test", cause_id=CAUSE.get())

    def reconcilers(self) -> list[Reconciler]:
        return [v for c in self.controllers for v in vars(c).values() if isinstance(v, Reconciler)]

    async def settle(self, rounds: int = 400) -> None:
        """Until nothing waits in any queue and the store no longer changes (delayed keys are left). Fails after so many
        rounds that changed something, or when what is tried again goes on failing."""
        quiet = busy = 0
        deadline = asyncio.get_running_loop().time() + 120
        while busy < rounds and asyncio.get_running_loop().time() < deadline:
            before = self.store.revision
            await self._round()
            backoff = any(r.queue._failures for r in self.reconcilers())
            changed = self.store.revision != before
            quiet, busy = (0, busy + 1) if changed else (quiet + 1, busy)
            if quiet >= 3 and not backoff:
                return
            if backoff:
                await asyncio.sleep(0.002)
        raise AssertionError("the controllers do not come to rest")

    async def churn(self, rounds: int = 20) -> None:
        """Some rounds of a world in which something fails and is tried again, so that it never comes to rest."""
        for _ in range(rounds):
            await self._round()

    async def _round(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        for reconciler in self.reconcilers():
            await reconciler.drain()

    async def tick(self, seconds: float) -> None:
        """Time passes: what waits for it is looked at again."""
        self.clock.advance(seconds)
        for reconciler in self.reconcilers():
            for key in list(reconciler.queue._timers):
                reconciler.queue._timers.pop(key).cancel()
                reconciler.queue.add(key)
        await self.settle()

    # ---- objects

    async def create(self, resource: str, obj: dict[str, Any]) -> Obj:
        return await self.client.create(resource, obj, obj["metadata"].get("namespace", ""))

    async def namespace(self, name: str = "default") -> None:
        await self.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        meta = {"name": "default", "namespace": name}
        await self.create("serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})

    async def items(self, resource: str, namespace: str = "") -> list[Obj]:
        if resource == "events":
            await self._events_written()
        return (await self.client.list(resource, namespace)).items

    async def node(self, name: str, *, ready: bool = True) -> None:
        now = rfc3339(self.clock())
        await self.create("nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}})
        node = await self.client.get("nodes", name)
        changed = clone(node)
        changed["status"] = {
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True" if ready else "False",
                    "reason": "KubeletReady",
                    "message": "kubelet is posting ready status",
                    "lastHeartbeatTime": now,
                    "lastTransitionTime": now,
                }
            ]
        }
        await self.client.update("nodes", changed, subresource="status")

    async def heartbeat(self, name: str, lasts_s: int = 4) -> None:
        """``lasts_s``: as long as the kubelet's Lease holds, by default that of profile `fast`."""
        renewed = rfc3339(self.clock())[:-1] + ".000000Z"
        spec = {"holderIdentity": name, "leaseDurationSeconds": lasts_s, "renewTime": renewed}
        try:
            lease = await self.client.get("leases.coordination.k8s.io", name, "kube-node-lease")
        except Exception:
            meta = {"name": name, "namespace": "kube-node-lease"}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
            await self.create("leases.coordination.k8s.io", body)
            return
        await self.client.update("leases.coordination.k8s.io", {**clone(lease), "spec": spec})

    async def kubelet(self, *, ready: bool = True, nodes: Sequence[str] = ("n1",)) -> None:
        """One pass: schedules what is not, runs what is new, completes deletions."""
        for pod in await self.items("pods"):
            meta = pod["metadata"]
            if "deletionTimestamp" in meta:
                await self.client.delete("pods", meta["name"], meta["namespace"], grace_period_s=0)
                continue
            if not pod["spec"].get("nodeName"):
                self._serial += 1
                node = target_node(pod) or nodes[self._serial % len(nodes)]
                binding = {"metadata": {"name": meta["name"]}, "target": {"kind": "Node", "name": node}}
                await self.client.create("pods", binding, meta["namespace"], subresource="binding", name=meta["name"])
                pod = await self.client.get("pods", meta["name"], meta["namespace"])
            if ready and (pod.get("status") or {}).get("phase") not in ("Running", "Succeeded", "Failed"):
                await self.pod_status(pod, ready=True)

    async def pod_status(self, pod: Obj, *, ready: bool, phase: str = "Running") -> None:
        self._serial += 1
        changed = clone(pod)
        ip = (pod.get("status") or {}).get("podIP") or f"10.244.0.{self._serial % 250 + 2}"
        changed["status"] = {
            "startTime": rfc3339(self.clock()),
            **(pod.get("status") or {}),
            "phase": phase,
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True" if ready else "False",
                    "lastTransitionTime": rfc3339(self.clock()),
                }
            ],
        }
        await self.client.update("pods", changed, subresource="status")

    async def settle_with_kubelet(self, passes: int = 40, nodes: Sequence[str] = ("n1",)) -> None:
        for _ in range(passes):
            before = self.store.revision
            await self.settle()
            await self.kubelet(nodes=nodes)
            await self.settle()
            if self.store.revision == before:
                return
        raise AssertionError("the world does not come to rest")


def template(app: str = "web", image: str = "nginx:1.21", **spec: Any) -> Obj:
    return {
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "main", "image": image}], **spec},
    }


def deployment(name: str = "web", replicas: int = 3, image: str = "nginx:1.21", **spec: Any) -> Obj:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, image),
            **spec,
        },
    }
