"""The processes of containers, found and ended without their engine: for when it does not answer for one of them.

IO (proc(5), cgroups(7)). A container's processes are in control groups whose path has the container's id, whatever the
driver and the version; its shim, which the engine talks to, has the id on its command line.
"""

from __future__ import annotations

import re
import signal
import socket
import struct
from collections.abc import Collection
from pathlib import Path

from cluster.machine.processes import ProcessId, all_processes, command_line, wait_gone

_ID = re.compile(r"[0-9a-f]{64}")
_SHIM = "containerd-shim"


async def end(ids: Collection[str], timeout_s: float) -> dict[str, list[int]]:
    """SIGKILL to all processes of these containers. For each that had any: what still lives after the time, by pid."""
    found = processes_of(ids)
    for process in (p for processes in found.values() for p in processes):
        process.signal(signal.SIGKILL)
    left = await wait_gone([p for processes in found.values() for p in processes], timeout_s)
    return {i: [p.pid for p in processes if p in left] for i, processes in found.items()}


async def end_shims(ids: Collection[str], timeout_s: float) -> None:
    """An engine that waits for a shim which no longer speaks learns by its death that the container is over."""
    shims = [ProcessId(p.pid, p.start) for p in all_processes() if _shim_of(command_line(p.pid)) in ids]
    for shim in shims:
        shim.signal(signal.SIGKILL)
    await wait_gone(shims, timeout_s)


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


def _shim_of(line: list[str]) -> str:
    """The id of the container whose shim has this command line, or nothing."""
    if not Path(line[0] if line else "").name.startswith(_SHIM) or "-id" not in line[:-1]:
        return ""
    return line[line.index("-id") + 1]


def sees_processes_of(unix_socket: str) -> bool:
    """Whether who listens there, and so what it starts, has process ids here: no process in /proc then means none.

    SO_PEERCRED (unix(7)) gives 0 for a listener in a process namespace that this one does not see. Raises OSError.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(10)
        probe.connect(unix_socket)
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(pid)
