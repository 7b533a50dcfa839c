"""Ending a container past its engine, for one that the engine's own kill does not end.

IO: /sys/fs/cgroup and /proc of the box; blocking. An engine answers a SIGKILL when it has heard of the exit, however
long that takes (dockerd 20.10, daemon/kill.go), so a kill without an answer is one of these:

    frozen         its control group is (somebody stopped runc between freezing and thawing): in version 1 a SIGKILL
                   waits for the thaw
    unheard        the processes are gone or can go, but the shim that would tell is stopped, stuck or unheard
    uninterruptible  a process waits for a device (state D); it ends when that answers, and nothing else ends it

`kill_processes` is for the first, `kill_shim` for the second: containerd takes a shim that is gone for the container's
end, clears up after it and tells the engine. Source: cgroups(7), Linux' cgroup-v1/freezer-subsystem.rst, cgroup-v2.rst
(cgroup.kill).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
_PASSES = 20
_PAUSE_S = 0.05


def kill_here(container_id: str, *, shim: bool) -> str:
    """Thaw and SIGKILL every process of the container, and with `shim` its shim; what was done, in words, "" when
    nothing of it is visible here. For the PID namespace of the engine."""
    done = kill_processes([container_id])
    if shim:
        done += kill_shim(container_id)
    return ", ".join(done)


def kill_processes(container_ids: Iterable[str], root: Path = CGROUPS) -> list[str]:
    groups = groups_of(*container_ids, root=root)
    done = ["thawed its control group"] if _thaw(groups) else []
    killed: set[int] = set()
    for _ in range(_PASSES):  # one that forks meanwhile is seen in the next pass
        _kill_groups(groups)
        found = {pid for group in groups for pid in _pids(group)}
        if not found:
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= found
        time.sleep(_PAUSE_S)
    if killed:
        done.append(f"killed {'process' if len(killed) == 1 else 'processes'} {_some(killed)}")
    return done


def kill_shim(container_id: str, proc: Path = _PROC) -> list[str]:
    """The process between engine and container: containerd-shim-runc-v2 -namespace moby -id <container id> ..."""
    done = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue  # it ended
        if "containerd-shim" in words[0] and container_id in words:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry.name), signal.SIGKILL)
                done.append(f"killed its shim, process {entry.name}")
    return done


def groups_of(*container_ids: str, root: Path = CGROUPS) -> list[Path]:
    """The containers' control groups in every hierarchy, wherever their engine has put them."""
    names = {name for i in container_ids for name in (i, f"docker-{i}.scope", f"cri-containerd-{i}.scope")}
    found = []
    for top, directories, _ in os.walk(root):
        for name in names.intersection(directories):
            found.append(Path(top, name))
            directories.remove(name)
    return sorted(found)


def _thaw(groups: list[Path]) -> bool:
    thawed = False
    for group in groups:
        for file, thawed_state in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with contextlib.suppress(OSError):  # a hierarchy has one of the files, or none
                if (group / file).read_text().strip() != thawed_state:
                    (group / file).write_text(thawed_state)
                    thawed = True
    return thawed


def _kill_groups(groups: list[Path]) -> None:
    """Version 2 kills a whole group at once, also from another PID namespace."""
    for group in groups:
        if (group / "cgroup.kill").exists():
            with contextlib.suppress(OSError):
                (group / "cgroup.kill").write_text("1")


def _pids(group: Path) -> set[int]:
    """Those that are visible from this PID namespace."""
    with contextlib.suppress(OSError):
        return {int(line) for line in (group / "cgroup.procs").read_text().split() if int(line) > 0}
    return set()


def _some(pids: set[int]) -> str:
    shown = [str(pid) for pid in sorted(pids)[:5]]
    return ", ".join(shown) + (" and more" if len(pids) > 5 else "")
