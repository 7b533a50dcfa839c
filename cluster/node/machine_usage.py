"""What the machine itself uses: of a whole box from /proc, of a local machine from the processes of its namespace.

IO: /proc. Local machines share a box; each has a process namespace, and what its processes and its pods' containers use
is what the machine uses. CPU of a process that has ended stays counted, because its last sample was added.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.node.runtime import Usage

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class MachineUsage:
    """`local`: the machine is a namespace of its box, not the whole of it."""

    def __init__(self, clock: Callable[[], float], *, local: bool, proc: Path = Path("/proc")) -> None:
        self._clock = clock
        self._local = local
        self._proc = proc
        self._cpu_ns = 0
        self._known: dict[tuple[str, str], int] = {}  # (pid, start time) or (id, "") -> CPU ns of the last sample

    def sample(self, containers: Mapping[str, Usage]) -> Usage:
        """Blocking, some milliseconds. `containers` (by id) count where their processes are not of our namespace."""
        return self._of_namespace(containers) if self._local else self._of_box()

    def _of_box(self) -> Usage:
        meminfo = {}
        for line in (self._proc / "meminfo").read_text().splitlines():
            key, _, rest = line.partition(":")
            meminfo[key] = int(rest.split()[0]) * 1024
        ticks = [int(t) for t in (self._proc / "stat").read_text().splitlines()[0].split()[1:9]]
        busy = sum(ticks) - ticks[3] - ticks[4]
        return Usage(
            at=self._clock(),
            cpu_ns=busy * _TICK_NS,
            memory_bytes=meminfo["MemTotal"] - meminfo["MemFree"],
            working_set_bytes=meminfo["MemTotal"] - meminfo["MemAvailable"],
            rss_bytes=meminfo.get("AnonPages", 0),
            page_faults=0,
            major_page_faults=0,
        )

    def _of_namespace(self, by_id: Mapping[str, Usage]) -> Usage:
        seen = {(container_id, ""): usage.cpu_ns for container_id, usage in by_id.items()}
        containers = by_id.values()
        private = 0
        for entry in os.listdir(self._proc):
            if not entry.isdigit():
                continue
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (self._proc / entry / "stat").read_text().rpartition(")")[2].split()
                key = (entry, fields[19])
                seen[key] = (int(fields[11]) + int(fields[12])) * _TICK_NS
                resident, shared = (int(w) for w in (self._proc / entry / "statm").read_text().split()[1:3])
                private += (resident - shared) * _PAGE
        self._cpu_ns += sum(max(now - self._known.get(key, 0), 0) for key, now in seen.items())
        self._known = seen
        return Usage(
            at=self._clock(),
            cpu_ns=self._cpu_ns,
            memory_bytes=private + sum(c.memory_bytes for c in containers),
            working_set_bytes=private + sum(c.working_set_bytes for c in containers),
            rss_bytes=private + sum(c.rss_bytes for c in containers),
            page_faults=sum(c.page_faults for c in containers),
            major_page_faults=sum(c.major_page_faults for c in containers),
        )
