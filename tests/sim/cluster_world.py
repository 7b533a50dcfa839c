"""A whole cluster in one seeded, virtual-time loop: what runs, and how it is broken.

Real: the registry, both schedulers and both controller managers with their elections, the kubelets' agents, cores and
workers (on the engine that runs nothing). Simulated: time, the store (`cluster_store`), the containers and the
provider's word. A process that is killed writes nothing any more, and who comes after knows only what the store says.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from cluster.cloud.local_balancers import AddressPool
from cluster.controllers.config import profile
from cluster.controllers.env import Outside
from cluster.controllers.manager import ControllerManager
from cluster.machinery.election import Elector
from cluster.machinery.registry_client import RegistryClient
from cluster.node import core_events as ev
from cluster.node.hollow.fleet import HollowFleet
from cluster.node.hollow.node import HollowSpec
from cluster.node.hollow.parts import RUN_SECONDS
from cluster.node.runtime import SANDBOX_CONTAINER
from cluster.registry.context import CAUSE, MASTERS, RequestContext
from cluster.registry.registry import Registry
from cluster.registry.types import RegistryConfig
from cluster.scheduler.config import SchedulerConfig
from cluster.scheduler.scheduler import Scheduler
from tests.sim.cluster_store import Line, SharedStore, Weather
from tests.support.controller_world import FakeProvider
from tests.support.memory_store import Batch

EPOCH = 1_700_000_000.0
CONTROLLERS = replace(profile("kubernetes"), leader_elect_lease_duration_s=3)
NODE = HollowSpec(cpu="4", memory="8Gi", tainted=False)
_SHOWN_LEASES = b"/registry/coordination.k8s.io/leases/kube-system/"
Part = Callable[["Process"], Awaitable[None]]


class Process:
    """One life of an actor: a line to the store and a registry of its own."""

    def __init__(self, sim: Sim, name: str) -> None:
        self.name = name
        self.rng = sim.stream(f"process {name}")
        self.line = Line(sim.store, self.rng, sim.weather)
        self.registry = Registry(self.line, RegistryConfig(), clock=sim.wall, rng=self.rng)
        self.client = RegistryClient(self.registry, context)

    def die(self, task: asyncio.Task[None]) -> None:
        self.line.dead = True
        task.cancel()


class Actor:
    """A part that is started again whenever it ends."""

    def __init__(self, sim: Sim, name: str, part: Part) -> None:
        self._sim = sim
        self.name = name
        self._part = part
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self.lives = 0

    def start(self) -> None:
        self.lives += 1
        process = self._process = Process(self._sim, f"{self.name}#{self.lives}")
        task = self._task = asyncio.get_running_loop().create_task(self._part(process), name=process.name)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """By itself: an error that its supervisor answers with a new process."""
        if task.cancelled() or task is not self._task:
            return
        self._sim.note(f"{self.name} ended: {task.exception()!r}")
        asyncio.get_running_loop().call_later(1.0, self._start_again, task)

    def _start_again(self, ended: asyncio.Task[None]) -> None:
        if self._task is ended:
            self.start()

    def kill(self) -> None:
        process, task, self._process, self._task = self._process, self._task, None, None
        if process is not None and task is not None:
            process.die(task)

    @property
    def running(self) -> bool:
        return self._process is not None

    def cut(self, cut: bool) -> None:
        if self._process is not None:
            self._process.line.cut = cut


class SimFleet(HollowFleet):
    """One kubelet. After a power failure nothing that its pods' statuses say is running runs."""

    def __init__(self, *args: Any, emptied: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._emptied = emptied

    def _adopt(self) -> None:
        for pod in self._pods.items():
            node = self._nodes.get(pod["spec"].get("nodeName", ""))
            ends = RUN_SECONDS in (pod["metadata"].get("annotations") or {})  # its timer went with the process
            if node is not None and (self._emptied or ends):
                node.pods.add(pod, ev.Adopt(None))
            elif node is not None:
                node.adopt(pod)
        self._pods.add_handler(self._on_pod)

    def running(self) -> dict[str, str]:
        """Name by uid of the pods of which a container runs."""
        return {
            info.pod.uid: f"{info.pod.namespace}/{info.pod.name}"
            for node in self._nodes.values()
            for info in node._runtime._all.values()
            if info.state == "running" and info.name != SANDBOX_CONTAINER
        }


class Machine:
    def __init__(self, sim: Sim, name: str) -> None:
        self._sim = sim
        self.node = f"{name}-0"
        self.on = True
        self._emptied = False
        self._left: dict[str, str] = {}
        self._fleet: SimFleet | None = None
        self.kubelet = Actor(sim, name, self._kubelet)

    async def _kubelet(self, process: Process) -> None:
        sim, prefix = self._sim, self.node.removesuffix("0")
        self._fleet = SimFleet(
            process.client, 1, NODE, prefix=prefix, clock=sim.wall, monotonic=sim.loop.time, emptied=self._emptied
        )
        self._emptied = False
        await self._fleet.run()

    def running(self) -> dict[str, str]:
        """Containers outlive the kubelet, not the machine."""
        if not self.on:
            return {}
        return self._fleet.running() if self.kubelet.running and self._fleet is not None else self._left

    def kubelet_dies(self) -> None:
        self._left = self.running()
        self.kubelet.kill()

    def kubelet_starts(self) -> None:
        if self.on and not self.kubelet.running:
            self.kubelet.start()

    def power_failure(self) -> None:
        self.kubelet.kill()
        self.on, self._left, self._emptied = False, {}, True

    def boots(self) -> None:
        self.on = True
        self._sim.provider.set_state(self.node, "running")
        self.kubelet_starts()


class Sim:
    """`changed` is told of every commit."""

    def __init__(self, seed: int, loop: asyncio.AbstractEventLoop, machines: int = 4) -> None:
        self.seed = seed
        self.loop = loop
        self.weather = Weather()
        self.store = SharedStore(loop.time, self._committed)
        self.watchers: list[Callable[[Batch], None]] = []
        self.provider = FakeProvider()
        self.story: list[str] = []
        self._digest = hashlib.sha256()
        self.client = RegistryClient(
            Registry(self.store, RegistryConfig(), clock=self.wall, rng=self.stream("user")), context
        )
        self.machines = [Machine(self, f"n{i}") for i in range(machines)]
        self.controllers = [Actor(self, f"controllers-{i}", self._controllers) for i in range(2)]
        self.schedulers = [Actor(self, f"scheduler-{i}", self._scheduler) for i in range(2)]

    def wall(self) -> float:
        return EPOCH + self.loop.time()

    def stream(self, what: str) -> random.Random:
        """Independent of what others draw."""
        return random.Random(f"{self.seed} {what}")

    def note(self, text: str) -> None:
        self.story.append(f"{self.loop.time():8.2f}  {text}")

    @property
    def digest(self) -> str:
        """Of everything that was ever written, but for the Leases that show who leads: they have the box's time."""
        return self._digest.hexdigest()

    def _committed(self, batch: Batch) -> None:
        for event in batch.events:
            if not event.kv.key.startswith(_SHOWN_LEASES):
                self._digest.update(b"%d %s %s" % (batch.revision, event.kv.key, event.kv.value))
        for watcher in self.watchers:
            watcher(batch)

    async def begin(self) -> None:
        for name in ("default", "kube-system", "kube-node-lease"):
            await self.client.create("namespaces", {"metadata": {"name": name}})
        for machine in self.machines:
            self.provider.set_state(machine.node, "running")
        for actor in (*self.controllers, *self.schedulers):
            actor.start()
        for machine in self.machines:
            machine.kubelet.start()

    async def _controllers(self, process: Process) -> None:
        pool = AddressPool([f"10.9.0.{i}" for i in range(1, 30)])
        manager = ControllerManager(
            process.line,
            process.registry,
            CONTROLLERS,
            process.name,
            Outside(self.provider, balancers=pool),
            clock=self.wall,
            monotonic=self.loop.time,
            rng=process.rng,
        )
        await manager.run()

    async def _scheduler(self, process: Process) -> None:
        elector = Elector(process.line, "kube-scheduler", process.name, 3, clock=self.loop.time)

        def fenced() -> RequestContext:
            return replace(context(), fence=elector.fence)

        scheduler = Scheduler(
            SchedulerConfig(),
            RegistryClient(process.registry, fenced),
            elector.run,
            clock=self.loop.time,
            wall=self.wall,
            rng=process.rng,
        )
        await scheduler.run()


def context() -> RequestContext:
    return RequestContext(user=MASTERS, field_manager="sim", cause_id=CAUSE.get())
