"""Looking at what the machine and its containers use, every few seconds and when somebody asks.

IO: the runtime, /proc, /sys. Rates of CPU come from two samples, so they are kept warm by a slow loop; a request takes
the last sample unless that is old.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from cluster.machinery.clock import Clock, monotonic
from cluster.node.cni import link_name
from cluster.node.config import KubeletConfig
from cluster.node.machine_usage import MachineUsage
from cluster.node.runtime import Runtime, RuntimeFailure
from cluster.node.stats import DiskUsage, NodeFacts, Rates, Sample

log = logging.getLogger(__name__)
_FRESH_S = 5.0
_MACHINE_LINK = "eth0"


class Meter:
    def __init__(
        self,
        config: KubeletConfig,
        runtime: Runtime,
        *,
        memory_capacity_bytes: int,
        clock: Clock,
        ticks: Clock = monotonic,
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._memory_bytes = memory_capacity_bytes
        self._ticks = ticks
        self._machine = MachineUsage(clock, local=config.shares_box)
        self._rates = Rates()
        self._last: Sample | None = None
        self._at = 0.0
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Returns only by cancellation."""
        while True:
            try:
                await self.sample(0.0)
            except (RuntimeFailure, OSError) as err:
                log.warning("looking at what is used: %s", err)
            await asyncio.sleep(self._config.metering_period_s)

    async def sample(self, max_age_s: float = _FRESH_S) -> Sample:
        """Raises RuntimeFailure."""
        async with self._looking:
            if self._last is None or self._ticks() - self._at > max_age_s:
                self._last = await self._look()
                self._at = self._ticks()
            return self._last

    async def _look(self) -> Sample:
        running = [i for i in await self._runtime.containers() if i.state == "running" and not i.is_sandbox]
        used = await self._runtime.usages([i.id for i in running])
        machine = await asyncio.to_thread(self._machine.sample, used)
        at = self._ticks()
        self._rates.keep_only({"", *used})
        rates = {key: self._rates.nano_cores(key, at, usage.cpu_ns) for key, usage in {**used, "": machine}.items()}
        return Sample(
            machine,
            {i.id: (i, used[i.id]) for i in running if i.id in used},
            {key: rate for key, rate in rates.items() if rate is not None},
        )

    def facts(self, started: Mapping[str, str], sandboxes: Mapping[str, str]) -> NodeFacts:
        """Blocking, fast. `sandboxes`: pod uid -> sandbox id. What our end of a link sends, the pod receives."""
        links = link_counters(Path("/proc/thread-self/net/dev").read_text())
        network = {uid: links[name][::-1] for uid, s in sandboxes.items() if (name := link_name(s)) in links}
        if _MACHINE_LINK in links:
            network[""] = links[_MACHINE_LINK]
        return NodeFacts(
            name=self._config.node_name,
            memory_capacity_bytes=self._memory_bytes,
            started=started,
            disk=disk_usage(self._config.root_dir),
            network=network,
            pids=(self.processes(self._last) if self._last is not None else (0, 0)),
        )

    def processes(self, sample: Sample) -> tuple[int, int]:
        """(there are now, there may be). Blocking, fast. A local machine has those of its namespace and of its pods."""
        most = min(int(Path(f"/proc/sys/kernel/{name}").read_text()) for name in ("pid_max", "threads-max"))
        if not self._config.shares_box:
            return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2]), most
        own = sum(entry.isdigit() for entry in os.listdir("/proc"))
        return own + sum(usage.processes for _, usage in sample.containers.values()), most


def disk_usage(path: str) -> DiskUsage:
    stat = os.statvfs(path)
    return DiskUsage(stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize, stat.f_files, stat.f_ffree)


def link_counters(table: str) -> dict[str, tuple[int, int]]:
    """(received, sent) in bytes by link, from /proc/net/dev (of our own network namespace, unlike /sys/class/net)."""
    found = {}
    for line in table.splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = rest.split()
        found[name.strip()] = (int(fields[0]), int(fields[8]))
    return found
