"""What hostPath.type asks for: made, or checked to be there. Blocking; IO: the machine's files."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from cluster.node.volume_device import VolumeFailure

_HOST_PATH_CHECKS: dict[str, tuple[Callable[[int], bool], str]] = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a file"),
    "Socket": (stat.S_ISSOCK, "a socket"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}


def check_host_path(path: str, kind: str) -> None:
    """Make or check what hostPath.type asks for. Raises VolumeFailure."""
    target = Path(path)
    if kind == "DirectoryOrCreate":
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
        kind = "Directory"
    elif kind == "FileOrCreate":
        if not target.exists():
            target.touch(mode=0o644)
        kind = "File"
    if kind == "":
        if not target.exists():
            target.mkdir(parents=True)  # the engine binds only what is there
        return
    if kind not in _HOST_PATH_CHECKS:
        raise VolumeFailure(f"hostPath type {kind} is unknown")
    check, what = _HOST_PATH_CHECKS[kind]
    if not target.exists() or not check(target.stat().st_mode):
        raise VolumeFailure(f"hostPath type check failed: {path} is not {what}")
