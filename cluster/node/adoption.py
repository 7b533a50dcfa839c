"""What a starting kubelet makes of the containers it finds.

IO: the engine and the network, to look and to mend. Sandboxes that run keep their address; one whose link is missing is
connected anew under the same address; one that cannot be is taken for lost. A container that the engine does not answer
about is taken for what its list said: it must not keep the machine's other pods from their kubelet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from cluster.node.cni import NetworkFailure
from cluster.node.container_stop import exit_info
from cluster.node.core_events import Adopt, ExitInfo, SeenContainer, SeenSandbox
from cluster.node.runtime import UNANSWERED, ContainerInfo, Runtime, RuntimeFailure
from cluster.node.seams import MachineNetwork

log = logging.getLogger(__name__)
Obj = dict[str, Any]
_LOOK_S = 10.0


class Adopter:
    """`remove`: takes a container away that its pod no longer needs (Cleanup.drop)."""

    def __init__(
        self,
        runtime: Runtime,
        network: MachineNetwork,
        node_ips: tuple[str, ...],
        remove: Callable[[ContainerInfo], Awaitable[None]],
    ) -> None:
        self._node_ips = node_ips
        self._runtime = runtime
        self._network = network
        self._remove = remove

    async def adopt(self, pod: Obj, infos: list[ContainerInfo]) -> Adopt:
        """The newest sandbox and the newest run of each container; half-made and older ones are removed."""
        sandboxes = sorted((i for i in infos if i.is_sandbox), key=lambda i: i.attempt)
        on_machine = bool(pod["spec"].get("hostNetwork"))
        sandbox = await self._sandbox(sandboxes[-1], on_machine) if sandboxes else None
        for old in sandboxes[:-1]:
            await self._network.delete(old.id)
            await self._remove(old)
        runs: dict[str, list[ContainerInfo]] = {}
        for info in infos:
            if info.is_sandbox:
                continue
            if info.state == "created":
                await self._remove(info)
            else:
                runs.setdefault(info.name, []).append(info)
        seen = [await self._container(sorted(found, key=lambda i: i.attempt)) for found in runs.values()]
        return Adopt(sandbox, tuple(seen))

    async def _sandbox(self, info: ContainerInfo, on_machine: bool) -> SeenSandbox:
        if on_machine:
            return _seen(info, info.state == "running", self._node_ips)
        addresses = self._network.addresses(info.id)
        running = info.state == "running"
        if running:
            try:
                if not await self._network.check(info.id):
                    full = await self._look(info)
                    addresses = await self._network.add(info.id, full.netns if full is not None else "")
                    log.info("sandbox %s was connected anew as %s", info.id[:12], ", ".join(addresses))
            except (NetworkFailure, RuntimeFailure) as err:
                log.warning("sandbox %s cannot be connected: %s", info.id[:12], err)
                running = False
        return _seen(info, running, addresses)

    async def _container(self, runs: list[ContainerInfo]) -> SeenContainer:
        full = await self._look(runs[-1])
        newest = full or replace(runs[-1], started_at=runs[-1].created_at)
        previous = await self._exit(runs[-2]) if len(runs) > 1 else None
        for old in runs[:-2]:
            await self._remove(old)
        running = newest.state == "running"
        return SeenContainer(
            name=newest.name,
            id=newest.id,
            attempt=newest.attempt,
            running=running,
            sandbox_id=newest.sandbox_id,
            image_id=newest.image_id,
            started_at=newest.started_at,
            exit=None if running else await exit_info(self._runtime, full, newest.id, newest.finished_at),
            previous=previous,
        )

    async def _exit(self, info: ContainerInfo) -> ExitInfo:
        return await exit_info(self._runtime, await self._look(info), info.id, info.finished_at)

    async def _look(self, info: ContainerInfo) -> ContainerInfo | None:
        """None for one that is gone, or that the engine does not answer about in time. Only the engine says how one
        ended, so for those an answer may take as long as it may. Raises RuntimeFailure."""
        try:
            async with asyncio.timeout(_LOOK_S if info.state == "running" else None):
                return await self._runtime.inspect(info.id)
        except TimeoutError:
            why = f"no answer within {_LOOK_S:g} s"
        except RuntimeFailure as err:
            if err.reason != UNANSWERED:
                raise
            why = str(err)
        log.warning("looking at container %s: %s; taking it for what the list says", info.id[:12], why)
        return None


def _seen(info: ContainerInfo, running: bool, addresses: tuple[str, ...]) -> SeenSandbox:
    ip, second_ip, *_ = (*addresses, "", "")
    return SeenSandbox(info.id, running, ip, info.attempt, second_ip)
