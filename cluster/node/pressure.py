"""Looking at what the machine has left, and evicting pods when that is too little: the shell of eviction.py.

IO: statvfs, /proc, the engine, the pods' directories. A pass every `eviction_monitor_s`, and every second while a
threshold is met. What pods keep on disk is counted only when it matters: when some disk is short, and for pods that
limit their local storage.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cluster.machinery.clock import Clock, monotonic
from cluster.machinery.events import EventRecorder
from cluster.node import core_events as ev
from cluster.node.config import KubeletConfig
from cluster.node.disk_use import tree
from cluster.node.eviction import Eviction, Observation, Reclaim, Verdict, thresholds
from cluster.node.eviction_rank import ContainerUse, PodUse, limits_local_storage, message, over_local_storage, ranked
from cluster.node.log_files import LogFiles
from cluster.node.metering import Meter, disk_usage
from cluster.node.pod_config import pod_ref
from cluster.node.pod_worker import PodWorker
from cluster.node.runtime import ContainerDisk, DiskUse, Runtime, RuntimeFailure
from cluster.node.stats import Sample
from cluster.node.volumes import Volumes

log = logging.getLogger(__name__)
Obj = dict[str, Any]
_PASS_S = 1.0
_LOCAL_STORAGE_S = 10.0
_CLEANUP_S = 1.0  # so long a pass waits for the pod that it evicted: what that frees may be enough
_IMMEDIATE_S = 1.0
_DISK = ("ephemeral-storage", "inodes")


class Pressure:
    """`workers()`: the pods of this machine. `reclaim()` frees what no running pod needs, before a pod has to go."""

    def __init__(
        self,
        config: KubeletConfig,
        runtime: Runtime,
        meter: Meter,
        volumes: Volumes,
        recorder: EventRecorder,
        *,
        logs: LogFiles,
        memory_bytes: int,
        workers: Callable[[], Sequence[PodWorker]],
        reclaim: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
        clock: Clock = monotonic,
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._meter = meter
        self._volumes = volumes
        self._recorder = recorder
        self._logs = logs
        self._memory_bytes = memory_bytes
        self._workers = workers
        self._reclaim = reclaim
        self._changed = changed
        self._clock = clock
        limits = thresholds(
            config.eviction_hard,
            config.eviction_soft,
            config.eviction_soft_grace_period_s,
            config.eviction_minimum_reclaim,
        )
        self._core = Eviction(limits, config.eviction_pressure_transition_period_s)
        self._image_root = ""
        self._looked_at_storage = 0.0
        self.conditions: tuple[str, ...] = ()

    async def run(self) -> None:
        """Returns only by cancellation."""
        while True:
            began, short = self._clock(), False
            try:
                short = await self._pass()
            except (RuntimeFailure, OSError) as err:
                log.warning("looking for pressure: %s; trying again", err)
            rest = _PASS_S - (self._clock() - began)
            await asyncio.sleep(max(rest, 0.05) if short else self._config.eviction_monitor_s)

    async def _pass(self) -> bool:
        """One look, and at most one pod evicted for what it shows; whether something is short."""
        verdict = await self._look()
        if await self._evict_for_local_storage() or verdict.reclaim is None:
            return verdict.reclaim is not None
        resource = verdict.reclaim.resource
        name = self._config.node_name  # also the uid, in the kubelet's own events about its Node
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name}}
        self._recorder.event(node, "Warning", "EvictionThresholdMet", f"Attempting to reclaim {resource}")
        if resource in _DISK:
            await self._reclaim()
            verdict = await self._look()
        if verdict.reclaim is not None and verdict.reclaim.resource == resource:
            await self._evict_for(verdict.reclaim)
        return True

    async def _evict_for(self, reclaim: Reclaim) -> None:
        order = ranked(await self._uses(reclaim.resource in _DISK), reclaim.resource)
        if not order:
            log.warning("eviction: no pod of this machine may be evicted for %s", reclaim.resource)
            return
        grace = _IMMEDIATE_S if reclaim.threshold.hard else self._config.eviction_max_pod_grace_period_s
        await self._evict(order[0].pod, message(reclaim, order[0]), float(grace))

    async def _look(self) -> Verdict:
        verdict = self._core.look(await self._observe(), self._clock())
        if verdict.conditions != self.conditions:
            log.warning("pressure: %s, was %s", verdict.conditions or "none", self.conditions or "none")
            self.conditions = verdict.conditions
            self._changed()
        return verdict

    # ------------------------------------------------------------ observing

    async def _observe(self) -> dict[str, Observation]:
        if not self._image_root:
            self._image_root = (await self._runtime.engine_info()).image_root
        sample = await self._meter.sample(_PASS_S / 2 if self.conditions else self._config.metering_period_s)
        node, images = await asyncio.to_thread(
            lambda: (disk_usage(self._config.root_dir), disk_usage(self._image_root))
        )
        used = sample.machine.working_set_bytes
        processes, most = await asyncio.to_thread(self._meter.processes, sample)
        return {
            "memory.available": Observation(max(self._memory_bytes - used, 0), self._memory_bytes),
            "nodefs.available": Observation(node.available_bytes, node.capacity_bytes),
            "nodefs.inodesFree": Observation(node.inodes_free, node.inodes),
            "imagefs.available": Observation(images.available_bytes, images.capacity_bytes),
            "imagefs.inodesFree": Observation(images.inodes_free, images.inodes),
            "pid.available": Observation(max(most - processes, 0), most),
        }

    async def _uses(self, disk: bool, only: Callable[[Obj], bool] = lambda pod: True) -> list[PodUse]:
        """What each running pod uses; disks are looked at if `disk`."""
        sample = await self._meter.sample(_PASS_S / 2)
        workers = [w for w in self._workers() if w.core.mode == "run" and only(w.pod)]
        disks: dict[str, ContainerDisk] = {}
        if disk:
            wanted = [c.id for w in workers for c in w.core.containers.values() if c.id]
            disks = await self._runtime.disk_usages(wanted)
        return [await self._use_of(w, sample, disks, disk) for w in workers]

    async def _use_of(self, worker: PodWorker, sample: Sample, disks: dict[str, ContainerDisk], disk: bool) -> PodUse:
        containers: dict[str, ContainerUse] = {}
        inodes = processes = 0
        for state in worker.core.containers.values():
            found = disks.get(state.id, ContainerDisk(DiskUse(), DiskUse()))
            stored = found.rootfs + found.logs
            if disk:
                directory = self._logs.pod_dir(pod_ref(worker.pod)) / state.name
                stored += await asyncio.to_thread(tree, str(directory))
            _, usage = sample.containers.get(state.id, (None, None))
            memory = usage.working_set_bytes if usage is not None else 0
            containers[state.name] = ContainerUse(memory, stored.used_bytes)
            processes += usage.processes if usage is not None else 0
            inodes += stored.inodes
        volumes: dict[str, DiskUse] = {}
        in_memory: frozenset[str] = frozenset()
        if disk:
            volumes, in_memory = await asyncio.to_thread(self._volumes.usage, worker.pod)
        inodes += sum(use.inodes for name, use in volumes.items() if name not in in_memory)
        sizes = {name: use.used_bytes for name, use in volumes.items()}
        return PodUse(worker.pod, containers, sizes, in_memory, inodes, processes)

    # ------------------------------------------------------------ evicting

    async def _evict_for_local_storage(self) -> bool:
        """Pods that store more than they may go at once, whatever the machine has left."""
        now = self._clock()
        if now - self._looked_at_storage < _LOCAL_STORAGE_S:
            return False
        self._looked_at_storage = now
        if not any(limits_local_storage(w.pod) for w in self._workers() if w.core.mode == "run"):
            return False
        over = [(use.pod, over_local_storage(use)) for use in await self._uses(True, limits_local_storage)]
        guilty = [(pod, why) for pod, why in over if why]
        for pod, why in guilty:
            await self._evict(pod, why, _IMMEDIATE_S)
        return bool(guilty)

    async def _evict(self, pod: Obj, why: str, grace_s: float) -> None:
        worker = next((w for w in self._workers() if w.uid == pod["metadata"]["uid"]), None)
        if worker is None:
            return
        log.warning("evicting pod %s/%s: %s", pod["metadata"]["namespace"], pod["metadata"]["name"], why)
        worker.post(ev.PodEvicted("Evicted", why, grace_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLEANUP_S + grace_s):
                await worker.released.wait()
