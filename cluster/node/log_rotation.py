"""Keeping containers' log files within their limits.

IO: files, the runtime. Every few seconds the files of running containers are looked at (a stat each); one that has
grown too long is renamed, and its writer told to open a new one. A writer that does not gets the name back:
what it goes on writing is looked at again, and rotated once it answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from cluster.node.log_files import LogFiles
from cluster.node.runtime import Runtime, RuntimeFailure

log = logging.getLogger(__name__)


class LogRotation:
    """`running()`: (container id, log file) of all that runs here."""

    def __init__(
        self,
        files: LogFiles,
        runtime: Runtime,
        running: Callable[[], Iterable[tuple[str, str]]],
        *,
        period_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._files = files
        self._runtime = runtime
        self._running = running
        self._period_s = period_s
        self._clock = clock

    async def run(self) -> None:
        """Returns only by cancellation."""
        while True:
            await asyncio.sleep(self._period_s)
            await self.rotate_all()

    async def rotate_all(self) -> None:
        running = list(self._running())
        due = await asyncio.to_thread(lambda: [(i, p) for i, p in running if self._files.needs_rotation(p)])
        for container_id, path in due:
            try:
                await self._rotate(container_id, path)
            except (OSError, RuntimeFailure) as err:
                log.warning("rotating %s: %s", path, err)

    async def _rotate(self, container_id: str, path: str) -> None:
        """Raises OSError, RuntimeFailure."""
        rotated = await asyncio.to_thread(self._files.rotate, path, self._clock())
        try:
            await self._runtime.reopen_log(container_id)
        except BaseException:  # also when it is cancelled: nothing would find the renamed file later
            self._files.restore(rotated, path)
            raise
