"""What the parts of a pod's worker share: its core, the kubelet's tools, its tasks, and how its events are told.

IO through the tools. A long action is a task; what it comes to is posted to the core as an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from cluster.api.errors import ApiError
from cluster.node import core_events as ev
from cluster.node.cni import NetworkFailure
from cluster.node.core import PodCore
from cluster.node.core_container import Kind
from cluster.node.host_ports import HostPortFailure
from cluster.node.pod_config import pod_ref
from cluster.node.pod_tools import Obj, Tools
from cluster.node.runtime import RuntimeFailure
from cluster.node.traces import StartTrace

log = logging.getLogger(__name__)
_RETRY_MAX_S = 10.0
_FIELDS: dict[Kind, str] = {
    "init": "initContainers",
    "sidecar": "initContainers",
    "main": "containers",
    "ephemeral": "ephemeralContainers",
}
"""Of a pod's spec, where a container of each kind is."""


class PodShell:
    """`post` hands an event to the core, in the worker's order."""

    def __init__(self, core: PodCore, tools: Tools, post: Callable[[ev.Event], None], trace: StartTrace) -> None:
        self.core = core
        self.tools = tools
        self.post = post
        self.trace = trace
        self.uid = str(core.pod["metadata"]["uid"])
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pod(self) -> Obj:
        return self.core.pod

    def ref(self) -> tuple[str, str, str]:
        """Its namespace, name and uid."""
        ref = pod_ref(self.pod)
        return ref.namespace, ref.name, ref.uid

    # ------------------------------------------------------------ tasks

    def spawn(
        self, work: Coroutine[Any, Any, object], name: str, failed: Callable[[str], ev.Event] | None = None
    ) -> None:
        """`failed(message)` is the event for an error that nobody foresaw: the core must not wait for ever."""
        task = asyncio.get_running_loop().create_task(self._guard(work, name, failed), name=f"{name} {self.uid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(
        self, work: Coroutine[Any, Any, object], name: str, failed: Callable[[str], ev.Event] | None
    ) -> None:
        try:
            with self.trace.within():
                await work
        except Exception as err:  # a worker's outermost loop: the other pods must go on
            if failed is not None:
                self.post(failed(f"{type(err).__name__}: {err}"))
            log.exception(
                "%s of pod %s/%s failed", name, self.pod["metadata"]["namespace"], self.pod["metadata"]["name"]
            )

    async def until_done(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat until it succeeds, ever more slowly; used for giving things back."""
        delay = 0.2
        while True:
            try:
                await work()
                return
            except (RuntimeFailure, NetworkFailure, HostPortFailure, ApiError, OSError) as err:
                text = err.message if isinstance(err, ApiError) else str(err)
                log.warning("%s of pod %s: %s; trying again in %.1f s", what, self.pod["metadata"]["name"], text, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MAX_S)

    def cancel(self) -> list[asyncio.Task[None]]:
        """End all tasks; returns them, to be waited for."""
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)

    # ------------------------------------------------------------ what several parts do

    async def end_and_remove(self, container_id: str, name: str) -> None:
        await self.tools.last_resort.remove(container_id, name, self.emit)

    def emit(self, type_: str, reason: str, message: str, container: str = "") -> None:
        """A Kubernetes Event about the pod, or about that container of it."""
        meta = self.pod["metadata"]
        reference = {
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
            "resourceVersion": meta.get("resourceVersion", ""),
        }
        if container:
            state = self.core.containers.get(container)
            reference["fieldPath"] = f"spec.{_FIELDS['main' if state is None else state.kind]}{{{container}}}"
        self.tools.recorder.event(reference, type_, reason, message)
