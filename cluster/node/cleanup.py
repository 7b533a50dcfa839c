"""Clearing away what is left of pods that nobody knows any more: containers, addresses, volumes, logs, control groups.

IO: the engine, the network, the kubelet's directory. Every step can be repeated; what fails is tried again at the next
look. Each pod is cleared in a task of its own, because a container that the engine does not let go takes half a minute
until it is ended past the engine, and neither a start nor the looks at the others may wait for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any

from cluster.api.errors import ApiError
from cluster.machinery.events import EventRecorder
from cluster.node.cni import NetworkFailure
from cluster.node.last_resort import LastResort
from cluster.node.log_files import LogFiles
from cluster.node.pod_cgroups import PodCgroups
from cluster.node.runtime import ContainerInfo, PodRef, RuntimeFailure
from cluster.node.seams import MachineNetwork
from cluster.node.volumes import Volumes

log = logging.getLogger(__name__)
_WAIT_S = 10.0


class Cleanup:
    """Of one machine; touches only what its runtime lists, and the machine's own directories."""

    def __init__(
        self,
        last_resort: LastResort,
        network: MachineNetwork,
        volumes: Volumes,
        logs: LogFiles,
        cgroups: PodCgroups,
        recorder: EventRecorder,
    ) -> None:
        self._last_resort = last_resort
        self._network = network
        self._volumes = volumes
        self._logs = logs
        self._cgroups = cgroups
        self._recorder = recorder
        self._unowned: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by the pod's uid or the container's id

    async def all_but(self, uids: Collection[str], found: list[ContainerInfo]) -> None:
        """At the start: what belongs to none of these pods. `found`: what the engine has. Returns when it is gone, or
        after a while: the rest goes on."""
        there = {i.pod.uid for i in found} | set(self._volumes.known()) | set(self._cgroups.known())
        for uid in sorted(there - set(uids)):
            self._begin(uid, partial(self._clear, uid, found))
        await self.settled(_WAIT_S)

    def orphans(self, uids: Collection[str], found: list[ContainerInfo]) -> None:
        """Later: unowned at two looks is orphaned; at one it may be a pod on its way in or out."""
        unowned = ({i.pod.uid for i in found} | set(self._volumes.known())) - set(uids)
        for uid in sorted(unowned & self._unowned):
            self._begin(uid, partial(self._clear, uid, found))
        self._unowned = unowned

    async def drop(self, info: ContainerInfo) -> None:
        """One container of a pod that stays. Returns as `all_but`."""
        task = self._begin(info.id, partial(self._drop, info))
        await asyncio.wait([task], timeout=_WAIT_S)

    async def settled(self, timeout_s: float | None = None) -> None:
        """Return when nothing is being cleared away any more."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=timeout_s)

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        if what not in self._tasks:
            self._tasks[what] = asyncio.create_task(work(), name=f"clear {what}")
            self._tasks[what].add_done_callback(partial(self._ended, what))
        return self._tasks[what]

    def _ended(self, what: str, task: asyncio.Task[None]) -> None:
        del self._tasks[what]
        if not task.cancelled() and (err := task.exception()) is not None:
            log.error("clearing away %s failed", what, exc_info=err)

    async def _clear(self, uid: str, found: Sequence[ContainerInfo]) -> None:
        infos = sorted((i for i in found if i.pod.uid == uid), key=lambda i: i.is_sandbox)
        log.info("clearing away what is left of pod %s (%d containers)", uid, len(infos))
        try:
            for info in infos:
                if info.is_sandbox:
                    await self._network.delete(info.id)
                await self._remove(info)
            await self._volumes.release(uid)
            await asyncio.to_thread(self._logs.remove_pod, uid)
            await self._volumes.remove(uid)
            await asyncio.to_thread(self._cgroups.remove, uid)
        except (RuntimeFailure, NetworkFailure, OSError, ApiError) as err:
            log.warning("clearing away pod %s: %s; trying again later", uid, err)

    async def _drop(self, info: ContainerInfo) -> None:
        try:
            await self._remove(info)
        except RuntimeFailure as err:
            log.warning("removing the old container %s: %s", info.id[:12], err)

    async def _remove(self, info: ContainerInfo) -> None:
        await self._last_resort.remove(info.id, info.name, partial(self._emit, info.pod))

    def _emit(self, pod: PodRef, type_: str, reason: str, message: str, container: str) -> None:
        """About a pod of which only its containers' labels are left."""
        about = {"kind": "Pod", "apiVersion": "v1", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid}
        if container:
            about["fieldPath"] = f"spec.containers{{{container}}}"
        self._recorder.event(about, type_, reason, message)
