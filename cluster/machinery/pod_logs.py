"""Where pods' log files are on a machine, and how they go.

IO: files, blocking and fast. The kubelet writes and removes them (cluster/node/log_files.py); whoever removes a machine
or a cluster removes what a kubelet that is no more has left. Local machines share their box's directories: what is
whose is told by the uids of the pods.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

POD_LOGS = Path("/var/log/pods")
CONTAINER_LOGS = Path("/var/log/containers")


def remove_pod_logs(uid: str, pods: Path = POD_LOGS, containers: Path = CONTAINER_LOGS) -> None:
    """A pod's directory and the links into it, by uid alone: its object may be no more."""
    for directory in pods.glob(f"*_{uid}"):
        inside = f"{directory}/"
        for link in containers.glob("*.log"):
            if _target(link).startswith(inside):
                link.unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)


def _target(link: Path) -> str:
    """Where it leads; "" for what is no link, or is gone by now: other pods' links go at the same time."""
    try:
        return os.readlink(link)
    except OSError:
        return ""


def remove_machine_logs(kubelet_dir: Path, pods: Path = POD_LOGS, containers: Path = CONTAINER_LOGS) -> None:
    """Those of all pods that a kubelet's directory still knows."""
    for pod in (kubelet_dir / "pods").glob("*"):
        remove_pod_logs(pod.name, pods, containers)
