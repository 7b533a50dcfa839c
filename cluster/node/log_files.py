"""Containers' log files where log shippers look for them, and their rotation.

IO: files, blocking and fast. The layout is the kubelet's:

    <pods>/<namespace>_<pod>_<uid>/<container>/<attempt>.log          what is being written
    <pods>/<namespace>_<pod>_<uid>/<container>/<attempt>.log.<time>   rotated; all but the newest of them as .gz
    <containers>/<pod>_<namespace>_<container>-<container id>.log     a link to the first

Whoever writes a file (the runtime) is told to open it anew after it was renamed.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from cluster.api.quantity import parse_quantity
from cluster.machinery.pod_logs import remove_pod_logs
from cluster.node.config import KubeletConfig
from cluster.node.runtime import PodRef

_STAMP = "%Y%m%d-%H%M%S"


@dataclass(frozen=True, slots=True)
class LogFiles:
    """`max_bytes` and `max_files` per container, the one being written among them (containerLogMaxSize, -MaxFiles)."""

    pods: Path
    containers: Path
    max_bytes: int = 10 << 20
    max_files: int = 5

    @classmethod
    def of(cls, config: KubeletConfig) -> LogFiles:
        max_bytes = int(parse_quantity(config.container_log_max_size))
        return cls(
            Path(config.pod_logs_dir), Path(config.container_logs_dir), max_bytes, config.container_log_max_files
        )

    def pod_dir(self, pod: PodRef) -> Path:
        return self.pods / f"{pod.namespace}_{pod.name}_{pod.uid}"

    def path(self, pod: PodRef, container: str, attempt: int) -> Path:
        return self.pod_dir(pod) / container / f"{attempt}.log"

    def prepare(self, pod: PodRef, container: str) -> None:
        (self.pod_dir(pod) / container).mkdir(parents=True, exist_ok=True)

    def link(self, path: str, pod: PodRef, container: str, container_id: str) -> None:
        """Name a container's file in the one directory that holds all of them; repeatable."""
        self.containers.mkdir(parents=True, exist_ok=True)
        name = self._link(pod, container, container_id)
        with contextlib.suppress(FileExistsError):
            name.symlink_to(path)

    def _link(self, pod: PodRef, container: str, container_id: str) -> Path:
        """A file's name holds 255 bytes: what is too long is cut at the end of the names, before the id."""
        tail = f"-{container_id}.log"
        return self.containers / (f"{pod.name}_{pod.namespace}_{container}"[: 255 - len(tail)] + tail)

    def remove_run(self, path: str, pod: PodRef, container: str, container_id: str) -> None:
        """What one run of a container left."""
        self._link(pod, container, container_id).unlink(missing_ok=True)
        for file in (Path(path), *_rotated(Path(path))):
            file.unlink(missing_ok=True)

    def remove_pod(self, uid: str) -> None:
        """All of a pod."""
        remove_pod_logs(uid, self.pods, self.containers)

    def needs_rotation(self, path: str) -> bool:
        try:
            return self.max_bytes > 0 and os.stat(path).st_size > self.max_bytes
        except FileNotFoundError:
            return False

    def rotate(self, path: str, now: float) -> Path:
        """Rename the file, and return its new name; then its writer is to open a new one. Older ones are compressed,
        the oldest removed.
        """
        file = Path(path)
        older = _rotated(file)
        keep = max(self.max_files - 2, 0)  # besides the new file and the one that is being renamed
        for old in older[: len(older) - keep] if len(older) > keep else ():
            old.unlink(missing_ok=True)
        for old in _rotated(file):
            if old.suffix != ".gz":
                _compress(old)
        return file.rename(_free_name(file, now))

    def restore(self, rotated: Path, path: str) -> None:
        """Undo a rotation whose writer did not open a new file; one that it did open after all is never replaced."""
        with contextlib.suppress(FileExistsError):
            os.link(rotated, path)
            rotated.unlink()


def _rotated(file: Path) -> list[Path]:
    """The oldest first: their names end in their times."""
    return sorted(f for f in file.parent.glob(f"{file.name}.*") if not f.name.endswith(".tmp"))


def _free_name(file: Path, now: float) -> Path:
    """By the time, or by the next second that no earlier rotation has: the order of names stays that of rotations."""
    while True:
        name = file.with_name(f"{file.name}.{time.strftime(_STAMP, time.gmtime(now))}")
        if not name.exists() and not name.with_name(f"{name.name}.gz").exists():
            return name
        now += 1


def _compress(file: Path) -> None:
    packed = file.with_name(f"{file.name}.gz.tmp")
    with file.open("rb") as source, gzip.open(packed, "wb", compresslevel=4) as target:
        shutil.copyfileobj(source, target)
    packed.rename(file.with_name(f"{file.name}.gz"))
    file.unlink(missing_ok=True)
