"""What is done to an attached disk: found, formatted if blank, mounted, bound, made larger.

Blocking; IO: devices, mounts. Invariants: a device with any content is never formatted; a raw device is never
formatted or mounted at all.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.api.volumes import EBS, DiskSource
from cluster.node import mounts

log = logging.getLogger(__name__)
_COMMAND_TIMEOUT_S = 300
_BY_ID = Path("/dev/disk/by-id")


class VolumeFailure(Exception):
    """A volume cannot be mounted now. `waiting`: nothing is wrong, another part of the cluster is still at it."""

    def __init__(self, message: str, *, waiting: bool = False) -> None:
        super().__init__(message)
        self.waiting = waiting


@dataclass(frozen=True, slots=True)
class BlockVolume:
    """A volume whose disk is attached to this machine as `device`."""

    pv_name: str
    source: DiskSource
    device: str
    options: str = ""


@dataclass(frozen=True, slots=True)
class RawDevice:
    """What a container gets of a volume in mode Block."""

    path: str
    read_only: bool


def found(volume: BlockVolume) -> BlockVolume:
    """With the device itself: the provider's path may be a link, and what it leads to now is what counts. Raises
    VolumeFailure."""
    path = volume.device
    if volume.source.driver == EBS and not os.path.exists(path):
        # NVMe devices have names of their own; the volume's id is their serial number (Amazon EBS and NVMe).
        path = str(_BY_ID / f"nvme-Amazon_Elastic_Block_Store_{volume.source.handle.replace('-', '')}")
    device = os.path.realpath(path)
    if volume.source.partition not in ("", "0"):
        device += ("p" if device[-1].isdigit() else "") + volume.source.partition
    try:
        mode = os.stat(device).st_mode
    except FileNotFoundError:
        why = f"device {volume.device} of volume {volume.pv_name} is not there yet"
        raise VolumeFailure(why, waiting=True) from None
    if not stat.S_ISBLK(mode):
        raise VolumeFailure(f"{device} of volume {volume.pv_name} is not a block device")
    return replace(volume, device=device)


def remember(volume: BlockVolume, directory: Path) -> None:
    """What a kubelet that starts again has to know of the volume."""
    directory.mkdir(parents=True, exist_ok=True)
    source = volume.source
    data = {"driverName": source.driver, "volumeHandle": source.handle, "uniqueName": source.unique_name}
    (directory / "vol_data.json").write_text(json.dumps(data))


def mount_device(volume: BlockVolume, directory: Path, *, grow: bool = False) -> None:
    """At `globalmount` of the directory; formatted first if it is blank. `grow`: the disk was made larger, and its file
    system, as long as it is not mounted, can be without asking the kernel. Raises VolumeFailure, OSError."""
    target = directory / "globalmount"
    target.mkdir(parents=True, exist_ok=True)
    if mounts.is_mounted(str(target)):
        return
    volume = found(volume)
    fstype = volume.source.fstype
    if fstype not in ("ext4", "ext3", "ext2"):
        raise VolumeFailure(f"fsType {fstype} of volume {volume.pv_name} is not supported by this kubelet: use ext4")
    if not _format_if_blank(volume) and grow:
        _checked_clean(volume)
        _checked("resize2fs", volume.device)
    remember(volume, directory)
    mounts.mount(volume.device, str(target), fstype, 0, volume.options)


def expose_device(volume: BlockVolume, directory: Path, uid: str) -> str:
    """The device's path, after noting that a pod has it: a link `devices/<uid>`, as the kubelet's global map. Raises
    VolumeFailure."""
    volume = found(volume)
    links = directory / "devices"
    links.mkdir(parents=True, exist_ok=True)
    remember(volume, directory)
    fresh = links / f".{uid}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(volume.device)
    fresh.replace(links / uid)
    return volume.device


def grow_file_system(volume: BlockVolume) -> bool:
    """To the size of its device, while it is mounted; nothing to do is fine (resize2fs(8)). False: the kernel lets
    nobody do that here (it takes CAP_SYS_RESOURCE, which a box in a container may lack). Raises VolumeFailure."""
    device = found(volume).device
    done = _run("resize2fs", device)
    if done.returncode != 0 and "Permission denied to resize" in done.stderr:
        return False
    if done.returncode != 0:
        raise VolumeFailure(f"resize2fs {device} ended with {done.returncode}: {done.stderr.strip()}")
    return True


def bind(source: str, target: str, read_only: bool) -> None:
    if mounts.is_mounted(target):
        return
    os.makedirs(target, mode=0o750, exist_ok=True)
    mounts.bind(source, target, read_only=read_only)


def unmount_bind(target: str) -> str:
    """The device (major:minor) that was bound there, "" for none."""
    real = os.path.realpath(target)
    devices = [e.device for e in mounts.mounted() if e.target == real]
    for _ in devices:
        mounts.unmount(target)
    return devices[0] if devices else ""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)


def _checked(*command: str) -> None:
    done = _run(*command)
    if done.returncode != 0:
        raise VolumeFailure(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")


def _checked_clean(volume: BlockVolume) -> None:
    """resize2fs(8) takes an unmounted file system only right after a full check."""
    repair = _run("fsck", "-a", "-f", volume.device)
    if repair.returncode & ~3:  # 1, 2: errors were corrected (fsck(8))
        raise VolumeFailure(f"fsck -f {volume.device} ended with {repair.returncode}: {repair.stdout.strip()}")


def _format_if_blank(volume: BlockVolume) -> bool:
    """Whether it was."""
    device, fstype = volume.device, volume.source.fstype
    probe = _run("blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", device)
    if probe.returncode == 0:
        repair = _run("fsck", "-a", device)
        if repair.returncode & 4:  # errors left uncorrected (fsck(8))
            raise VolumeFailure(f"fsck found errors on {device} that it could not correct: {repair.stdout.strip()}")
        return False
    if probe.returncode != 2:  # 2: nothing was identified (blkid(8))
        raise VolumeFailure(f"blkid {device} ended with {probe.returncode}: {probe.stderr.strip()}")
    log.info("formatting the blank device %s as %s", device, fstype)
    _checked(f"mkfs.{fstype}", "-q", "-F", "-m0", device)
    return True
