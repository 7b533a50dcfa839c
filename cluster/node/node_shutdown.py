"""Ending the pods of a machine that shuts down: the shell of shutdown_plan.py.

IO: a unix socket in the kubelet's directory (0600: whoever may write there owns the machine's pods anyway). sk8-machine
connects to it when it was told to stop (cluster/machine/pods_shutdown.py) and reads one line when the pods have ended:

    -> connect     the node turns NotReady, new pods are refused, groups of pods end one after the other
    <- "done\\n"    within the sum of the groups' periods, and two seconds to report before and after; at once when no
                   graceful shutdown is configured
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from cluster.machinery.events import EventRecorder
from cluster.node import core_events as ev
from cluster.node.config import KubeletConfig
from cluster.node.eviction_rank import priority
from cluster.node.pod_worker import PodWorker
from cluster.node.shutdown_plan import MESSAGE, NOT_READY, REASON, Group, groups, periods

log = logging.getLogger(__name__)
SOCKET = "shutdown.sock"
_REPORT_S = 2.0
"""How long the pods wait for the API to hear of it, and their ends to be told: it may be what went down first."""


class NodeShutdown:
    """`report()` writes the Node's status; the first pod is told to end after it, or after `_REPORT_S`."""

    def __init__(
        self,
        config: KubeletConfig,
        recorder: EventRecorder,
        *,
        workers: Callable[[], Sequence[PodWorker]],
        report: Callable[[], Awaitable[None]],
    ) -> None:
        self._config = config
        self._recorder = recorder
        self._workers = workers
        self._report = report
        self._limits = periods(
            config.shutdown_grace_period_s,
            config.shutdown_grace_period_critical_pods_s,
            config.shutdown_grace_period_by_pod_priority,
        )
        self.under_way = False

    @property
    def problem(self) -> str:
        """Why the node is not ready, "" while it is."""
        return NOT_READY if self.under_way else ""

    async def run(self) -> None:
        """Returns only by cancellation."""
        path = Path(self._config.root_dir) / SOCKET
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._asked, path)
        os.chmod(path, 0o600)
        async with server:
            await server.serve_forever()

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await self.end_pods()
            writer.write(b"done\n")
            await writer.drain()
        writer.close()

    async def end_pods(self) -> None:
        if not self._limits:
            return
        self.under_way = True
        name = self._config.node_name
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name}}
        self._recorder.event(node, "Normal", "NodeShutdown", "Shutdown manager detected shutdown event")
        try:
            async with asyncio.timeout(_REPORT_S):
                await self._report()
        except TimeoutError:
            log.warning("node shutdown: the API did not take the node's status within %g s", _REPORT_S)
        running = [w for w in self._workers() if w.core.mode == "run"]
        for group in groups([(w.uid, priority(w.pod)) for w in running], self._limits):
            await self._end(group, [w for w in running if w.uid in group.uids])
        with contextlib.suppress(TimeoutError):  # those that took all of their time were killed a moment ago
            async with asyncio.timeout(_REPORT_S):
                await asyncio.gather(*(worker.over() for worker in running))

    async def _end(self, group: Group, members: list[PodWorker]) -> None:
        log.info("node shutdown: %d pods end within %g s", len(members), group.grace_s)
        for worker in members:
            worker.post(ev.PodEvicted(REASON, MESSAGE, group.grace_s, "Normal"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(group.grace_s):
                await asyncio.gather(*(worker.over() for worker in members))
