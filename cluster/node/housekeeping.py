"""What a node does every so often: metering, evictions, unused images, log rotation, fresh contents of volumes.

IO through its parts, each of which keeps its own time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cluster.machinery.events import EventRecorder
from cluster.node.config import KubeletConfig
from cluster.node.image_gc import ImageGc
from cluster.node.log_files import LogFiles
from cluster.node.log_rotation import LogRotation
from cluster.node.metering import Meter, disk_usage
from cluster.node.pod_config import pod_ref
from cluster.node.pod_set import PodSet
from cluster.node.pressure import Pressure
from cluster.node.runtime import Runtime
from cluster.node.volume_device import VolumeFailure
from cluster.node.volumes import Volumes

log = logging.getLogger(__name__)


class Housekeeping:
    """`memory_capacity_bytes`: the node's; `box_memory_bytes`: all that its box has. `pressures_changed()` is called
    when the node's pressure conditions have."""

    def __init__(
        self,
        config: KubeletConfig,
        runtime: Runtime,
        pods: PodSet,
        volumes: Volumes,
        logs: LogFiles,
        recorder: EventRecorder,
        *,
        memory_capacity_bytes: int,
        box_memory_bytes: int,
        pressures_changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._pods = pods
        self._volumes = volumes
        self._logs = logs
        self.meter = Meter(config, runtime, memory_capacity_bytes=memory_capacity_bytes, clock=clock)
        self.pressure = Pressure(
            config,
            runtime,
            self.meter,
            volumes,
            recorder,
            logs=logs,
            memory_bytes=memory_capacity_bytes if config.shares_box else box_memory_bytes,
            workers=pods.workers,
            reclaim=self._reclaim_disk,
            changed=pressures_changed,
        )
        self.rotation = LogRotation(
            logs, runtime, self._running_logs, period_s=config.container_log_monitor_s, clock=clock
        )
        self._image_gc = ImageGc(config, runtime, recorder, disk=disk_usage, clock=clock)

    async def run(self) -> None:
        """Until cancelled. Raises when one of its parts cannot go on."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.meter.run(), name="metering")
            group.create_task(self.rotation.run(), name="log rotation")
            group.create_task(self._image_gc.run(), name="image garbage collection")
            group.create_task(self._refresh_volumes(), name="volumes")
            group.create_task(self.pressure.run(), name="pressure")

    def _running_logs(self) -> list[tuple[str, str]]:
        return [
            (c.id, str(self._logs.path(pod_ref(w.pod), c.name, c.attempt)))
            for w in self._pods.workers()
            for c in w.core.containers.values()
            if c.phase in ("running", "stopping")
        ]

    async def _reclaim_disk(self) -> None:
        """Remove the containers that no pod will start again (their layers and logs are all that is left of them), and
        then the images that nobody uses, where they are this machine's alone.
        """
        for worker in self._pods.workers():
            await worker.drop_dead_containers()
        if not self._config.shares_box:
            await self._image_gc.remove_unused()

    async def _refresh_volumes(self) -> None:
        while True:
            await asyncio.sleep(self._config.volume_refresh_s)
            for worker in self._pods.workers():
                if worker.core.mode != "run" or worker.core.volumes.phase != "mounted":
                    continue
                try:
                    await self._volumes.refresh(worker.pod)
                except VolumeFailure as err:
                    log.warning("refreshing volumes of %s: %s", worker.pod["metadata"]["name"], err)
