"""What a container uses, read from its control group: version 1 and version 2.

IO: a few small files under /sys/fs/cgroup; microseconds, so a whole machine is read in one go. Where the engine puts a
container depends on its cgroup driver: `<parent>/<id>` (cgroupfs) or `<slice>/docker-<id>.scope` (systemd). Source:
Linux' Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst; the working set is usage less inactive file
pages, as cAdvisor counts it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.node.runtime import Usage

_ROOT = Path("/sys/fs/cgroup")
_PARENTS = ("docker", "system.slice", "")


class Cgroups:
    """`usage(id)` for containers of this box's engine. `pods`: the group that holds the pods' ("" for none), below
    which a container's is `[<qos>/]pod<uid>/<id>`; it is tried before the engine's defaults.
    """

    def __init__(self, clock: Callable[[], float], root: Path = _ROOT, pods: str = "") -> None:
        self._clock = clock
        self._root = root
        self._pods = pods.strip("/")
        self._unified = (root / "cgroup.controllers").exists()
        self._found: dict[str, str] = {}  # container id -> its group, relative to a hierarchy

    def usage(self, container_id: str) -> Usage | None:
        """None where there is no such group (the container ended, or its engine is not of this box)."""
        try:
            return self._v2(container_id) if self._unified else self._v1(container_id)
        except (OSError, ValueError, KeyError):
            self._found.pop(container_id, None)
            return None

    def _group(self, base: Path, container_id: str) -> Path:
        if container_id not in self._found:
            self._found[container_id] = self._search(base, container_id)
        return base / self._found[container_id]

    def _search(self, base: Path, container_id: str) -> str:
        """The pods' groups are found by looking: a container does not know whose it is."""
        names = (container_id, f"docker-{container_id}.scope")
        places = [base / parent / name for parent in _PARENTS for name in names]
        if self._pods:
            places = [
                *(base / self._pods).glob(f"pod*/{container_id}"),
                *(base / self._pods).glob(f"*/pod*/{container_id}"),
                *places,
            ]
        for path in places:
            if path.is_dir():
                return str(path.relative_to(base))
        raise FileNotFoundError(container_id)

    def _v1(self, container_id: str) -> Usage:
        memory = self._group(self._root / "memory", container_id)
        cpu = self._group(self._root / "cpuacct", container_id)
        used, stat = _number(memory / "memory.usage_in_bytes"), _table(memory / "memory.stat")
        return Usage(
            at=self._clock(),
            cpu_ns=_number(cpu / "cpuacct.usage"),
            memory_bytes=used,
            working_set_bytes=max(used - stat["total_inactive_file"], 0),
            rss_bytes=stat["total_rss"],
            page_faults=stat["total_pgfault"],
            major_page_faults=stat["total_pgmajfault"],
            processes=_processes(self._group(self._root / "pids", container_id)),
        )

    def _v2(self, container_id: str) -> Usage:
        group = self._group(self._root, container_id)
        used, stat = _number(group / "memory.current"), _table(group / "memory.stat")
        return Usage(
            at=self._clock(),
            cpu_ns=_table(group / "cpu.stat")["usage_usec"] * 1000,
            memory_bytes=used,
            working_set_bytes=max(used - stat["inactive_file"], 0),
            rss_bytes=stat["anon"],
            page_faults=stat["pgfault"],
            major_page_faults=stat["pgmajfault"],
            processes=_processes(group),
        )


def _processes(group: Path) -> int:
    """0 where the kernel has no pids controller."""
    try:
        return _number(group / "pids.current")
    except OSError:
        return 0


def _number(path: Path) -> int:
    return int(path.read_text())


def _table(path: Path) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in path.read_text().splitlines())}
