"""Disks that the cluster attached to this machine, or that are its own, and which pods have them: directories, or
devices.

IO: Client, devices, mounts. The order is CSI's: attached (VolumeAttachment) > format if blank > mount once at a
global path > bind into each pod; a raw device is noted for each pod instead. Invariants: the volume is reported in
node.status.volumesInUse before its first use and until after its last (a device of the machine's own is not: nobody
would take it away); it is let go of with its last pod (known from the mount table and the links, so a restarted kubelet
knows it too).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cluster.api.errors import ApiError
from cluster.api.volumes import DISK_DRIVERS, LOCAL_DEVICE, DiskSource, disk_source, local_device
from cluster.machinery.client import Client, is_not_found
from cluster.node import mounts
from cluster.node import volume_device as devices
from cluster.node.volume_device import BlockVolume, RawDevice, VolumeFailure

Obj = dict[str, Any]
_OWN = DiskSource(LOCAL_DEVICE, "").unique_name


class BlockVolumes:
    """`report_in_use` is awaited when the set of volumes in use changed; it returns once the API knows."""

    def __init__(
        self, client: Client, node: str, root: str, report_in_use: Callable[[list[str]], Awaitable[None]]
    ) -> None:
        self._client = client
        self._node = node
        self._plugins = Path(root) / "plugins" / "kubernetes.io" / "csi"
        self._pods = os.path.realpath(Path(root) / "pods")
        self._report_in_use = report_in_use
        self._in_use: dict[str, Path] = {}  # unique name -> global directory
        self._locks: dict[str, asyncio.Lock] = {}

    @property
    def in_use(self) -> list[str]:
        """What was attached, for the Node's status."""
        return sorted(name for name in self._in_use if not name.startswith(_OWN))

    def recover(self) -> None:
        """Learn from the disk what an earlier kubelet had in use. Blocking."""
        for driver in (*DISK_DRIVERS, LOCAL_DEVICE):
            for directory in sorted(self._plugins.joinpath(driver).glob("*")):
                if mounts.is_mounted(str(directory / "globalmount")) or _pods_with(directory):
                    data = json.loads((directory / "vol_data.json").read_text())
                    self._in_use[data["uniqueName"]] = directory

    async def mount(self, volume: Obj, target: str, *, read_only: bool, alone: bool, grow: bool) -> None:
        """Mount a PersistentVolume at `target`. `alone`: refuse while another pod has it (ReadWriteOncePod); `grow`:
        its disk was made larger. Idempotent. Raises VolumeFailure."""
        disk = _own_device(volume) if "local" in volume["spec"] else await self._attached(volume)
        directory = self._directory(disk.source)
        async with self._lock(directory):
            if alone and await asyncio.to_thread(self._bound_elsewhere, directory, target):
                raise VolumeFailure("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
            await self._use(disk.source, directory)
            await asyncio.to_thread(devices.mount_device, disk, directory, grow=grow)
            read_only = read_only or disk.source.read_only
            await asyncio.to_thread(devices.bind, str(directory / "globalmount"), target, read_only)

    async def expose(self, volume: Obj, uid: str, *, read_only: bool) -> RawDevice:
        """The device of a PersistentVolume in mode Block, for one pod. Idempotent. Raises VolumeFailure."""
        disk = await self._attached(volume)
        directory = self._directory(disk.source)
        async with self._lock(directory):
            await self._use(disk.source, directory)
            path = await asyncio.to_thread(devices.expose_device, disk, directory, uid)
        return RawDevice(path, read_only or disk.source.read_only)

    async def grow(self, volume: Obj) -> bool:
        """Make the file system of a mounted volume as large as its disk. False: it has to be unmounted for that here.
        Raises VolumeFailure."""
        disk = await self._attached(volume)
        async with self._lock(self._directory(disk.source)):
            return await asyncio.to_thread(devices.grow_file_system, disk)

    async def unmount(self, target: str) -> None:
        """Unmount a pod's bind, and the volume itself with its last pod. Idempotent. Raises OSError."""
        if await asyncio.to_thread(devices.unmount_bind, target):
            await self.sweep()

    async def withdraw(self, uid: str) -> None:
        """A pod that has ended has no device any more. Idempotent."""
        held = [d / "devices" / uid for d in self._in_use.values() if uid in _pods_with(d)]
        for link in held:
            link.unlink(missing_ok=True)
        if held:
            await self.sweep()

    async def sweep(self) -> None:
        """Let go of volumes that no pod of this machine has any more."""
        for name, directory in list(self._in_use.items()):
            async with self._lock(directory):
                if await asyncio.to_thread(self._release_if_unused, directory):
                    self._in_use.pop(name, None)
                    await self._report_in_use(self.in_use)

    async def _use(self, source: DiskSource, directory: Path) -> None:
        if source.unique_name not in self._in_use:
            self._in_use[source.unique_name] = directory
            await self._report_in_use(self.in_use)

    def _lock(self, directory: Path) -> asyncio.Lock:
        return self._locks.setdefault(directory.name, asyncio.Lock())

    def _directory(self, source: DiskSource) -> Path:
        return self._plugins / source.driver / hashlib.sha256(source.handle.encode()).hexdigest()

    def _bound_elsewhere(self, directory: Path, target: str) -> bool:
        """Whether a pod other than that of `target` has it. A pod's subPaths are binds of its own: they are there when
        its volume is mounted anew for a kubelet that was restarted."""
        uid = os.path.relpath(os.path.realpath(target), self._pods).partition("/")[0]
        return any(not bound.startswith(f"{self._pods}/{uid}/") for bound in self._binds(directory))

    def _binds(self, directory: Path) -> list[str]:
        """Where pods have what is mounted at the directory's global path."""
        table, path = mounts.mounted(), os.path.realpath(directory / "globalmount")
        here = {e.device for e in table if e.target == path}
        return [e.target for e in table if e.device in here and e.target.startswith(f"{self._pods}/")]

    def _release_if_unused(self, directory: Path) -> bool:
        if self._binds(directory) or _pods_with(directory):
            return False
        target = os.path.realpath(directory / "globalmount")
        for _ in [e for e in mounts.mounted() if e.target == target]:
            mounts.unmount(target)
        # Never a recursive removal here: whatever is still mounted would be emptied.
        (directory / "vol_data.json").unlink(missing_ok=True)
        for empty in (target, directory / "devices", directory):
            if os.path.isdir(empty):
                os.rmdir(empty)
        return True

    async def _attached(self, volume: Obj) -> BlockVolume:
        """Raises VolumeFailure while the disk is not attached to this machine."""
        name, source = volume["metadata"]["name"], disk_source(volume)
        if source is None:
            known = " and ".join(DISK_DRIVERS)
            why = f"only disks of {known}, local and hostPath volumes are supported by this kubelet"
            raise VolumeFailure(f'persistentvolume "{name}": {why}')
        device = await self._device(name, source.attachment_name(self._node))
        return BlockVolume(name, source, device, _options(volume))

    async def _device(self, pv_name: str, attachment_name: str) -> str:
        try:
            attachment = await self._client.get("volumeattachments.storage.k8s.io", attachment_name)
        except ApiError as err:
            # A machine has no relationship with an attachment that is not there, so its identity may not even read it.
            if not is_not_found(err) and err.code != 403:
                raise
            attachment = {}
        status = attachment.get("status") or {}
        if not status.get("attached"):
            why = (status.get("attachError") or {}).get("message", "")
            raise VolumeFailure(
                f'volume "{pv_name}" is not attached to this node yet{": " + why if why else ""}', waiting=True
            )
        device = (status.get("attachmentMetadata") or {}).get("devicePath", "")
        if not device:
            raise VolumeFailure(f'volumeattachment "{attachment_name}" has no devicePath in its attachmentMetadata')
        return str(device)


def _own_device(volume: Obj) -> BlockVolume:
    source = local_device(volume)
    return BlockVolume(volume["metadata"]["name"], source, source.handle, _options(volume))


def _options(volume: Obj) -> str:
    return ",".join(volume["spec"].get("mountOptions") or ())


def _pods_with(directory: Path) -> set[str]:
    """The uids of the pods that were given the device."""
    links = directory / "devices"
    return {p.name for p in links.iterdir() if not p.name.startswith(".")} if links.is_dir() else set()
