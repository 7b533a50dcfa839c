"""Mounts that machines must see and hosts must clean up: shared directories, the mount table, orderly unmounting.

IO (mount(2), proc_pid_mountinfo(5), mount_namespaces(7)). A machine has a mount namespace of its own, copied from the
host's with propagation unchanged. Under a *shared* mount the two stay peers: what kubelets mount on volumes is seen by
the container engine on the host, and network namespaces that the engine makes later are seen by the kubelets. On hosts
run by systemd `/` is shared already; elsewhere the directory is bound onto itself and that mount is made shared.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MS_RDONLY = 0x1
_MS_REMOUNT = 0x20
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_MS_SHARED = 1 << 20
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)
_proc_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo; `shared`: it belongs to a peer group."""

    id: int
    parent: int
    device: str
    root: str
    path: Path
    shared: bool
    kind: str
    source: str


def parse_mountinfo(text: str) -> list[Mount]:
    """In mount order; octal escapes of blanks in paths are undone."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        shared = any(f.startswith("shared:") for f in fields[6:])
        path = Path(_unescape(fields[4]))
        found.append(
            Mount(
                *(int(fields[0]), int(fields[1]), fields[2], _unescape(fields[3])),
                *(path, shared, tail[0], _unescape(tail[1])),
            )
        )
    return found


def _unescape(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def mounts() -> list[Mount]:
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


def mount_of(path: Path, table: Sequence[Mount]) -> Mount | None:
    """The mount that `path` is on: the deepest one above it, the latest where several are stacked."""
    best: Mount | None = None
    for mount in table:
        inside = path == mount.path or mount.path in path.parents
        if inside and (best is None or len(mount.path.parts) >= len(best.path.parts)):
            best = mount
    return best


def mounts_below(path: Path, table: Sequence[Mount]) -> list[Mount]:
    """Mounts strictly inside `path`, deepest and latest first: the order to unmount them in."""
    inside = [m for m in table[::-1] if path in m.path.parents]
    return sorted(inside, key=lambda m: -len(m.path.parts))


def is_self_bind(mount: Mount, table: Sequence[Mount]) -> bool:
    """A directory bound onto itself, as `share` does it; a disk that somebody mounted on that directory is none."""
    parent = next((m for m in table if m.id == mount.parent), None)
    if parent is None or parent.device != mount.device or not mount.path.is_relative_to(parent.path):
        return False
    return Path(mount.root) == Path(parent.root) / mount.path.relative_to(parent.path)


def users_of(device: str) -> list[Path]:
    """Where a block device is mounted."""
    return [m.path for m in mounts() if m.source == device]


# -- acting ----------------------------------------------------------------------------------------------------------
def share(path: Path) -> bool:
    """Makes mounts under `path` travel between host and machines. False when they do already."""
    path.mkdir(parents=True, exist_ok=True)
    on = mount_of(path, mounts())
    if on is not None and on.shared:
        return False
    lower = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        names = [m.path.name for m in mounts_below(path, mounts()) if m.path.parent == path]
        _mount(str(path), str(path), _MS_BIND | _MS_REC)
        _mount("none", str(path), _MS_SHARED | _MS_REC)
        for name in names:  # what was mounted here lives on in the copy; the hidden original would never be let go
            _unmount(f"/proc/self/fd/{lower}/{name}", _MNT_DETACH)
    finally:
        os.close(lower)
    return True


def unshare(path: Path) -> None:
    """Undoes `share` if it was done: removes the bind, putting mounts that others still use below it back in place.

    What else is mounted there (a disk for this very directory) stays.
    """
    while True:
        table = mounts()
        here = [m for m in table if m.path == path]
        if not here or not is_self_bind(here[-1], table):
            return
        below = [m for m in mounts_below(path, table) if m.path.parent == path]
        kept = [(m.path, os.open(m.path, os.O_RDONLY | os.O_CLOEXEC)) for m in below if m.kind == "nsfs"]
        try:
            for mount in mounts_below(path, table):
                _unmount(str(mount.path), _MNT_DETACH)
            _unmount(str(path), _MNT_DETACH)
            for where, fd in kept:
                if where.exists():
                    _mount(f"/proc/self/fd/{fd}", str(where), _MS_BIND)
        finally:
            for _, fd in kept:
                os.close(fd)


def keep_proc(path: Path) -> None:
    """The box's /proc at `path` as well, read-only: machines cover /proc with their own. Idempotent, also from several
    threads: machines start side by side.

    It lies on a private mount, so that namespaces that share `/` with this one (another cluster's machines) get no
    copy of it: read-only is this one mount alone.
    """
    with _proc_lock:
        path.mkdir(parents=True, exist_ok=True)
        try:
            if not any(m.path == path and m.kind == "proc" for m in mounts()):
                _unmount_all(path)  # what one that was killed half way left
                for source in (str(path), "/proc"):
                    _mount(source, str(path), _MS_BIND)
                    _mount("none", str(path), _MS_PRIVATE)
            _mount("none", str(path), _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
        except OSError:
            _unmount_all(path)
            raise


def drop_proc(path: Path) -> None:
    """Undoes `keep_proc`, if it was done."""
    with _proc_lock:
        _unmount_all(path)
        if path.is_dir():
            path.rmdir()


def _unmount_all(path: Path) -> None:
    """Whatever is stacked on `path` itself."""
    for _ in [m for m in mounts() if m.path == path]:
        _unmount(str(path), _MNT_DETACH)


def unmount_below(path: Path) -> list[Path]:
    """Unmounts everything inside `path`, deepest first; says what. Lazily: a dead machine's files may still be open."""
    done = []
    for mount in mounts_below(path, mounts()):
        _unmount(str(mount.path), _MNT_DETACH)
        done.append(mount.path)
    return done


def _mount(source: str, target: str, flags: int) -> None:
    if _libc.mount(source.encode(), os.fsencode(target), b"none", ctypes.c_ulong(flags), None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {source} on {target}: {os.strerror(code)}")


def _unmount(target: str, flags: int) -> None:
    if _libc.umount2(os.fsencode(target), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unmount {target}: {os.strerror(code)}")
