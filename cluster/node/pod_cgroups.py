"""Making, changing and removing the pods' control groups, version 1 and version 2.

IO: files and directories under /sys/fs/cgroup; blocking, microseconds each. What is written is decided in cgroup_plan.
A container's group is the engine's business: it makes it inside its pod's, in every hierarchy, so a pod's groups are
removed from all of them. Source: Linux' Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

from cluster.node.cgroup_plan import TIERS, Limits, files_v1, files_v2, pod_group, pod_path, tier_groups

log = logging.getLogger(__name__)
Obj = dict[str, Any]
_CONTROLLERS = ("cpu", "memory", "pids")
_POD = "pod"


class PodCgroups:
    """`root`: the path of the pods' group (cgroup_plan.pods_root), "" for none: then nothing is done anywhere."""

    def __init__(self, root: str, *, max_pids: int = -1, base: Path = Path("/sys/fs/cgroup")) -> None:
        self._root = root
        self._max_pids = max_pids
        self._base = base
        self._pods: dict[str, Obj] = {}
        self._unified = (base / "cgroup.controllers").exists()

    def disable(self) -> None:
        """Leave it to the engine where containers are."""
        self._root = ""

    def start(self, node: Limits) -> None:
        """Make the groups that hold the pods'. Without the right to do so pods get none, and that is logged."""
        if not self._root:
            return
        try:
            ancestor = ""
            for part in self._root.strip("/").split("/"):
                ancestor += f"/{part}"
                self._make(ancestor, node if ancestor == self._root else Limits(cpu_shares=node.cpu_shares))
            for tier in filter(None, TIERS.values()):
                self._make(f"{self._root}/{tier}", Limits())
        except OSError as err:
            log.warning("pods get no control groups of their own: %s", err)
            self._root = ""

    def path(self, pod: Obj) -> str:
        """The group to run a pod's containers in, "" for the engine's own choice."""
        return pod_path(self._root, pod) if self._root else ""

    def apply(self, pod: Obj) -> None:
        """Make the pod's group, or bring it and the shares of the tiers up to date. Raises OSError."""
        if self._root:
            self._pods[pod["metadata"]["uid"]] = pod
            self._make(pod_path(self._root, pod), pod_group(pod, self._max_pids))
            self._share()

    def _share(self) -> None:
        """Also makes the tiers again where somebody removed them: empty groups are anybody's to clear away."""
        for tier, limits in tier_groups(list(self._pods.values())).items():
            self._make(f"{self._root}/{tier}", limits)

    def remove(self, uid: str) -> None:
        """After the pod's last container ended; one that is absent is no failure. Raises OSError while it is busy."""
        for directory in self._of_pod(uid):
            _remove_below(directory)
        if self._pods.pop(uid, None) is not None:
            self._share()

    def known(self) -> list[str]:
        """The uids that have a group."""
        parents = [p for hierarchy in self._hierarchies() for p in self._parents(hierarchy)]
        found = {name for p in parents if p.is_dir() for name in os.listdir(p) if name.startswith(_POD)}
        return sorted(name.removeprefix(_POD) for name in found)

    # ------------------------------------------------------------ files

    def _hierarchies(self) -> list[Path]:
        """Version 1 mounts each controller by itself, and the engine uses more of them than we do."""
        if self._unified:
            return [self._base]
        return sorted(p for p in self._base.iterdir() if p.is_dir() and not p.is_symlink()) if self._root else []

    def _parents(self, hierarchy: Path) -> list[Path]:
        top = hierarchy / self._root.strip("/")
        return [top / tier if tier else top for tier in TIERS.values()]

    def _of_pod(self, uid: str) -> list[Path]:
        if not self._root:
            return []
        places = [parent / f"{_POD}{uid}" for hierarchy in self._hierarchies() for parent in self._parents(hierarchy)]
        return [p for p in places if p.is_dir()]

    def _make(self, path: str, limits: Limits) -> None:
        relative = path.strip("/")
        if self._unified:
            parent = self._base
            for part in relative.split("/"):
                _enable(parent)
                parent = parent / part
                parent.mkdir(exist_ok=True)
        else:
            for controller in _CONTROLLERS:
                (self._base / controller / relative).mkdir(parents=True, exist_ok=True)
        self._write(path, limits)

    def _write(self, path: str, limits: Limits) -> None:
        relative = path.strip("/")
        if self._unified:
            for file, content in files_v2(limits):
                (self._base / relative / file).write_text(content)
            return
        for controller, file, content in files_v1(limits):
            (self._base / controller / relative / file).write_text(content)


def _enable(group: Path) -> None:
    """Version 2 gives controllers only to children of a group that passes them on."""
    there = (group / "cgroup.subtree_control").read_text().split()
    missing = [f"+{name}" for name in _CONTROLLERS if name not in there]
    if missing:
        (group / "cgroup.subtree_control").write_text(" ".join(missing))


def _remove_below(directory: Path) -> None:
    """Groups are removed as directories, the innermost first; the files in them cannot be."""
    for inner, _, _ in os.walk(directory, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(inner)
