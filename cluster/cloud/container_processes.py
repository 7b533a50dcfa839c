"""The processes of containers, found and seen to end without their engine: for when it does not answer for one of them.

IO (proc(5), cgroups(7)). A container's processes are in control groups whose path has the container's id, whatever the
driver and the version. They are killed as a kubelet kills them (cluster/machinery/container_kill.py).
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import struct
from collections.abc import Collection
from pathlib import Path

from cluster.machine.processes import ProcessId, all_processes, wait_gone
from cluster.machinery.container_kill import CGROUPS, kill_processes

_ID = re.compile(r"[0-9a-f]{64}")


async def end(ids: Collection[str], timeout_s: float) -> dict[str, list[int]]:
    """SIGKILL to all processes of these containers. For each that had any: what still lives after the time, by pid."""
    found = processes_of(ids)
    await asyncio.to_thread(kill_processes, found)
    for process in (p for processes in found.values() for p in processes):
        process.signal(signal.SIGKILL)
    left = await wait_gone([p for processes in found.values() for p in processes], timeout_s)
    return {i: [p.pid for p in processes if p in left] for i, processes in found.items()}


async def end_groups(names: Collection[str], timeout_s: float, root: Path = CGROUPS) -> list[int]:
    """SIGKILL to all processes in the control groups of these names and below them, frozen containers' too; what still
    lives after the time.

    For an engine that answers nothing at all: containers are below their pod's group, and that below their machine's
    (`cgroupsPerQOS`).
    """
    wanted = [re.compile(rf"/{re.escape(name)}(?:/.*)?$", re.MULTILINE) for name in names if name]
    alive = [(ProcessId(p.pid, p.start), _groups(p.pid)) for p in all_processes() if p.alive]
    below = [(process, [m.group() for each in wanted for m in each.finditer(groups)]) for process, groups in alive]
    ours = [(process, paths) for process, paths in below if paths]
    containers = {container for _, paths in ours for path in paths for container in _ID.findall(path)}
    await asyncio.to_thread(kill_processes, containers, root)
    found = [process for process, _ in ours]
    for process in found:
        process.signal(signal.SIGKILL)
    return [p.pid for p in await wait_gone(found, timeout_s)]


def processes_of(ids: Collection[str]) -> dict[str, list[ProcessId]]:
    """By the container's whole id; those without a process are left out."""
    found: dict[str, list[ProcessId]] = {}
    for process in all_processes():
        if not process.alive:
            continue
        for container in set(_ID.findall(_groups(process.pid))).intersection(ids):
            found.setdefault(container, []).append(ProcessId(process.pid, process.start))
    return found


def _groups(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def sees_processes_of(unix_socket: str) -> bool:
    """Whether who listens there, and so what it starts, has process ids here: no process in /proc then means none.

    SO_PEERCRED (unix(7)) gives 0 for a listener in a process namespace that this one does not see. Raises OSError.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(10)
        probe.connect(unix_socket)
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(pid)
