"""The control groups that a machine's pods leave behind.

IO (cgroups(7)): directories under /sys/fs/cgroup. A machine that lost power took no leave; its kubelet's groups are
empty once its containers are gone, and are removed with it. One that is still busy stays: the machine's next kubelet
uses it again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_BASE = Path("/sys/fs/cgroup")


def remove_empty(name: str, base: Path = _BASE) -> None:
    """Of the group `name` in every hierarchy, version 1 and 2. Blocking."""
    for top in (base / name, *base.glob(f"*/{name}")):
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
