"""How much a directory tree holds: blocks and inodes, as du(1) counts them.

IO, blocking; call from a thread. Files with several links count once, other file systems mounted below are left out,
and what vanishes while we look counts as nothing.
"""

from __future__ import annotations

import contextlib
import glob
import os

from cluster.node.runtime import ContainerDisk, DiskUse

_BLOCK = 512  # st_blocks counts these, whatever the file system's own block is


def tree(path: str) -> DiskUse:
    """Of `path` itself and everything below it; nothing where it is absent."""
    try:
        root = os.lstat(path)
    except OSError:
        return DiskUse()
    seen = {root.st_ino}
    blocks = root.st_blocks
    pending = [path] if os.path.isdir(path) else []
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    stat = entry.stat(follow_symlinks=False)
                    if stat.st_dev != root.st_dev or stat.st_ino in seen:
                        continue
                    seen.add(stat.st_ino)
                    blocks += stat.st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
    return DiskUse(blocks * _BLOCK, len(seen))


def container_disk(layer: str, log: str) -> ContainerDisk:
    """`layer`: the writable layer's directory; `log`: the log file, whose rotated ones lie beside it. "": none."""
    logs = DiskUse()
    for path in sorted(glob.glob(f"{glob.escape(log)}*")) if log else ():
        logs += tree(path)
    return ContainerDisk(tree(layer) if layer else DiskUse(), logs)
