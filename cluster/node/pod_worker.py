"""One pod's shell: carries out what its core decides and feeds the results back.

IO through what it is given. Events are handled one at a time, in order, on the loop; an event posted while another is
being handled waits its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from prometheus_client import Histogram

from cluster.node import core_events as ev
from cluster.node import probe_metrics
from cluster.node.core import PodCore
from cluster.node.pod_containers import PodContainers
from cluster.node.pod_sandbox import PodSandbox
from cluster.node.pod_shell import PodShell
from cluster.node.pod_tools import Obj, Tools
from cluster.node.runtime import SANDBOX_CONTAINER
from cluster.node.traces import StartTrace

START_SECONDS = Histogram(
    "kubelet_pod_start_duration_seconds",
    "From a pod being first seen here to all of its containers running",
    buckets=(0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128),
)


class PodWorker:
    """`on_forget(uid)` is called when nothing of the pod is left on the machine or in the API."""

    def __init__(self, pod: Obj, tools: Tools, on_forget: Callable[[str], None]) -> None:
        self._tools = tools
        self._on_forget = on_forget
        self.core = PodCore(pod, tools.config.node_ip, tools.clock(), tools.runtime.name, tools.config.node_ipv6)
        adopted = bool((pod.get("status") or {}).get("startTime"))
        self._shell = PodShell(self.core, tools, self.post, StartTrace(tools.tracer, pod, adopted=adopted))
        self.sandbox = PodSandbox(self._shell)
        self.containers = PodContainers(self._shell, self.sandbox)
        self._events: deque[ev.Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._began_at = None if adopted else tools.clock()

    @property
    def pod(self) -> Obj:
        return self.core.pod

    @property
    def uid(self) -> str:
        return self._shell.uid

    # ------------------------------------------------------------ events

    def post(self, event: ev.Event) -> None:
        """Hand an event to the core, and begin what it asks for."""
        if self._closed:
            return
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events and not self._closed:
                now = self._tools.clock()
                for action in self.core.handle(self._events.popleft(), now):
                    _ACTIONS[type(action)](self, action)
        finally:
            self._handling = False
        self._arm()

    def died(self, container_id: str, name: str) -> None:
        """The engine says that a container, or the sandbox, ended."""
        if name == SANDBOX_CONTAINER:
            self.post(ev.SandboxLost(container_id))
        else:
            self.containers.died(container_id, name)

    def close(self) -> list[asyncio.Task[None]]:
        """Stop working on the pod and leave it running; returns the tasks to wait for."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        return self._shell.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake = None if self._closed else self.core.next_wake()
        if wake is not None:
            delay = max(wake - self._tools.clock(), 0.001)
            self._timer = asyncio.get_running_loop().call_later(delay, self.post, ev.Tick())

    # ------------------------------------------------------------ the end

    def _remove(self) -> None:
        self._shell.spawn(self._remove_task(), "remove")

    async def _remove_task(self) -> None:
        await self._shell.until_done("removing the containers", self._remove_containers)
        await self._shell.until_done(
            "removing the logs", lambda: asyncio.to_thread(self._tools.logs.remove_pod, self.uid)
        )
        await self._shell.until_done("removing the directory", lambda: self._tools.volumes.remove(self.uid))
        self.post(ev.PodRemoved())

    async def _remove_containers(self) -> None:
        for info in await self._tools.runtime.containers():
            if info.pod.uid == self.uid:
                await self._shell.end_and_remove(info.id, info.name)

    @property
    def released(self) -> asyncio.Event:
        """Its containers have ended, and what it stored is gone."""
        return self.sandbox.released

    async def over(self) -> None:
        """Return when the pod has ended on this machine, and the API has been told."""
        await self.released.wait()
        await self._tools.statuses.flush(self.uid)

    async def drop_dead_containers(self) -> None:
        """Remove the containers of a pod that is over; afterwards their logs cannot be asked for."""
        if self.core.mode != "run" and self.core.sandbox.phase == "none":
            await self._remove_containers()

    # ------------------------------------------------------------ the API

    def _report(self, action: ev.Report) -> None:
        self._tools.statuses.set(self.pod, action.status)
        if self._began_at is not None and action.status["phase"] == "Running":
            START_SECONDS.observe(self._tools.clock() - self._began_at)
            self._began_at = None
            self._shell.trace.end()

    def _delete_object(self) -> None:
        self._shell.spawn(self._delete_task(), "delete")

    async def _delete_task(self) -> None:
        # The last status should be seen; a write that keeps failing must not keep the pod.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._tools.statuses.flush(self.uid)

        async def delete() -> None:
            if await self._tools.delete_object(self.pod):
                self.post(ev.PodGone())

        await self._shell.until_done("deleting the object", delete)

    def _forget(self) -> None:
        self._closed = True
        probe_metrics.forget(self._shell.ref(), list(self.core.containers))
        self._shell.trace.end("the pod ended before it ran")
        self._tools.statuses.forget(self.uid)
        self._on_forget(self.uid)


_ACTIONS: dict[type, Callable[[PodWorker, Any], None]] = {
    ev.MountVolumes: lambda worker, action: worker.sandbox.mount(),
    ev.StartSandbox: lambda worker, action: worker.sandbox.start(action),
    ev.StopSandbox: lambda worker, action: worker.sandbox.stop(action),
    ev.ReleaseVolumes: lambda worker, action: worker.sandbox.release(),
    ev.StartContainer: lambda worker, action: worker.containers.start(action),
    ev.StopContainer: lambda worker, action: worker.containers.stop(action),
    ev.RemoveContainer: lambda worker, action: worker.containers.remove(action),
    ev.RunProbe: lambda worker, action: worker.containers.probe(action),
    ev.CheckResize: lambda worker, action: worker.containers.check_resize(action),
    ev.ResizeContainer: lambda worker, action: worker.containers.resize(action),
    ev.RemovePod: lambda worker, action: worker._remove(),
    ev.Report: lambda worker, action: worker._report(action),
    ev.DeleteObject: lambda worker, action: worker._delete_object(),
    ev.Forget: lambda worker, action: worker._forget(),
    ev.Emit: lambda worker, action: worker._shell.emit(action.type, action.reason, action.message, action.container),
}
