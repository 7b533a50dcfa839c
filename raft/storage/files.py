"""Durable file operations shared by WAL, snapshots and identity. IO, blocking.

Source: fsync(2), rename(2): a new or renamed file survives a power cut only after its directory is fsynced too.
"""

from __future__ import annotations

import os
from pathlib import Path


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Create it (0700) and make the creation durable. Parents must exist."""
    if not path.is_dir():
        path.mkdir(mode=0o700)
        sync_directory(path.parent)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """os.write until everything is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace_durably(temporary: Path, final: Path) -> None:
    """Atomic rename, then fsync of the directory. ``temporary`` must be fsynced already."""
    os.replace(temporary, final)
    sync_directory(final.parent)
