"""Which file names this machine's network namespace for the container engine, and where it sees the engine's processes.

IO: /proc and /run/netns, once. A local machine lives in a named namespace of its box (`ip netns`); where no name fits,
the machine is the box itself, and the engine's own namespace is the machine's.
"""

from __future__ import annotations

import os
from pathlib import Path

_NAMED = Path("/run/netns")


def machine_netns(own: str = "/proc/self/ns/net", named: Path = _NAMED) -> str:
    """The path under /run/netns that is the same namespace as ours; "" when there is none."""
    mine = os.stat(own)
    for path in sorted(named.iterdir()) if named.is_dir() else ():
        try:
            found = path.stat()
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino):
            return str(path)
    return ""


def engine_proc(netns: str, kept: Path) -> str:
    """The procfs where the engine's process ids are true: the usual one, or on a local machine (it has a `netns`, and
    process ids of its own) the box's that was `kept` for it; "" where it was started without."""
    if not netns:
        return "/proc"
    return str(kept) if (kept / "1").exists() else ""
