"""What is done about a container that its engine does not end: it is killed past the engine, and an Event says so.

IO: the engine, and what kills past it (cluster/machinery/container_kill.py says which states need that, and how). First
its processes; the shim only if the engine has not heard of their end then, because an end that goes the usual way is
reported with its exit code.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from cluster.machinery.container_kill import kill_here
from cluster.node.runtime import SANDBOX_CONTAINER, UNANSWERED, Emit, Runtime, RuntimeFailure

log = logging.getLogger(__name__)
_HEARD_S = 3.0
_LOOK_AGAIN_S = 0.2


class PastEngine(Protocol):
    async def __call__(self, container_id: str, *, shim: bool) -> str:
        """Kill the container's processes, or those and its shim: what was done, "" when nothing was there. Raises
        RuntimeFailure."""
        ...


async def on_this_box(container_id: str, *, shim: bool) -> str:
    """For a kubelet in the PID namespace of its engine."""
    return await asyncio.to_thread(kill_here, container_id, shim=shim)


async def nothing_there(container_id: str, *, shim: bool) -> str:
    """For containers without processes (hollow nodes)."""
    return ""


class LastResort:
    def __init__(self, runtime: Runtime, past_engine: PastEngine) -> None:
        self._runtime = runtime
        self._past_engine = past_engine

    async def kill(self, container_id: str, name: str, emit: Emit) -> None:
        """After the engine was asked to kill it and did not. Look at the container afterwards."""
        done = [await self._kill(container_id, shim=False)]
        if not await self._heard(container_id):
            done.append(await self._kill(container_id, shim=True))
        told = "; ".join(filter(None, done)) or "no process of it was found"
        message = f"error killing pod: the container engine does not end container {name}; ended directly: {told}"
        log.warning("%s (%s)", message, container_id[:12])
        emit("Warning", "FailedKillPod", message, "" if name == SANDBOX_CONTAINER else name)

    async def remove(self, container_id: str, name: str, emit: Emit) -> None:
        """Also when it runs. Raises RuntimeFailure; to be repeated."""
        try:
            await self._runtime.remove(container_id)
        except RuntimeFailure as err:
            if err.reason == UNANSWERED:
                await self.kill(container_id, name, emit)
            raise

    async def _kill(self, container_id: str, *, shim: bool) -> str:
        try:
            return await self._past_engine(container_id, shim=shim)
        except RuntimeFailure as err:
            return f"failed ({err})"

    async def _heard(self, container_id: str) -> bool:
        """Whether the engine knows of the end within a moment."""
        try:
            async with asyncio.timeout(_HEARD_S):
                while True:
                    info = await self._runtime.inspect(container_id)
                    if info is None or info.state != "running":
                        return True
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except (TimeoutError, RuntimeFailure):
            return False
