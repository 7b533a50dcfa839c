"""PersistentVolumeClaims on `block.sk8.io`: a disk that the cluster attached to this machine becomes a directory.

IO: Client, block devices, mounts. The order is CSI's: attached (VolumeAttachment) > format if blank > mount once at a
global path > bind into each pod. Invariants: a device with any content is never formatted; the volume is reported in
node.status.volumesInUse before its first mount and until after its last unmount; the global mount goes with its last
pod (known from the mount table, so a restarted kubelet knows it too).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import stat
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.api.errors import ApiError
from cluster.machinery.client import Client, is_not_found
from cluster.node import mounts

log = logging.getLogger(__name__)
Obj = dict[str, Any]
DRIVER = "block.sk8.io"
_COMMAND_TIMEOUT_S = 300


class VolumeFailure(Exception):
    """A volume cannot be mounted now. `waiting`: nothing is wrong, another part of the cluster is still at it."""

    def __init__(self, message: str, *, waiting: bool = False) -> None:
        super().__init__(message)
        self.waiting = waiting


@dataclass(frozen=True, slots=True)
class BlockVolume:
    """A claim resolved to a volume attached to this machine."""

    pv_name: str
    handle: str
    device: str
    fstype: str
    read_only: bool
    options: str

    @property
    def unique_name(self) -> str:
        return f"kubernetes.io/csi/{DRIVER}^{self.handle}"


def attachment_name(handle: str, driver: str, node: str) -> str:
    """The name Kubernetes gives the VolumeAttachment of a CSI volume."""
    return "csi-" + hashlib.sha256(f"{handle}{driver}{node}".encode()).hexdigest()


class BlockVolumes:
    """`report_in_use` is awaited when the set of volumes in use changed; it returns once the API knows."""

    def __init__(
        self, client: Client, node: str, root: str, report_in_use: Callable[[list[str]], Awaitable[None]]
    ) -> None:
        self._client = client
        self._node = node
        self._plugins = Path(root) / "plugins" / "kubernetes.io" / "csi" / DRIVER
        self._pods = os.path.realpath(Path(root) / "pods")
        self._report_in_use = report_in_use
        self._in_use: dict[str, str] = {}  # unique name -> global directory
        self._locks: dict[str, asyncio.Lock] = {}

    @property
    def in_use(self) -> list[str]:
        return sorted(self._in_use)

    def recover(self) -> None:
        """Learn from the disk what an earlier kubelet had mounted. Blocking."""
        if not self._plugins.is_dir():
            return
        for directory in sorted(self._plugins.iterdir()):
            if mounts.is_mounted(str(directory / "globalmount")):
                data = json.loads((directory / "vol_data.json").read_text())
                self._in_use[data["uniqueName"]] = str(directory)

    async def mount(self, persistent_volume: Obj, target: str, *, read_only: bool) -> str:
        """Mount a volume at `target`; returns its name. Idempotent. Raises VolumeFailure."""
        volume = await self._resolve(persistent_volume)
        directory = self._directory(volume.handle)
        async with self._lock(directory):
            if volume.unique_name not in self._in_use:
                self._in_use[volume.unique_name] = str(directory)
                await self._report_in_use(self.in_use)
            await asyncio.to_thread(_mount_device, volume, directory)
            await asyncio.to_thread(_bind, str(directory / "globalmount"), target, read_only or volume.read_only)
        return volume.pv_name

    async def unmount(self, target: str) -> None:
        """Unmount a pod's bind, and the volume itself with its last pod. Idempotent. Raises OSError."""
        device = await asyncio.to_thread(_unmount_bind, target)
        if not device:
            return
        await self.sweep()

    async def sweep(self) -> None:
        """Unmount volumes that no pod of this machine binds any more."""
        for name, directory in list(self._in_use.items()):
            async with self._lock(Path(directory)):
                if await asyncio.to_thread(self._release_if_unused, directory):
                    self._in_use.pop(name, None)
                    await self._report_in_use(self.in_use)

    def _lock(self, directory: Path) -> asyncio.Lock:
        return self._locks.setdefault(directory.name, asyncio.Lock())

    def _directory(self, handle: str) -> Path:
        return self._plugins / hashlib.sha256(handle.encode()).hexdigest()

    def _release_if_unused(self, directory: str) -> bool:
        target = os.path.realpath(Path(directory) / "globalmount")
        table = mounts.mounted()
        devices = [e.device for e in table if e.target == target]
        if any(e.device in devices and e.target.startswith(f"{self._pods}/") for e in table):
            return False
        for _ in devices:
            mounts.unmount(target)
        # Never a recursive removal here: whatever is still mounted would be emptied.
        (Path(directory) / "vol_data.json").unlink(missing_ok=True)
        for empty in (target, directory):
            if os.path.isdir(empty):
                os.rmdir(empty)
        return True

    # ------------------------------------------------------------ from claim to device

    async def bound(self, namespace: str, claim: str) -> Obj:
        """The PersistentVolume of a claim. Raises VolumeFailure while there is none."""
        pvc = await self._get("persistentvolumeclaims", claim, namespace)
        if pvc is None:
            raise VolumeFailure(f'persistentvolumeclaim "{claim}" not found')
        name = (pvc.get("spec") or {}).get("volumeName")
        if not name or (pvc.get("status") or {}).get("phase") != "Bound":
            raise VolumeFailure(f'persistentvolumeclaim "{claim}" is not bound', waiting=True)
        volume = await self._get("persistentvolumes", name, "")
        if volume is None:
            raise VolumeFailure(f'persistentvolume "{name}" of claim "{claim}" not found')
        return volume

    async def _resolve(self, volume: Obj) -> BlockVolume:
        name, spec = volume["metadata"]["name"], volume["spec"]
        csi = spec.get("csi") or {}
        if csi.get("driver") != DRIVER:
            why = f"only the CSI driver {DRIVER}, local and hostPath volumes are supported by this kubelet"
            raise VolumeFailure(f'persistentvolume "{name}": {why}')
        if spec.get("volumeMode") == "Block":
            raise VolumeFailure(f'persistentvolume "{name}": volumeMode Block is not supported by this kubelet')
        device = await self._device(name, csi["volumeHandle"])
        return BlockVolume(
            pv_name=name,
            handle=csi["volumeHandle"],
            device=device,
            fstype=str(csi.get("fsType") or "ext4"),
            read_only=bool(csi.get("readOnly")),
            options=",".join(spec.get("mountOptions") or ()),
        )

    async def _device(self, pv_name: str, handle: str) -> str:
        wanted = attachment_name(handle, DRIVER, self._node)
        attachment = await self._get("volumeattachments.storage.k8s.io", wanted, "")
        status = (attachment or {}).get("status") or {}
        if not status.get("attached"):
            why = (status.get("attachError") or {}).get("message", "")
            raise VolumeFailure(
                f'volume "{pv_name}" is not attached to this node yet{": " + why if why else ""}', waiting=True
            )
        device = (status.get("attachmentMetadata") or {}).get("devicePath", "")
        if not device:
            raise VolumeFailure(f'volumeattachment "{wanted}" has no devicePath in its attachmentMetadata')
        return str(device)

    async def _get(self, resource: str, name: str, namespace: str) -> Obj | None:
        try:
            return await self._client.get(resource, name, namespace)
        except ApiError as err:
            if is_not_found(err):
                return None
            raise


# ---------------------------------------------------------------- blocking parts


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)


def _mount_device(volume: BlockVolume, directory: Path) -> None:
    target = directory / "globalmount"
    target.mkdir(parents=True, exist_ok=True)
    if mounts.is_mounted(str(target)):
        return
    # The provider's path may be a link; what it leads to now is what is looked at and mounted.
    volume = replace(volume, device=os.path.realpath(volume.device))
    try:
        mode = os.stat(volume.device).st_mode
    except FileNotFoundError:
        raise VolumeFailure(
            f"device {volume.device} of volume {volume.pv_name} is not there yet", waiting=True
        ) from None
    if not stat.S_ISBLK(mode):
        raise VolumeFailure(f"{volume.device} of volume {volume.pv_name} is not a block device")
    if volume.fstype not in ("ext4", "ext3", "ext2"):
        raise VolumeFailure(
            f"fsType {volume.fstype} of volume {volume.pv_name} is not supported by this kubelet: use ext4"
        )
    _format_if_blank(volume)
    data = {"driverName": DRIVER, "volumeHandle": volume.handle, "uniqueName": volume.unique_name}
    (directory / "vol_data.json").write_text(json.dumps(data))
    mounts.mount(volume.device, str(target), volume.fstype, 0, volume.options)


def _format_if_blank(volume: BlockVolume) -> None:
    probe = _run("blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", volume.device)
    if probe.returncode == 0:
        repair = _run("fsck", "-a", volume.device)
        if repair.returncode & 4:  # errors left uncorrected (fsck(8))
            raise VolumeFailure(
                f"fsck found errors on {volume.device} that it could not correct: {repair.stdout.strip()}"
            )
        return
    if probe.returncode != 2:  # 2: nothing was identified (blkid(8))
        raise VolumeFailure(f"blkid {volume.device} ended with {probe.returncode}: {probe.stderr.strip()}")
    log.info("formatting the blank device %s as %s", volume.device, volume.fstype)
    made = _run(f"mkfs.{volume.fstype}", "-q", "-F", "-m0", volume.device)
    if made.returncode != 0:
        raise VolumeFailure(f"mkfs.{volume.fstype} {volume.device} ended with {made.returncode}: {made.stderr.strip()}")


def _bind(source: str, target: str, read_only: bool) -> None:
    if mounts.is_mounted(target):
        return
    os.makedirs(target, mode=0o750, exist_ok=True)
    mounts.bind(source, target, read_only=read_only)


def _unmount_bind(target: str) -> str:
    """The device (major:minor) that was bound there, "" for none."""
    real = os.path.realpath(target)
    devices = [e.device for e in mounts.mounted() if e.target == real]
    for _ in devices:
        mounts.unmount(target)
    return devices[0] if devices else ""
