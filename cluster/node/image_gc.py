"""Removing images that nobody uses, when their file system fills up or when they are too old.

`Images` is pure: it remembers when each image was first seen and last used, and says which to remove. `ImageGc` is the
shell: the engine, statvfs, Events about the node. Source: the kubelet's image GC manager: above the high threshold so
much is freed that the low one holds, the least recently used first; never what a container has, never the pause image
or what the engine has pinned, never what is younger than the minimum age.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from cluster.machinery.clock import Clock
from cluster.machinery.events import EventRecorder
from cluster.node.config import KubeletConfig
from cluster.node.runtime import ImageEntry, Runtime, RuntimeFailure
from cluster.node.stats import DiskUsage

log = logging.getLogger(__name__)
OFF = 100
"""A high threshold of 100 % switches the collection by disk use off."""


@dataclass(slots=True)
class _Record:
    size_bytes: int
    first_seen: float
    last_used: float  # 0: never since it was first seen


class Images:
    """Ids and times alone; the same calls give the same answers."""

    def __init__(self, min_age_s: float, max_age_s: float) -> None:
        self._min_age_s = min_age_s
        self._max_age_s = max_age_s
        self._records: dict[str, _Record] = {}

    def look(self, images: Iterable[ImageEntry], in_use: Collection[str], now: float) -> None:
        """What the engine has now."""
        present = {image.id: image for image in images}
        for gone in set(self._records) - set(present):
            del self._records[gone]
        for image in present.values():
            record = self._records.setdefault(image.id, _Record(image.size_bytes, now, 0.0))
            record.size_bytes = image.size_bytes
            if image.id in in_use:
                record.last_used = now

    def too_old(self, in_use: Collection[str], now: float) -> list[str]:
        """Those that were not used for the maximum age; none when there is no maximum."""
        if self._max_age_s <= 0:
            return []
        return [i for i, r in self._order(in_use) if now - max(r.last_used, r.first_seen) > self._max_age_s]

    def candidates(self, in_use: Collection[str], now: float) -> list[tuple[str, int]]:
        """(id, size) of what may be removed, the least recently used first."""
        return [(i, r.size_bytes) for i, r in self._order(in_use) if now - r.first_seen >= self._min_age_s]

    def _order(self, in_use: Collection[str]) -> list[tuple[str, _Record]]:
        unused = [(i, r) for i, r in self._records.items() if i not in in_use]
        return sorted(unused, key=lambda item: (item[1].last_used, item[1].first_seen, item[0]))


def to_free(disk: DiskUsage, high_percent: int, low_percent: int) -> int:
    """Bytes to be freed now: 0 below the high threshold."""
    if high_percent >= OFF or disk.capacity_bytes <= 0:
        return 0
    used_percent = 100 - disk.available_bytes * 100 // disk.capacity_bytes
    if used_percent < high_percent:
        return 0
    return max(disk.capacity_bytes * (100 - low_percent) // 100 - disk.available_bytes, 0)


class ImageGc:
    """`disk(path)` is one file system's use, blocking; `node()` what Events are about."""

    def __init__(
        self,
        config: KubeletConfig,
        runtime: Runtime,
        recorder: EventRecorder,
        *,
        disk: Callable[[str], DiskUsage],
        clock: Clock,
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._recorder = recorder
        self._disk = disk
        self._clock = clock
        self._images = Images(config.image_minimum_gc_age_s, config.image_maximum_gc_age_s)
        self._failed = False

    async def run(self) -> None:
        """Returns only by cancellation. One failure is logged, a second in a row is told."""
        while True:
            try:
                await self.collect()
                self._failed = False
            except (RuntimeFailure, OSError) as err:
                log.warning("image garbage collection: %s", err)
                if self._failed:
                    self._tell("ImageGCFailed", str(err))
                self._failed = True
            await asyncio.sleep(self._config.image_gc_period_s)

    async def collect(self) -> None:
        """One pass. Raises RuntimeFailure, OSError."""
        in_use = await self._look()
        for image in self._images.too_old(in_use, self._clock()):
            await self._remove(image)
        root = (await self._runtime.engine_info()).image_root
        disk = await asyncio.to_thread(self._disk, root)
        wanted = to_free(
            disk, self._config.image_gc_high_threshold_percent, self._config.image_gc_low_threshold_percent
        )
        if not wanted:
            return
        log.info("the file system of images is too full: %d bytes of images are to go", wanted)
        freed = await self._free(in_use, wanted)
        if freed < wanted:
            why = "Failed to garbage collect required amount of images."
            self._tell(
                "FreeDiskSpaceFailed",
                f"{why} Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free.",
            )

    async def remove_unused(self) -> None:
        """All that may be removed: the disk is short. Raises RuntimeFailure, OSError."""
        await self._free(await self._look(), None)

    async def _look(self) -> set[str]:
        in_use = await self._runtime.images_in_use()
        pause = await self._runtime.image(self._config.pause_image)
        if pause is not None:
            in_use.add(pause.id)
        images = await self._runtime.images()
        in_use |= {image.id for image in images if image.pinned}
        self._images.look(images, in_use, self._clock())
        return in_use

    async def _free(self, in_use: Collection[str], wanted: int | None) -> int:
        freed = 0
        for image, size in self._images.candidates(in_use, self._clock()):
            if wanted is not None and freed >= wanted:
                break
            if await self._remove(image):
                freed += size
        return freed

    async def _remove(self, image: str) -> bool:
        try:
            await self._runtime.remove_image(image)
        except RuntimeFailure as err:  # a container took it meanwhile
            log.warning("removing image %s: %s", image, err)
            return False
        log.info("image %s was removed: nobody used it", image)
        return True

    def _tell(self, reason: str, message: str) -> None:
        name = self._config.node_name
        node = {"kind": "Node", "apiVersion": "v1", "name": name, "uid": name}
        self._recorder.event(node, "Warning", reason, message)
