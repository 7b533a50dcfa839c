"""Takes snapshots on schedule, keeps them where they are told to be kept, and lets old ones go. IO on the event loop.

One keeper runs at a time (whoever leads). What is due follows from what is in the target, so a keeper that takes over
neither repeats nor skips one. A snapshot is checked before it is kept; one that fails is reported, and tried again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Counter, Gauge

from raft.backup import schedule
from raft.backup.file import describe
from raft.backup.schedule import Taken
from raft.backup.targets import Target
from raft.errors import StoreError

log = logging.getLogger(__name__)
RETRY_S = 60.0
FAILURES = Counter("sk8_store_snapshot_failures", "Snapshots on schedule that were due and could not be kept")
KEPT = Counter("sk8_store_snapshots_kept", "Snapshots on schedule that were kept by this process")
NEWEST = Gauge("sk8_store_snapshot_newest_timestamp_seconds", "When the newest snapshot on schedule was taken; 0: none")
LOOK_S = 600.0
"""The clock may be set and the target's contents change: look at least this often."""


@dataclass(frozen=True, slots=True)
class KeeperConfig:
    cluster: str
    """Its name, the first part of the snapshots' names."""
    interval_s: float
    """0: no snapshots are taken."""
    retention_s: float
    """0: none are thrown away."""
    scratch: Path
    """A directory for one snapshot on its way."""


class SnapshotKeeper:
    def __init__(
        self,
        config: KeeperConfig,
        target: Callable[[], Target],
        save: Callable[[Path], Awaitable[object]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``save(path)`` puts a snapshot of the store into a file; ``target`` is asked for on a thread."""
        self._config = config
        self._open = target
        self._save = save
        self._clock = clock
        self.newest: Taken | None = None
        self.error = ""

    def health(self) -> dict[str, object]:
        newest = self.newest
        return {
            "newest": newest.name if newest else "",
            "taken_at": newest.at_s if newest else 0.0,
            "error": self.error,
        }

    async def run(self) -> None:
        """Until cancelled."""
        if not self._config.interval_s:
            await asyncio.Event().wait()
        while True:
            try:
                pause_s = await self.step()
                self.error = ""
            except (StoreError, OSError) as error:
                self.error = str(error)
                FAILURES.inc()
                log.error("no snapshot was kept: %s", error)
                pause_s = RETRY_S
            await asyncio.sleep(pause_s)

    async def step(self) -> float:
        """Take one if it is due, throw away what is outdated; seconds until the next look."""
        target = await asyncio.to_thread(self._open)
        taken = schedule.of_cluster(self._config.cluster, await asyncio.to_thread(target.names))
        self._found(taken[-1] if taken else None)
        pause_s = schedule.due_in_s(taken, self._clock(), self._config.interval_s)
        if pause_s:
            return min(pause_s, LOOK_S)
        newest = await self._take(target)
        KEPT.inc()
        self._found(newest)
        for old in schedule.outdated([*taken, newest], self._clock(), self._config.retention_s):
            await asyncio.to_thread(target.delete, old.name)
            log.info("snapshot %s is over %g s old: deleted", old.name, self._config.retention_s)
        return min(self._config.interval_s, LOOK_S)

    def _found(self, newest: Taken | None) -> None:
        self.newest = newest
        NEWEST.set(newest.at_s if newest is not None else 0.0)

    async def _take(self, target: Target) -> Taken:
        self._config.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._config.scratch / "snapshot.db"
        try:
            at_s = self._clock()
            await self._save(path)
            status = await asyncio.to_thread(describe, path)
            name = schedule.name_of(self._config.cluster, at_s, status.revision)
            await asyncio.to_thread(target.put, path, name)
        finally:
            path.unlink(missing_ok=True)
        log.info("snapshot %s is kept in %s: %d keys, hash %016x", name, target.url, status.keys, status.hash)
        return Taken(at_s, status.revision, name)
