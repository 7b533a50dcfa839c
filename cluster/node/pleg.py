"""PLEG, the pod lifecycle event generator: tells the pods' cores which of their containers have died.

IO: the engine. Two ways, as in Kubernetes' kubelet: the engine's own events, and under them a relist, which compares
what runs with what the cores believe, every `period_s` and at once when the stream of events had a gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cluster.node.core import PodCore
from cluster.node.pod_set import PodSet
from cluster.node.runtime import SANDBOX_CONTAINER, ContainerInfo, Runtime, RuntimeFailure

log = logging.getLogger(__name__)


class Pleg:
    """`listed(found)` is given what each relist found; `failed()` is called when the engine did not answer one."""

    def __init__(
        self,
        runtime: Runtime,
        pods: PodSet,
        *,
        period_s: float,
        listed: Callable[[list[ContainerInfo]], Awaitable[None]],
        failed: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._pods = pods
        self._period_s = period_s
        self._listed = listed
        self._failed = failed
        self._relist_now = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises when the engine's events cannot be followed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="engine events")
            group.create_task(self._relist_often(), name="relist")

    async def _follow(self) -> None:
        async for event in self._runtime.events():
            if event.kind == "resync":
                self._relist_now.set()
            else:
                self._pods.died(event.uid, event.id, event.name)

    async def _relist_often(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._period_s):
                    await self._relist_now.wait()
            except TimeoutError:
                pass
            self._relist_now.clear()
            await self._relist()

    async def _relist(self) -> None:
        """What is believed is taken before the engine is asked: what starts meanwhile is in neither."""
        believed = {w.uid: _believed(w.core) for w in self._pods.workers()}
        try:
            found = await self._runtime.containers()
        except RuntimeFailure as err:
            log.warning("relist: %s", err)
            self._failed()
            return
        running = {i.id for i in found if i.state == "running"}
        for uid, ids in believed.items():
            for container_id, name in ids:
                if container_id not in running:
                    self._pods.died(uid, container_id, name)
        await self._listed(found)


def _believed(core: PodCore) -> list[tuple[str, str]]:
    """(id, name) of what a core believes to be running, the sandbox last."""
    running = [(c.id, c.name) for c in core.containers.values() if c.phase in ("running", "stopping")]
    if core.sandbox.phase == "ready" and not core.sandbox.lost:
        running.append((core.sandbox.id, SANDBOX_CONTAINER))
    return running
