"""Clearing away what is left of pods that nobody knows any more: containers, addresses, volumes, logs, control groups.

IO: the engine, the network, the kubelet's directory. Every step can be repeated; what fails is tried again at the next
look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from cluster.api.errors import ApiError
from cluster.node.cni import NetworkFailure
from cluster.node.log_files import LogFiles
from cluster.node.pod_cgroups import PodCgroups
from cluster.node.runtime import ContainerInfo, Runtime, RuntimeFailure
from cluster.node.seams import MachineNetwork
from cluster.node.volumes import Volumes

log = logging.getLogger(__name__)


class Cleanup:
    """Of one machine; touches only what its runtime lists, and the machine's own directories."""

    def __init__(
        self, runtime: Runtime, network: MachineNetwork, volumes: Volumes, logs: LogFiles, cgroups: PodCgroups
    ) -> None:
        self._runtime = runtime
        self._network = network
        self._volumes = volumes
        self._logs = logs
        self._cgroups = cgroups
        self._unowned: set[str] = set()

    async def all_but(self, uids: Collection[str], found: list[ContainerInfo]) -> None:
        """At the start: what belongs to none of these pods. `found`: what the engine has."""
        there = {i.pod.uid for i in found} | set(self._volumes.known()) | set(self._cgroups.known())
        for uid in sorted(there - set(uids)):
            await self._clear(uid, found)

    async def orphans(self, uids: Collection[str], found: list[ContainerInfo]) -> None:
        """Later: unowned at two looks is orphaned; at one it may be a pod on its way in or out."""
        unowned = ({i.pod.uid for i in found} | set(self._volumes.known())) - set(uids)
        for uid in sorted(unowned & self._unowned):
            await self._clear(uid, found)
        self._unowned = unowned

    async def _clear(self, uid: str, found: list[ContainerInfo]) -> None:
        infos = sorted((i for i in found if i.pod.uid == uid), key=lambda i: i.is_sandbox)
        log.info("clearing away what is left of pod %s (%d containers)", uid, len(infos))
        try:
            for info in infos:
                if info.is_sandbox:
                    await self._network.delete(info.id)
                await self._runtime.remove(info.id)
            await self._volumes.release(uid)
            await asyncio.to_thread(self._logs.remove_pod, uid)
            await self._volumes.remove(uid)
            await asyncio.to_thread(self._cgroups.remove, uid)
        except (RuntimeFailure, NetworkFailure, OSError, ApiError) as err:
            log.warning("clearing away pod %s: %s; trying again later", uid, err)
