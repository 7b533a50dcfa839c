"""Mounting: the system calls and the table of what is mounted.

IO: mount(2), umount2(2) and /proc/self/mountinfo of the calling process' mount namespace. Blocking; call from a thread.
Paths in mountinfo are octal-escaped (proc(5)).
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    device: str  # major:minor
    root: str
    target: str
    fstype: str
    source: str


def mount(source: str, target: str, fstype: str, flags: int = 0, options: str = "") -> None:
    """Raises OSError naming the target."""
    code = _libc.mount(source.encode(), target.encode(), fstype.encode(), ctypes.c_ulong(flags), options.encode())
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {source} as {fstype or 'bind'}: {os.strerror(number)}", target)


def unmount(target: str, *, lazy: bool = False) -> None:
    if _libc.umount2(target.encode(), MNT_DETACH if lazy else 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unmounting: {os.strerror(number)}", target)


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    mount(source, target, "", MS_BIND)
    if read_only:
        mount(source, target, "", MS_BIND | MS_REMOUNT | MS_RDONLY)


def parse_mountinfo(text: str) -> list[MountEntry]:
    entries = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) < 6 or len(tail) < 2:
            continue
        entries.append(MountEntry(fields[2], _unescape(fields[3]), _unescape(fields[4]), tail[0], _unescape(tail[1])))
    return entries


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda m: chr(int(m.group(1), 8)), text)


def mounted() -> list[MountEntry]:
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text())


def is_mounted(target: str) -> bool:
    real = os.path.realpath(target)
    return any(entry.target == real for entry in mounted())


def below(directory: str) -> list[MountEntry]:
    """What is mounted at or under a directory, deepest last mounted first: the order to unmount in."""
    real = os.path.realpath(directory).rstrip("/")
    found = [e for e in mounted() if e.target == real or e.target.startswith(f"{real}/")]
    return list(reversed(found))
