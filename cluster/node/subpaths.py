"""subPaths: parts of a volume, bound so that no container can make them something else.

IO: directories and mounts of this mount namespace. Blocking; call from a thread.

A container may put a link in the place of a directory of its volume at any time. Between our look at a path and the
engine's, that would bind any directory of the machine into it (CVE-2017-1002101, CVE-2021-25741). So:

    1. links are followed once, and what they lead to must lie in the volume
    2. that path is walked from the volume's root by descriptors, no link followed; what is absent is made on the way
    3. what the last descriptor holds is bound below the pod's directory, where containers see nothing
    4. the engine gets that place: <pod>/volume-subpaths/<container>/<which of its mounts>

Source: Kubernetes pkg/volume/util/subpath/subpath_linux.go.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from cluster.node import mounts
from cluster.node.pod_env import ConfigError

DIRECTORY = "volume-subpaths"
Bind = Callable[[str, str], None]


def bind_subpath(volume: str, source: str, target: Path, bind: Bind = mounts.bind) -> str:
    """`source`, a path in `volume`, bound at `target`, which is returned. Made a directory where it is absent.

    Repeatable: a later bind takes the place of an earlier one. Raises ConfigError.
    """
    sub = source[len(volume) :].lstrip("/")
    try:
        reached = reach(volume, source)
        try:
            _make_place(target, directory=stat.S_ISDIR(os.fstat(reached).st_mode))
            bind(f"/proc/self/fd/{reached}", str(target))
        finally:
            os.close(reached)
    except OSError as err:
        raise ConfigError(f"failed to prepare subPath {sub!r}: {err.strerror or err}") from err
    return str(target)


def reach(volume: str, source: str) -> int:
    """A descriptor (O_PATH) of what `source` is. Raises ConfigError when it leads out of the volume, OSError."""
    root, real = os.path.realpath(volume), os.path.realpath(source)
    if real != root and not real.startswith(f"{root.rstrip('/')}/"):
        raise ConfigError(f"subPath {source[len(volume) :].lstrip('/')!r} leads out of the volume")
    at = os.open(root, os.O_PATH | os.O_CLOEXEC)
    model = os.fstat(at)
    for name in Path(real).relative_to(root).parts:
        try:
            below = _step(at, name, model)
        finally:
            os.close(at)
        at = below
    return at


def _step(at: int, name: str, model: os.stat_result) -> int:
    """One name further; a directory that is absent is made with the mode and owner of the volume, as far as its file
    system has such (vfat, NFS that squashes root): where it has not, what it gives is what there is."""
    try:
        return _open(at, name)
    except FileNotFoundError:
        pass
    try:
        os.mkdir(name, 0o700, dir_fd=at)
    except FileExistsError:
        return _open(at, name)  # another container of the pod was first
    made = _open(at, name)
    try:
        with contextlib.suppress(PermissionError):
            os.chmod(f"/proc/self/fd/{made}", stat.S_IMODE(model.st_mode))
        with contextlib.suppress(PermissionError):
            os.chown(f"/proc/self/fd/{made}", model.st_uid, model.st_gid)
    except BaseException:
        os.close(made)
        raise
    return made


def _open(at: int, name: str) -> int:
    below = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    if stat.S_ISLNK(os.fstat(below).st_mode):  # it was none when links were followed
        os.close(below)
        raise OSError(errno.ELOOP, "it was replaced by a link meanwhile")
    return below


def _make_place(target: Path, *, directory: bool) -> None:
    """An empty directory or file to bind over; what is bound there is let go (who runs on it keeps it)."""
    _let_go(target)
    if target.is_dir() != directory and target.exists():
        target.rmdir() if target.is_dir() else target.unlink()
    (target if directory else target.parent).mkdir(parents=True, exist_ok=True)
    if not directory:
        target.touch()


def _let_go(target: Path) -> None:
    while True:
        try:
            mounts.unmount(str(target), lazy=True)
        except OSError as err:
            if err.errno in (errno.EINVAL, errno.ENOENT):  # nothing is mounted there
                return
            raise
